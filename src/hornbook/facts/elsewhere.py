"""What other trainers have that is no setting here, or one of another meaning: what there is in its place."""

from __future__ import annotations

_OUT = "--out names the folder that is written"
_DEVICE = (
    "the accelerator is used where there is one; in the environment, HORNBOOK_DEVICE=cpu takes the CPU instead, and "
    "CUDA_VISIBLE_DEVICES chooses among several GPUs"
)
_RESUME = "a run is resumed when --out names its folder, and --from MODEL starts from given weights"
_BATCH = "--batch counts the sequences of a step, --microbatch those computed at once"
_DATA = "the text is given by itself, without a flag: hornbook train FILE"
_TRACKER = "--log wandb or tensorboard copies the log to a tracker"
_LOGGED = "every step is logged, in metrics.jsonl of the run"
_DECAY = "the learning rate decays until the last step, as --schedule.name says; --decay-fraction is the share of wsd's"
_PRECISION = "--precision is float32 or bfloat16, by itself bfloat16 where the hardware supports it"
_HELD_OUT = "--split keeps a part of the text for validation, and folder:PATH names another text"
_SAVED = "a checkpoint is saved every --checkpoint.every steps and at the end"
_TASK = "hornbook train trains, hornbook evaluate MODEL TEXT scores"
_PROCESSES = "--processes says how many processes train together, --parallel how"
_READ = "the text is read and packed by threads of its own accord"
ELSEWHERE = {
    "resume": _RESUME, "init_from": _RESUME, "resume_from_checkpoint": _RESUME,
    "name": f"{_OUT}; of the settings there are --optimizer.name and --schedule.name",
    "out_dir": _OUT, "output_dir": _OUT, "run_name": _OUT,
    "device": _DEVICE, "devices": _DEVICE, "gpu": _DEVICE, "accelerator": _DEVICE,
    "min_lr": "--final-fraction is the learning rate at the end, as a share of the peak",
    "eval_iters": "--probe-tokens says how many tokens an evaluation scores",
    "vocab_size": "it is the tokenizer's, such as --tokenizer bpe:4096",
    "warmup_ratio": "--warmup-steps is the warm-up in steps", "optim": "--optimizer.name is adamw or muon",
    "eval_strategy": "--evaluate-every is in steps", "evaluation_strategy": "--evaluate-every is in steps",
    "bias": "the family gpt2 has biases, the others have none (--family)",
    "data_seed": "--seed is that of the weights, the order of the data and dropout",
    "config": "--recipe names a TOML file of settings", "config_name": "--recipe names a TOML file of settings",
    "overwrite_output_dir": f"{_OUT}; nothing is overwritten", "backend": "it follows from the device",
    "tokenizer_name": "--tokenizer is bpe:4096, characters, bytes, gpt2 or a folder with a tokenizer.json",
    "push_to_hub": "hornbook export writes the folder that a hub takes",
    "disable_tqdm": "--quiet shows no progress", "quiet": "this function shows no progress",
    "start": "the prompt stands after the model: hornbook generate MODEL PROMPT",
    "num_samples": "each call writes one text, another --seed another one",
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "train_batch_size"), _BATCH),
    **dict.fromkeys(("per_device_eval_batch_size", "eval_batch_size"), "the grouping changes no number"),
    **dict.fromkeys(("lr_decay_iters", "decay_lr", "lr_decay_steps"), _DECAY),
    **dict.fromkeys(("fp16", "bf16", "amp", "mixed_precision"), _PRECISION),
    **dict.fromkeys(("wandb", "wandb_log", "wandb_project", "wandb_run_name", "report_to"), _TRACKER),
    **dict.fromkeys(("log_interval", "logging_steps", "logging_strategy", "logging_first_step"), _LOGGED),
    **dict.fromkeys(("dataset", "dataset_name", "data", "data_dir", "train_file", "input_file"), _DATA),
    **dict.fromkeys(("validation_file", "validation_split_percentage", "val_data"), _HELD_OUT),
    **dict.fromkeys(("always_save_checkpoint", "save_strategy"), _SAVED),
    **dict.fromkeys(("eval_only", "do_train", "do_eval", "do_predict"), _TASK),
    **dict.fromkeys(("fsdp", "deepspeed", "nproc_per_node", "num_gpus", "ddp_backend"), _PROCESSES),
    **dict.fromkeys(("num_workers", "dataloader_num_workers", "preprocessing_num_workers"), _READ),
    **dict.fromkeys(("model_name_or_path", "pretrained_model_name_or_path"), _RESUME),
    **dict.fromkeys(("no_cuda", "use_cpu"), _DEVICE), "logging_dir": _OUT,
}  # fmt: skip
