"""config.json of a Hugging Face model folder <-> GPTShape. Read as data: no code that a folder names is ever run.

Defaults are those of `transformers` for a key that is absent. What would change the logits and is not in the decoder
is refused, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.shape import Activation, GPTShape, RotaryScaling

Count = Annotated[int, msgspec.Meta(ge=1)]
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip
ACTIVATION_NAMES: dict[Activation | None, str] = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
FAMILY_OF = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
CLASS_OF = {
    "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
}  # fmt: skip


class _Any(msgspec.Struct):
    model_type: str = ""
    auto_map: dict[str, Any] = {}
    quantization_config: dict[str, Any] | None = None


class _GPT2(msgspec.Struct):
    n_embd: Count
    n_layer: Count
    n_head: Count
    n_positions: Count
    vocab_size: Count
    n_inner: Count | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True


class _Llama(msgspec.Struct):
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    max_position_embeddings: Count
    vocab_size: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    # Absent from a Mistral's config it would be 4096; the other families have it only where it is switched on.
    sliding_window: Count | None = 4096
    use_sliding_window: bool = False
    max_window_layers: int = 28
    layer_types: list[str] | None = None


class _Rope(msgspec.Struct):
    rope_type: str = ""
    type: str = ""  # the older name of rope_type
    rope_theta: float | None = None
    partial_rotary_factor: float = 1.0
    factor: float = 0.0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    original_max_position_embeddings: int = 0


def shape_of(config: bytes, where: str) -> GPTShape:
    """The shape that the text of a config.json describes; `where` names the file in errors.

    Raises InputError for anything but JSON, other architectures, and settings that the decoder does not have.
    """
    try:
        general = msgspec.json.decode(config, type=_Any)
        family = FAMILY_OF.get(general.model_type)
        if family is None:
            raise InputError(
                f'{where} describes the architecture "{general.model_type}", which Hornbook does not have: it reads '
                f"{', '.join(sorted(FAMILY_OF))}."
            )
        if "AutoModelForCausalLM" in general.auto_map:
            raise InputError(
                f"{where} names Python code of its own (auto_map), which Hornbook never runs: use a folder whose "
                "architecture is built into transformers."
            )
        if general.quantization_config is not None:
            method = general.quantization_config.get("quant_method", "unnamed")
            raise InputError(
                f"the weights beside {where} are quantized ({method}), which is not read: use the unquantized folder, "
                "or a GGUF file."
            )
        if family == "gpt2":
            return _gpt2_shape(msgspec.json.decode(config, type=_GPT2), where)
        return _llama_shape(msgspec.json.decode(config, type=_Llama), family, general.model_type, where)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not a model's configuration: {error}.") from None


def _refuse(where: str, key: str, value: object, allowed: str) -> InputError:
    return InputError(f"{where} has {key} = {value}, which Hornbook's decoder does not have: only {allowed} is read.")


def _activation(name: str, where: str) -> Activation:
    if name not in ACTIVATIONS:
        raise _refuse(where, "the activation", f'"{name}"', " or ".join(ACTIVATIONS))
    return ACTIVATIONS[name]


def _gpt2_shape(c: _GPT2, where: str) -> GPTShape:
    required = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    for key, value in required.items():
        if getattr(c, key) is not value:
            raise _refuse(where, key, str(not value).lower(), str(value).lower())
    return GPTShape(
        family="gpt2", layers=c.n_layer, width=c.n_embd, heads=c.n_head, context=c.n_positions,
        vocabulary=c.vocab_size, hidden=c.n_inner or 4 * c.n_embd, tied=c.tie_word_embeddings,
        norm_epsilon=c.layer_norm_epsilon, activation=_activation(c.activation_function, where),
    )  # fmt: skip


def _llama_shape(c: _Llama, family: str, model_type: str, where: str) -> GPTShape:
    # Qwen2 has biases on query, key and value whatever this key says; the others have none in the decoder.
    for key in ("mlp_bias",) if family == "qwen2" else ("mlp_bias", "attention_bias"):
        if getattr(c, key):
            raise _refuse(where, key, "true", "false")
    _refuse_windows(c, model_type, where)
    base, scaling = _rope(c, where)
    default_kv_heads = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(model_type, c.num_attention_heads)
    return GPTShape(
        family=family, layers=c.num_hidden_layers, width=c.hidden_size, heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads or default_kv_heads, hidden=c.intermediate_size,
        head_width=c.head_dim or (128 if family == "qwen3" else 0), context=c.max_position_embeddings,
        vocabulary=c.vocab_size, tied=c.tie_word_embeddings, rope_base=base, rope_scaling=scaling,
        norm_epsilon=c.rms_norm_eps, activation=_activation(c.hidden_act, where),
    )  # fmt: skip


def _refuse_windows(c: _Llama, model_type: str, where: str) -> None:
    """Raise InputError where some layer would attend to fewer tokens than the context holds."""
    if model_type == "llama" or c.sliding_window is None or c.sliding_window >= c.max_position_embeddings:
        return
    if c.layer_types is not None:
        slides = any("sliding" in layer for layer in c.layer_types)
    else:
        slides = model_type == "mistral" or (c.use_sliding_window and c.max_window_layers < c.num_hidden_layers)
    if slides:
        raise InputError(
            f"{where} has layers that see only the last {c.sliding_window} tokens (sliding_window), which Hornbook's "
            f"decoder does not have: in a copy, set max_position_embeddings to {c.sliding_window}, within which the "
            "model is the same."
        )


def _rope(c: _Llama, where: str) -> tuple[float, RotaryScaling | None]:
    """(base, scaling) from `rope_parameters` of transformers 5 or from `rope_theta` and `rope_scaling` of before."""
    given = c.rope_scaling or c.rope_parameters or {}
    rope = msgspec.convert(given, type=_Rope)
    kind = rope.rope_type or rope.type or "default"
    base = rope.rope_theta or c.rope_theta or 10_000.0
    if any(isinstance(value, dict) for value in given.values()):
        raise _refuse(where, "rope_parameters", "a table for each kind of layer", "one for all layers")
    if c.partial_rotary_factor != 1 or rope.partial_rotary_factor != 1:
        raise _refuse(where, "partial_rotary_factor", min(c.partial_rotary_factor, rope.partial_rotary_factor), "1")
    if kind == "default":
        return base, None
    if kind == "linear" and rope.factor > 0:
        return base, RotaryScaling("linear", rope.factor)
    original, low, high = rope.original_max_position_embeddings, rope.low_freq_factor, rope.high_freq_factor
    if kind == "llama3" and rope.factor > 0 and original > 0 and high > low > 0:
        return base, RotaryScaling("llama3", rope.factor, low, high, original)
    if kind in ("linear", "llama3"):
        raise InputError(f'{where} has rotary scaling "{kind}" with missing or impossible numbers: {given}.')
    raise _refuse(where, "rotary scaling", f'"{kind}"', "default, linear or llama3")


def config_of(shape: GPTShape, *, beginning: int | None, end_of_text: int | None, dtype: str) -> dict[str, Any]:
    """The config.json by which `transformers`, vLLM and llama.cpp open a model of this shape with no code of ours.

    Both styles of rotary keys and of the dtype are written, so that versions before and after transformers 5 agree.
    Raises InputError for a shape that `transformers` refuses.
    """
    config: dict[str, Any] = {
        "architectures": [CLASS_OF[shape.family]], "model_type": shape.family, "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied, "bos_token_id": beginning, "eos_token_id": end_of_text,
        "torch_dtype": dtype, "use_cache": True,
    }  # fmt: skip
    if shape.family == "gpt2":
        return config | {
            "n_embd": shape.width, "n_layer": shape.layers, "n_head": shape.heads, "n_positions": shape.context,
            "n_inner": shape.hidden, "activation_function": ACTIVATION_NAMES[shape.activation],
            "layer_norm_epsilon": shape.norm_epsilon, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
        }  # fmt: skip
    if shape.family == "llama" and shape.width % shape.heads:
        raise InputError(
            f"model.width {shape.width} is not divisible by model.heads {shape.heads}: transformers does not open "
            "such a llama model."
        )
    scaling: dict[str, Any] | None = None
    if shape.rope_scaling is not None:
        s = shape.rope_scaling
        scaling = {"rope_type": s.kind, "factor": s.factor}
        if s.kind == "llama3":
            scaling |= {
                "low_freq_factor": s.low_frequency_factor, "high_freq_factor": s.high_frequency_factor,
                "original_max_position_embeddings": s.original_context,
            }  # fmt: skip
    return config | {
        "hidden_size": shape.width, "intermediate_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_width,
        "max_position_embeddings": shape.context, "rms_norm_eps": shape.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[shape.activation].replace("_new", "_pytorch_tanh"),
        "rope_theta": shape.rope_base, "rope_scaling": scaling,
        "rope_parameters": (scaling or {"rope_type": "default"}) | {"rope_theta": shape.rope_base},
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    }  # fmt: skip
