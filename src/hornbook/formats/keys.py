"""The keys of other programs' configurations that are not read, and why that cannot change a number.

A key that is neither read nor listed here is refused by name: an architecture is a handful of numbers, and one that is
passed over in silence makes another model of the same weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hornbook.facts.errors import InputError, as_json, suggestion

# config.json: reason -> keys
_CONFIG = {
    "dropout and other means of training: nothing is dropped when a text is scored": """
        attention_dropout attn_pdrop classifier_dropout dropout embd_pdrop hidden_dropout resid_pdrop
        summary_first_dropout summary_last_dropout gradient_checkpointing initializer_factor initializer_range
        neftune_noise_alpha""",
    "how the same product is computed": """
        _attn_implementation _attn_implementation_autoset attn_implementation chunk_size_feed_forward
        output_attentions output_hidden_states pretraining_tp reorder_and_upcast_attn return_dict
        return_dict_in_generate tie_last_hidden_states torchscript use_bfloat16 use_cache""",
    "the weights are read in the precision they are stored in and computed in float32": "dtype torch_dtype",
    "heads for other tasks than the next token": """
        finetuning_task id2label label2id num_labels problem_type summary_activation summary_proj_to_labels
        summary_type summary_use_proj task_specific_params""",
    "names, versions and notes": """
        _commit_hash _name_or_path _num_labels architectures auto_map is_llama_config keys_to_ignore_at_inference
        max_sequence_length model_max_length model_type name_or_path n_ctx output_past tokenizer_class
        transformers.js_config transformers_version unsloth_fixed unsloth_version""",
    "which tokens begin, end and fill: the tokenizer's files say so": """
        bos_token_id cls_token_id decoder_start_token_id eos_token_id mask_token_id pad_token_id sep_token_id
        unk_token_id""",
    "how text is written, not how likely it is": """
        bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
        epsilon_cutoff eta_cutoff exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id
        length_penalty max_length max_new_tokens min_length min_new_tokens no_repeat_ngram_size num_beam_groups
        num_beams num_return_sequences output_scores prefix remove_invalid_values repetition_penalty suppress_tokens
        temperature top_k top_p typical_p""",
    "of an encoder or of cross-attention, which is refused where it is on": """
        cross_attention_hidden_size is_decoder tf_legacy_loss tie_encoder_decoder""",
}
CONFIG_WITHOUT_EFFECT = {key: reason for reason, keys in _CONFIG.items() for key in keys.split()}
# Keys that change the computation unless they have this value.
CONFIG_ONLY: dict[str, Any] = {
    "is_causal": True, "add_cross_attention": False, "is_encoder_decoder": False, "pruned_heads": {},
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "rope_interleaved": False,
    "use_mrope": False, "per_layer_config": None, "quantization_config": None,
}  # fmt: skip

# GGUF: reason -> keys, those of the architecture without its name; "*" stands for the rest of a name.
_GGUF = {
    "names, licences, sources and recommended ways to sample": """
        general.name general.author general.version general.organization general.finetune general.basename
        general.description general.quantized_by general.size_label general.license* general.url general.doi
        general.uuid general.repo_url general.source.* general.base_model.* general.dataset.* general.tags
        general.languages general.sampling.* general.datasets""",
    "each tensor says its own format": "general.file_type general.quantization_version",
    "how the file was quantized": "quantize.imatrix.* imatrix.*",
    "what tensors were called before": "tensor_data_layout",
    "said of a scaling, not part of it": "rope.scaling.original_context_length rope.scaling.finetuned",
    "of files in parts, of which only one that is whole is read": "split.tensors.count",
    "of the tokenizer, which has its own list": "tokenizer.*",
}
GGUF_WITHOUT_EFFECT = {key: reason for reason, keys in _GGUF.items() for key in keys.split()}
GGUF_ONLY: dict[str, Any] = {
    "general.type": "model", "split.count": (0, 1), "split.no": 0, "attention.causal": True, "expert_count": 0,
    "expert_used_count": 0, "use_parallel_residual": False, "rope.scaling.attn_factor": 1.0,
    "nextn_predict_layers": 0, "attention.clamp_kqv": 0.0, "attention.max_alibi_bias": 0.0,
}  # fmt: skip
# Of these, only byte-level BPE is read.
TOKENIZER_WITHOUT_EFFECT = {
    key: reason
    for reason, keys in {
        "of other kinds of tokenizer": """
            tokenizer.ggml.scores tokenizer.ggml.token_type_count tokenizer.ggml.unknown_token_id
            tokenizer.ggml.seperator_token_id tokenizer.ggml.cls_token_id tokenizer.ggml.mask_token_id
            tokenizer.ggml.add_sep_token""",
        "names of tokens for filling, for writing in the middle and for chat": """
            tokenizer.ggml.padding_token_id tokenizer.ggml.eot_token_id tokenizer.ggml.eom_token_id
            tokenizer.ggml.fim_pre_token_id tokenizer.ggml.fim_suf_token_id tokenizer.ggml.fim_mid_token_id
            tokenizer.ggml.fim_pad_token_id tokenizer.ggml.fim_rep_token_id tokenizer.ggml.fim_sep_token_id
            tokenizer.ggml.prefix_token_id tokenizer.ggml.suffix_token_id tokenizer.ggml.middle_token_id
            tokenizer.chat_template.* tokenizer.chat_templates""",
        "no end is put after a text that is scored": "tokenizer.ggml.add_eos_token",
        "the same tokenizer once more, in another form": "tokenizer.huggingface.json",
    }.items()
    for key in keys.split()
}
TOKENIZER_ONLY: dict[str, Any] = {
    "tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.remove_extra_whitespaces": False,
}  # fmt: skip


def check_keys(
    given: Mapping[str, Any],
    used: Collection[str],
    without_effect: Collection[str],
    only: Mapping[str, Any],
    where: str,
) -> None:
    """Raise InputError for the first key that is neither used nor known to be without effect, or has a value of `only`
    that the decoder does not have. A name in `without_effect` may end in "*"."""
    beginnings = tuple(name[:-1] for name in without_effect if name.endswith("*"))
    for key, value in given.items():
        if key in only:
            allowed = only[key] if isinstance(only[key], tuple) else (only[key],)
            if not any(value == right and isinstance(value, bool) is isinstance(right, bool) for right in allowed):
                raise refused(where, key, value, " or ".join(map(as_json, allowed)))
        elif key not in used and key not in without_effect and not key.startswith(beginnings):
            near = suggestion(key, [*used, *only])
            raise InputError(
                f"{where} has {as_json(key)} = {as_json(value)}{near}, a key that Hornbook does not know and does not "
                "ignore, because it may change the numbers: if it does not, remove it from a copy."
            )


def refused(where: str, key: str, value: object, allowed: str) -> InputError:
    return InputError(
        f"{where} has {key} = {as_json(value)}, which Hornbook's decoder does not support: only {allowed} is read."
    )
