"""Each key of a config.json is used, without effect on the numbers, or refused by name: transformers is asked which."""

import json
import re

import pytest
import torch

from hornbook.facts.errors import InputError
from hornbook.formats.huggingface import load_huggingface
from hornbook.formats.keys import CONFIG_ONLY, CONFIG_WITHOUT_EFFECT

transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [7, 90, 12, 33, 0, 5, 60, 61, 62, 10, 11, 12]])
CLASSES = {"gpt2": "GPT2", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
FAMILIES = tuple(CLASSES)
ROTARY = FAMILIES[1:]
DROP = "drop"  # the key is left out


def written(folder, family, changes):
    """A tiny random model, in a folder whose config.json has these keys."""
    torch.manual_seed(1)
    if family == "gpt2":
        sizes = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32}
    else:
        sizes = {"max_position_embeddings": 32, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
    config = {"model_type": family, "vocab_size": 97, **sizes}
    merged = {key: value for key, value in (config | changes).items() if value != DROP}
    own = {key: value for key, value in merged.items() if key in (*sizes, "vocab_size", *BUILT)}
    settings = getattr(transformers, CLASSES[family] + "Config")(**own)
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(merged))


# Keys that decide the sizes of weights or the form of the whole, so that the model must be made with them.
BUILT = ("n_inner", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "head_dim",
         "num_key_value_heads", "tie_word_embeddings")  # fmt: skip


def logits_of_both(folder):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return load_huggingface(folder)(TOKENS), theirs(TOKENS, return_dict=True).logits


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 100.0}
GPT2_OTHER_NAMES = {
    "n_embd": DROP, "n_layer": DROP, "n_head": DROP, "n_positions": DROP, "hidden_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32,
}  # fmt: skip
USED = [
    ("gpt2", GPT2_OTHER_NAMES),
    ("gpt2", {"hidden_size": 48}),
    ("gpt2", {"n_inner": 100, "activation_function": "gelu"}),
    ("gpt2", {"layer_norm_epsilon": 0.1}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("llama", {"rms_norm_eps": 0.1}),
    ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    ("llama", {"num_key_value_heads": DROP}),
    ("llama", {"num_key_value_heads": None, "head_dim": None}),
    ("qwen2", {"num_key_value_heads": None}),
    ("qwen3", {"num_key_value_heads": None}),
    ("qwen2", {"head_dim": 16}),
    ("qwen3", {"head_dim": 16}),
    ("mistral", {"head_dim": 16}),
    ("llama", {"rope_theta": 500.0}),
    ("llama", {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("llama", {"rope_theta": 500.0, "rope_parameters": {"rope_theta": 70.0, "rope_type": "default"}}),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 70.0}}),
    ("qwen3", {"rope_parameters": {"rope_type": "linear", "type": "default", "factor": 3.0, "rope_theta": 90.0}}),
    ("mistral", {"rope_parameters": LLAMA3, "sliding_window": None}),
    ("qwen2", {"layer_types": ["full_attention"] * 2, "use_sliding_window": True, "sliding_window": 4}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    ("mistral", {"sliding_window": 32}),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2, "use_sliding_window": True, "sliding_window": 32}),
]


@pytest.mark.parametrize(("family", "changes"), USED)
def test_what_is_used_gives_the_numbers_of_transformers(tmp_path, family, changes):
    written(tmp_path, family, changes)
    ours, theirs = logits_of_both(tmp_path)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# A value that would show if the key had an effect.
VALUES = {
    "dropout": 0.9, "chunk_size_feed_forward": 3, "pretraining_tp": 2, "torch_dtype": "float32", "dtype": "float32",
    "num_labels": 1, "architectures": ["GPT2Model"], "auto_map": {"AutoModel": "modeling_x.X"}, "n_ctx": 4,
    "summary_use_proj": False, "summary_proj_to_labels": False, "id2label": {"0": "no"}, "label2id": {"no": 0},
    "use_cache": False, "tie_last_hidden_states": True, "reorder_and_upcast_attn": True, "is_decoder": True,
    "attention_dropout": 0.5, "summary_type": "mean", "tokenizer_class": "GPT2Tokenizer",
    "gradient_checkpointing": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 3.0, "eos_token_id": [3, 4],
    "bos_token_id": 5, "pad_token_id": 6, "max_length": 5,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_listed_as_without_effect_has_none(tmp_path, family):
    """All keys of the list at once, each with a value that would show."""
    written(tmp_path, family, {"sliding_window": None} if family == "mistral" else {})
    before, _ = logits_of_both(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    listed = dict(VALUES)
    rest = CONFIG_WITHOUT_EFFECT.keys() - {*VALUES, "model_type"}
    assert listed.keys() | rest == CONFIG_WITHOUT_EFFECT.keys() - {"model_type"}
    listed |= {key: 0.4 if re.search("drop|initializer", key) else None for key in rest}
    (tmp_path / "config.json").write_text(json.dumps(config | listed))
    ours, theirs = logits_of_both(tmp_path)
    assert torch.equal(ours, before)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


REFUSED = [
    (FAMILIES, {"is_causal": False}, "is_causal = false"),
    (FAMILIES, {"is_causal": None}, "is_causal = null"),
    (FAMILIES, {"logit_scale": 0.5}, '"logit_scale" = 0.5'),
    (FAMILIES, {"logits_scaling": 8.0}, '"logits_scaling" = 8.0'),
    (FAMILIES, {"attention_multiplier": 0.1}, '"attention_multiplier" = 0.1'),
    (FAMILIES, {"residual_multiplier": 0.2}, "residual_multiplier"),
    (FAMILIES, {"embedding_multiplier": 12}, "embedding_multiplier"),
    (FAMILIES, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    (FAMILIES, {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    (FAMILIES, {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
    (FAMILIES, {"use_parallel_residual": True}, "use_parallel_residual"),
    (FAMILIES, {"num_nextn_predict_layers": 1}, "num_nextn_predict_layers"),
    (FAMILIES, {"num_local_experts": 4}, "num_local_experts"),
    (FAMILIES, {"per_layer_config": {"1": {"head_dim": 8}}}, "per_layer_config"),
    (FAMILIES, {"attribute_map": {"hidden_size": "n_ctx"}}, "attribute_map"),
    (FAMILIES, {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    (FAMILIES, {"quantization_config": {"quant_method": "awq"}}, "quantized .awq."),
    (FAMILIES, {"compression_config": {}}, "compression_config"),
    (FAMILIES, {"alibi": True}, "alibi"),
    (FAMILIES, {"clip_qkv": 8.0}, "clip_qkv"),
    (FAMILIES, {"vocab_size": 2**63 - 1}, "vocab_size"),
    (FAMILIES, {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    (("gpt2",), {"scale_attn_weights": False}, "scale_attn_weights = false"),
    (("gpt2",), {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = true"),
    (("gpt2",), {"add_cross_attention": True}, "add_cross_attention = true"),
    (("gpt2",), {"hidden_size": 64}, "n_embd = 48 and hidden_size = 64"),
    (("gpt2",), {"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
    (("gpt2",), {"rope_theta": 100.0}, "rope_theta"),
    (ROTARY, {"rms_norm_eps": 0.0}, "rms_norm_eps"),
    (ROTARY, {"rope_theta": 0.0}, "rope_theta"),
    (ROTARY, {"mlp_bias": True}, "mlp_bias = true"),
    (ROTARY, {"rope_interleaved": True}, "rope_interleaved = true"),
    (ROTARY, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, '"dynamic"'),
    (ROTARY, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 32}}, "beta_fast"),
    (ROTARY, {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 2]}}, "mrope_section"),
    (ROTARY, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    (ROTARY, {"original_max_position_embeddings": 16}, "original_max_position_embeddings"),
    (ROTARY, {"layer_types": ["full_attention", "linear_attention"]}, '"linear_attention"'),
    (ROTARY, {"layer_types": ["full_attention"]}, "2 layers and 1 layer_types"),
    (("mistral",), {"sliding_window": 4, "layer_types": ["full_attention"] * 2}, "only the last 4 tokens"),
    (("qwen3",), {"head_dim": None}, "head_dim = null"),
    (("llama", "mistral", "qwen3"), {"attention_bias": True}, "attention_bias = true"),
]


@pytest.mark.parametrize(("families", "changes", "sentence"), REFUSED, ids=[next(iter(c)) for _, c, _ in REFUSED])
def test_what_would_change_the_numbers_is_refused_by_name(tmp_path, families, changes, sentence):
    for family in families:
        folder = tmp_path / family
        written(folder, family, {})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError, match=sentence) as caught:
            load_huggingface(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_key_that_transformers_writes_is_known(tmp_path, family):
    """The whole configuration, defaults included, is read or listed; but for what is refused when it is on."""
    known = getattr(transformers, CLASSES[family] + "Config")(num_hidden_layers=2).to_dict()
    written(tmp_path, family, {"sliding_window": None} if family == "mistral" else {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | config))
    ours, theirs = logits_of_both(tmp_path)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_misspelled_key_is_refused_with_the_right_one(tmp_path):
    written(tmp_path, "llama", {"num_key_value_head": 4})
    with pytest.raises(InputError, match='did you mean "num_key_value_heads"'):
        load_huggingface(tmp_path)


def test_no_key_is_in_two_lists():
    assert CONFIG_ONLY.keys() & CONFIG_WITHOUT_EFFECT.keys() == set()
