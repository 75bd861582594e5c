"""What is wrong with the input is said in one sentence, with the right exit code, and nothing is left half-written."""

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hornbook
from hornbook.cli.parser import _no_option, build_parser
from hornbook.commands.options import normal
from hornbook.data.shard_writer import manifest_bytes
from hornbook.data.shards import read_manifest
from hornbook.facts.errors import InputError

HANG_SECONDS = float(os.environ.get("HORNBOOK_HANG_SECONDS", "60"))  # a guard against hanging, not a measurement
SMALL = (
    "--threads", "1", "--model.layers", "1", "--model.width", "32", "--model.context", "32", "--train.batch", "4",
    "--watch.sample_tokens", "8",
)  # fmt: skip
BYTES = ("--tokenizer", "bytes", "--split", "tail:0.1")


@pytest.fixture
def run(command_line):
    """hornbook in an empty folder, which must answer."""

    def call(*arguments, before=None):
        return command_line.finish(command_line.start(*arguments, before=before), HANG_SECONDS)

    return call


def sentence(finished, code=2):
    """The last line on stderr: `hornbook: ` and one sentence; whatever stands before it are notes."""
    assert finished.code == code, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    *notes, last = finished.stderr.rstrip("\n").split("\n")
    assert last.startswith("hornbook: ")
    assert not any(note.startswith("hornbook: ") for note in notes)
    return last


def left(folder, *inputs):
    """What stands in `folder` besides what was given and what was prepared."""
    return sorted(p.name for p in folder.iterdir() if p.name not in ("prepared", *inputs))


def nothing_half_prepared(folder):
    """A prepared folder is whole or is not there."""
    for path in (folder / "prepared").glob("*"):
        assert not path.name.startswith(".") or path.suffix == ".lock" or path.is_file(), path.name
        assert not path.is_dir() or (path / "prepared.json").is_file(), path.name
    return True


# ---- The text


BAD_TEXTS = {
    "missing": (None, "text.txt"),
    "empty": (b"", "text.txt"),
    "only white space": (b" \n\t\n ", "text.txt"),
    "binary": (b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 40, "text.txt"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(1000), "a PNG picture"),
    "NUL bytes": (b"text, and then \x00\x00\x00 " * 100, "text.txt"),
    "not UTF-8": (b"caf\xe9 " * 500, "byte 3"),
    "shorter than a context": (b"a few words", "context"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_cannot_be_used(run, tmp_path, name):
    content, named = BAD_TEXTS[name]
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    said = sentence(run("train", "text.txt", *BYTES, *SMALL, "--steps", "2", "--out", "run"))
    assert named in said
    assert left(tmp_path, "text.txt") == []
    assert nothing_half_prepared(tmp_path)


def test_invalid_utf_8_is_refused_with_a_hint_and_replaced_on_request(run, tmp_path, english):
    (tmp_path / "text.txt").write_bytes(b"caf\xe9, na\xefve. " + english.encode()[:3000])
    said = sentence(run("prepare", "text.txt", *BYTES, "--out", "shards"))
    assert "--errors replace" in said
    assert left(tmp_path, "text.txt") == []
    finished = run("prepare", "text.txt", *BYTES, "--out", "shards", "--errors", "replace", "--json")
    assert finished.code == 0, finished.stderr
    assert finished.json["report"]["replaced_bytes"] == 2
    shown = run("prepare", "text.txt", *BYTES, "--out", "shards", "--errors", "replace")
    assert shown.code == 0
    assert shown.stdout.count("\n2 bytes are not UTF-8 and were replaced.\n") == 1
    trained = run("train", "shards", *SMALL, "--steps", "2", "--out", "run")
    assert trained.code == 0, trained.stderr
    assert trained.stderr.count("2 bytes are not UTF-8 and were replaced.") == 1


def test_several_documents_cannot_be_inspected_as_one(run, tiny_run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "some words"}\n' * 2, encoding="utf-8")
    said = sentence(run("inspect", str(tiny_run.run), "--file", "rows.jsonl"))
    assert "rows.jsonl has 2 documents" in said


def test_a_field_that_is_not_there_names_those_that_are(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"body": "some words"}\n' * 50, encoding="utf-8")
    said = sentence(run("train", "rows.jsonl", *BYTES, *SMALL, "--steps", "2", "--out", "run"))
    assert "body" in said
    assert left(tmp_path, "rows.jsonl") == []


# ---- Names and values


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("trian", "text.txt"), '"train"'),
        (("train", "text.txt", "--stpes", "5"), '"--steps"'),
        (("train", "text.txt", "--train.bacth", "5"), "hornbook train --help"),
        (("train", "text.txt", "--model.widht=64"), '"--model.width"'),
        (("evaluate", "run", "--per-documents"), '"--per-document"'),
        (("train", "text.txt", "--steps", "0"), "at least 1|>= 1"),
        (("train", "text.txt", "--steps", "many"), "expected a whole number, not 'many'"),
        (("train", "text.txt", "--optimizer.name", "sgd"), "expected adamw or muon, not 'sgd'"),
        (("train", "text.txt", "--steps", "5", "--epochs", "2"), "not both steps and epochs"),
        (("train", "text.txt", "--budget", "soon"), "soon"),
        (
            ("train", "text.txt", "--tokenizer", "bytes", "--budget", "0.1s"),
            "the budget of 0.1s covers .* 30 steps .* take",
        ),
        (("train", "text.txt", "--optimizer.learning_rate", "nan"), "nan"),
        (("train", "text.txt", "--tokenizer", "bpe:200", "--steps", "1"), "257|258"),
        (("train", "text.txt", "--tokenizer", "bpf:300", "--steps", "1"), "bpf:300"),
        (("train", "text.txt", "--split", "tail:1.5", "--steps", "1"), "tail:1.5"),
        (("train", "text.txt", "--model.heads", "5", "--model.width", "32", "--steps", "1"), "not divisible"),
        (("train", "text.txt", "--model.width", "65", "--steps", "1"), "model.width 65 with .* a multiple of 2"),
        (("train", "text.txt", "--model.preset", "gtp2", "--steps", "1"), '"gpt2"'),
        (("generate", "absent", "x"), "no run or model absent"),
        (("evaluate", "runs/absent"), "no run or model runs/absent"),
        (("generate",), "MODEL"),
        (("evaluate",), "required: MODEL;"),
        (("evaluate", "text.txt", "text.txt"), "not a model"),
        (("runs", "absent"), "absent"),
        (("--foo",), "--foo"),
        (("--",), "--"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_names_and_values(run, tmp_path, text_file, arguments, named):
    said = sentence(run(*arguments))
    assert re.search(named, said), said
    assert left(tmp_path, "text.txt", "runs") == []
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "runs/absent", "x"), "there is no run or model runs/absent"),
        (("evaluate", "{run}", "empty.txt"), "empty.txt"),
        (("inspect", "{run}", "--file", "empty.txt"), "empty.txt"),
        (("compare", "{run}", "runs/absent"), "there is no run or model runs/absent"),
        (("export", "{folder}", "--to", "gguf", "--out", "out"), "is a folder of runs"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_names_and_files_are_looked_at_without_torch(tmp_path, tiny_run, arguments, said):
    (tmp_path / "empty.txt").touch()
    source = str(Path(hornbook.__file__).parents[1])
    words = [word.format(run=tiny_run.run, folder=tiny_run.folder) for word in arguments]
    code = "import sys; sys.modules['torch'] = None; from hornbook.cli import main; sys.exit(main())"
    finished = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert finished.returncode == 2, finished.stderr
    assert said in finished.stderr


def test_a_run_in_the_wrong_place_is_named(run, tiny_run):
    folder, one = tiny_run.folder, str(tiny_run.run)
    assert f"{one} is a run, not a text" in sentence(run("prepare", one))
    assert f'(did you mean "{one}"?)' in sentence(run("evaluate", f"{folder}/rum"))
    assert f"folder of runs: name one of them, such as {one}" in sentence(run("evaluate", str(folder)))


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ("[train]\nstps = 3\n", 'unknown setting "train.stps" (did you mean "steps"?)'),
        ("[trian]\nsteps = 3\n", 'unknown section "trian" (did you mean "train"?)'),
        ("train = 3\n", '"train" must be a section'),
        ("[train]\nbatch = -3\n", "train.batch"),
        ("[train\nsteps = 3\n", "not valid TOML"),
        (None, "no recipe"),
    ],
)
def test_recipes(run, tmp_path, text_file, recipe, named):
    if recipe is not None:
        (tmp_path / "my.toml").write_text(recipe, encoding="utf-8")
    said = sentence(run("train", "text.txt", "--recipe", "my.toml", "--steps", "3", "--out", "run"))
    assert named in said
    assert "my.toml" in said
    assert left(tmp_path, "text.txt", "my.toml") == []


# ---- Prepared text


@pytest.fixture
def shards(run, tmp_path, text_file):
    finished = run("prepare", "text.txt", *BYTES, "--out", "shards")
    assert finished.code == 0, finished.stderr
    return tmp_path / "shards"


def test_a_truncated_shard(run, shards, tmp_path):
    shard = shards / "train-00000.bin"
    os.truncate(shard, shard.stat().st_size - 10)
    said = sentence(run("train", "shards", *SMALL, "--steps", "2", "--out", "run"))
    assert "train-00000.bin" in said
    assert left(tmp_path, "text.txt", "shards") == []


def test_a_flipped_bit_in_a_shard(run, shards, tmp_path):
    shard = shards / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    said = sentence(run("train", "shards", *SMALL, "--steps", "2", "--out", "run"))
    assert "train-00000.bin" in said
    assert left(tmp_path, "text.txt", "shards") == []


def test_a_token_id_out_of_range(run, shards, tmp_path):
    """Even when whoever wrote it wrote the checksums that go with it."""
    shard = shards / "train-00000.bin"
    content = shard.read_bytes()[:-2] + (300).to_bytes(2, "little")
    shard.write_bytes(content)
    manifest = read_manifest(shards)
    manifest["files"][shard.name]["sha256"] = hashlib.sha256(content).hexdigest()
    (shards / "prepared.json").write_bytes(manifest_bytes(manifest))
    said = sentence(run("train", "shards", *SMALL, "--steps", "2", "--out", "run"))
    assert "300" in said
    assert "257" in said
    assert left(tmp_path, "text.txt", "shards") == []


def test_another_tokenizer_in_the_prepared_folder(run, shards, tmp_path):
    finished = run("prepare", "text.txt", "--tokenizer", "bpe:300", "--split", "tail:0.1", "--out", "others")
    assert finished.code == 0, finished.stderr
    shutil.copy(tmp_path / "others" / "tokenizer.json", shards / "tokenizer.json")
    said = sentence(run("train", "shards", *SMALL, "--steps", "2", "--out", "run"))
    assert "tokenizer" in said
    assert left(tmp_path, "text.txt", "shards", "others") == []


def test_a_tokenizer_file_that_is_too_large_is_not_read(run, tmp_path, text_file):
    (tmp_path / "vast").mkdir()
    with (tmp_path / "vast" / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)  # takes no room
    said = sentence(run("prepare", str(text_file), "--tokenizer", "vast", "--out", "shards"))
    assert "vast/tokenizer.json has more than 64 MiB" in said
    assert not (tmp_path / "shards").exists()


def test_a_tokenizer_that_does_not_match_the_run(run, tiny_run, tmp_path, text_file):
    model, folder = str(tiny_run.run), tmp_path / "others"
    finished = run("prepare", "text.txt", "--tokenizer", "bpe:300", "--split", "tail:0.1", "--out", "others")
    assert finished.code == 0, finished.stderr
    assert "another tokenizer" in sentence(run("evaluate", model, "others"))
    train = ("train", "--threads", "1", "--steps", "2", "--out", "run")
    assert "another tokenizer" in sentence(run(*train, "others", "--from", model))
    assert "another tokenizer" in sentence(run(*train, "text.txt", "--tokenizer", "bpe:300", "--from", model))
    assert "leave out --tokenizer" in sentence(run(*train, "others", "--tokenizer", "bytes"))
    assert "model.width is 64" in sentence(run(*train, "text.txt", "--model.width", "64", "--from", model))
    assert left(tmp_path, "text.txt", folder.name) == []


# ---- Run folders


def test_a_run_that_is_in_use(run, command_line, tmp_path, text_file):
    """Another process trains in it; the second gives way at once, and the first does not notice."""
    command = ("train", "text.txt", *BYTES, *SMALL, "--steps", "4000", "--out", "run")
    first = command_line.start(*command)
    try:
        checkpoint = tmp_path / "run" / "checkpoints" / "step-00000000"
        while not checkpoint.is_dir():
            assert first.poll() is None, first.communicate()
            try:
                first.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        said = sentence(run(*command))
        assert "in use by another process" in said
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize("what", ["a file", "a folder with other things"])
def test_out_that_is_something_else(run, tmp_path, text_file, what):
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine", encoding="utf-8")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine", encoding="utf-8")
    said = sentence(run("train", "text.txt", *BYTES, *SMALL, "--steps", "2", "--out", "out"))
    assert "out" in said
    assert (out if out.is_file() else out / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert left(tmp_path, "text.txt", "out") == []


def test_a_run_whose_checkpoints_are_damaged(run, tiny_run, tmp_path):
    shutil.copytree(tiny_run.run, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "step-00000024" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 16
    file.write_bytes(content)
    for command in (("generate", "run", "x"), ("evaluate", "run", str(tiny_run.folder / "text.txt"))):
        said = sentence(run(*command))
        assert "damaged" in said
        assert "step-00000024" in said


# ---- The world


def limit_file_size(num_bytes):
    def before():
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return before


def test_a_disk_that_fills_up_while_preparing(run, tmp_path, text_file):
    said = sentence(run("prepare", "text.txt", *BYTES, "--out", "shards", before=limit_file_size(20_000)), code=1)
    assert "shards" in said or "large" in said or "full" in said
    assert left(tmp_path, "text.txt") == []


def test_a_disk_that_fills_up_while_training(run, tmp_path, text_file):
    """Optimizer and weights of this model are more than 100 kB: the first checkpoint cannot be written."""
    command = ("train", "text.txt", *BYTES, *SMALL, "--steps", "4", "--out", "run")
    sentence(run(*command, before=limit_file_size(100_000)), code=1)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    finished = run(*command)  # there is room again: the same command goes on
    assert finished.code == 0, finished.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000004" / "manifest.json").is_file()


def test_a_real_full_disk(command_line, tmp_path, text_file):
    """On a disk of 400 kB, where mounting one is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here; RLIMIT_FSIZE is tested above")
    try:
        command = ("train", "text.txt", *BYTES, *SMALL, "--steps", "4", "--out", "disk/run")
        sentence(command_line(*command), code=1)
        for folder in (disk / "run" / "checkpoints").glob("*"):
            assert (folder / "manifest.json").is_file()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_more_memory_than_there_is(run, tmp_path, text_file):
    said = sentence(
        run("train", "text.txt", *BYTES, "--threads", "1", "--model.width", "1000000", "--steps", "1", "--out", "run"),
        code=2,
    )
    assert "takes more than the" in said


@pytest.mark.slow
def test_one_line_of_200_megabytes(command_line, tmp_path, english):
    """Works, in bounded memory: the peak stays below four times the line, imports included."""
    line = (english.replace("\n", " ") + " ").encode()
    with (tmp_path / "line.txt").open("wb") as file:
        for _ in range(200_000_000 // len(line) + 1):
            file.write(line)
    process = command_line.start(
        "train", "line.txt", "--tokenizer", "bytes", "--split", "tail:0.001", *SMALL, "--steps", "2", "--out", "run"
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, process.stderr.read()
    assert usage.ru_maxrss * 1024 < 4 * 200_000_000
    assert (tmp_path / "run" / "reports" / "report.html").is_file()


# ---- What is known to be wrong before the text is read


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (("--n_heads", "3", "--n_embd", "128"), "128 is not divisible by model.heads 3"),
        (("--preset", "6Q"), 'unknown model preset "6Q"'),
        (("--family", "gpt3"), 'unknown model family "gpt3"'),
        (("--width", "64", "--heads", "4", "--kv-heads", "3"), "4 is not divisible by model.kv_heads 3"),
    ],
)
def test_an_impossible_shape_is_said_before_the_text_is_prepared(run, text_file, given, problem):
    assert problem in sentence(run("train", text_file, "--steps", "9", *given))
    assert left(text_file.parent, text_file.name) == []
    assert not (text_file.parent / "prepared").exists()


def test_heads_that_only_some_widths_have_wait_for_the_text(run, text_file):
    """The text decides the width, which may be one that they divide."""
    finished = run("train", text_file, "--steps", "1", "--heads", "6", "--layers", "1", "--context", "32")
    assert "is not divisible by model.heads 6" not in finished.stderr or (text_file.parent / "prepared").exists()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="without /proc there is no folder that nobody can write in")
def test_a_folder_that_cannot_be_made_is_said_before_the_text_is_prepared(run, text_file):
    assert "cannot write in /proc" in sentence(run("train", text_file, "--steps", "9", "--out", "/proc/x"), code=1)
    assert not (text_file.parent / "prepared").exists()


@pytest.mark.parametrize("command", [("train", "-"), ("plan", "-"), ("prepare", "-"), ("train", "text.txt", "-")])
def test_stdin_is_no_text_to_train_on(run, text_file, command):
    assert "- (stdin) is not read here" in sentence(run(*command))
    assert "save it to a file first" in sentence(run(*command))


# ---- The names of other trainers' settings

NANOGPT = """
    out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from wandb_log wandb_project
    wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd dropout bias
    learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters min_lr backend
    device dtype compile seed"""
TRANSFORMERS = """
    output_dir overwrite_output_dir do_train do_eval eval_strategy evaluation_strategy per_device_train_batch_size
    per_device_eval_batch_size gradient_accumulation_steps learning_rate weight_decay adam_beta1 adam_beta2
    adam_epsilon max_grad_norm num_train_epochs max_steps lr_scheduler_type warmup_ratio warmup_steps logging_dir
    logging_strategy logging_steps save_strategy save_steps save_total_limit use_cpu no_cuda seed data_seed bf16 fp16
    ddp_backend eval_steps dataloader_num_workers run_name disable_tqdm load_best_model_at_end fsdp deepspeed optim
    report_to wandb push_to_hub resume_from_checkpoint gradient_checkpointing torch_compile model_name_or_path
    config_name tokenizer_name dataset_name train_file validation_file validation_split_percentage block_size
    num_hidden_layers num_attention_heads num_key_value_heads hidden_size intermediate_size vocab_size"""


@pytest.mark.parametrize("name", sorted({*NANOGPT.split(), *TRANSFORMERS.split()}))
def test_what_others_call_a_setting_is_read_or_answered(name):
    """Either it is a name of a setting, or the sentence says what there is in its place, by flags that train has."""
    parser = build_parser(["train"]).commands["train"]
    if normal([f"--{name}", "1"], parser._option_string_actions)[0].partition("=")[0] in parser._option_string_actions:
        return
    answer = _no_option(f"--{name}", parser).partition(f'there is no option "--{name}"')[2]
    assert answer.startswith(": ")
    with pytest.raises(InputError, match=f'there is no setting "{name}": '):
        hornbook.train("text.txt", **{name: 1})


def test_other_answers_to_flags(run, tiny_run):
    assert 'did you mean "--quiet"' in sentence(run("export", "x", "--to", "gguf", "--out", "y", "-q"))
    finished = run("generate", tiny_run.run, "def", "--max_new_tokens", "3", "--json")
    assert finished.code == 0, finished.stderr
    with pytest.raises(InputError, match='no setting "quiet": this function shows no progress'):
        hornbook.plan("text.txt", quiet=True)


def test_a_learning_rate_beside_muon_is_said_to_be_adamws(run, text_file):
    finished = run("train", text_file, *SMALL, *BYTES, "--steps", "2", "--optimizer", "muon", "--lr", "1e-3")
    assert "give --muon-lr too, or --optimizer adamw" in finished.stderr
    for more in (("--muon-lr", "0.02"), ("--optimizer", "adamw")):
        optimizer = () if more[0] == "--optimizer" else ("--optimizer", "muon")
        finished = run("train", text_file, *SMALL, *BYTES, "--steps", "2", *optimizer, "--lr", "1e-3", *more)
        assert "--muon-lr too" not in finished.stderr
