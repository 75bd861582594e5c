"""config.json of a Hugging Face model folder <-> GPTShape. Read as data: no code that a folder names is ever run.

Defaults are those of `transformers` for a key that is absent. What would change the logits and is not in the decoder
is refused, never ignored: each key is read here, listed in `keys.py`, or refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hornbook.facts.errors import InputError, as_json
from hornbook.facts.shape import Activation, GPTShape, RotaryScaling
from hornbook.formats.keys import CONFIG_ONLY, CONFIG_WITHOUT_EFFECT, check_keys, refused

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e30)]  # 0 is the family's own value in a GPTShape
Finite = Annotated[float, msgspec.Meta(ge=0, le=1e30)]
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
}  # fmt: skip
ACTIVATION_NAMES: dict[Activation | None, str] = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
FAMILY_OF = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
CLASS_OF = {
    "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
}  # fmt: skip

# GPT-2's names of what the other families call otherwise; transformers takes either.
GPT2_NAMES = {
    "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}  # fmt: skip
_FIRST_NAMES = {other: name for name, other in GPT2_NAMES.items()}


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
    layer_norm_epsilon: Positive = 1e-5
    tie_word_embeddings: bool = True


class _Llama(msgspec.Struct):
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    max_position_embeddings: Count
    vocab_size: Count
    num_key_value_heads: Count | msgspec.UnsetType | None = msgspec.UNSET  # null: as many as heads, in every family
    head_dim: Count | msgspec.UnsetType | None = msgspec.UNSET
    hidden_act: str = "silu"
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    sliding_window: Count | msgspec.UnsetType | None = msgspec.UNSET
    use_sliding_window: bool = False
    max_window_layers: int = 28
    layer_types: list[str] | None = None


class _Rope(msgspec.Struct):
    rope_type: str = ""
    type: str = ""  # the older name of rope_type
    rope_theta: Positive | None = None
    partial_rotary_factor: float = 1.0
    factor: Finite = 0.0
    low_freq_factor: Finite = 0.0
    high_freq_factor: Finite = 0.0
    original_max_position_embeddings: int = 0


def shape_of(config: bytes, where: str) -> GPTShape:
    """The shape that the text of a config.json describes; `where` names the file in errors.

    Raises InputError for anything but JSON, other architectures, and settings that the decoder does not have.
    """
    try:
        entries = msgspec.json.decode(config, type=dict[str, Any])
        general = msgspec.convert(entries, type=_Any)
        family = FAMILY_OF.get(general.model_type)
        if family is None:
            raise InputError(
                f"{where} describes the architecture {as_json(general.model_type)}, which Hornbook does not have: "
                f"it reads {', '.join(sorted(FAMILY_OF))}."
            )
        if "AutoModelForCausalLM" in general.auto_map:
            raise InputError(
                f"{where} names Python code of its own (auto_map), which Hornbook never runs: use a folder whose "
                "architecture is built into transformers."
            )
        if general.quantization_config is not None:
            method = as_json(general.quantization_config.get("quant_method")).strip('"')
            raise InputError(
                f"the weights beside {where} are quantized ({method}), which is not read: use the unquantized folder, "
                "or a GGUF file."
            )
        if family == "gpt2":
            entries = _by_first_name(entries, where)
            check_keys(entries, _GPT2.__struct_fields__, CONFIG_WITHOUT_EFFECT, CONFIG_ONLY, where)
            return _gpt2_shape(msgspec.convert(entries, type=_GPT2), where)
        check_keys(entries, _Llama.__struct_fields__, CONFIG_WITHOUT_EFFECT, CONFIG_ONLY, where)
        return _llama_shape(msgspec.convert(entries, type=_Llama), family, general.model_type, where)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where} is not a model's configuration: {error}.") from None


def _by_first_name(entries: dict[str, Any], where: str) -> dict[str, Any]:
    """A GPT-2's keys by the first of their two names, both of which are read. Raises InputError where they differ."""
    for name, other in GPT2_NAMES.items():
        if other in entries and entries.get(name, entries[other]) != entries[other]:
            raise InputError(
                f"{where} has {name} = {entries[name]} and {other} = {entries[other]}, which are one number."
            )
    return {_FIRST_NAMES.get(key, key): value for key, value in entries.items()}


def _activation(name: str, where: str) -> Activation:
    if name not in ACTIVATIONS:
        raise refused(where, "the activation", name, " or ".join(ACTIVATIONS))
    return ACTIVATIONS[name]


def _gpt2_shape(c: _GPT2, where: str) -> GPTShape:
    return GPTShape(
        family="gpt2", layers=c.n_layer, width=c.n_embd, heads=c.n_head, context=c.n_positions,
        vocabulary=c.vocab_size, hidden=c.n_inner or 4 * c.n_embd, tied=c.tie_word_embeddings,
        norm_epsilon=c.layer_norm_epsilon, activation=_activation(c.activation_function, where),
    )  # fmt: skip


def _llama_shape(c: _Llama, family: str, model_type: str, where: str) -> GPTShape:
    # Qwen2 has biases on query, key and value whatever this key says; the others have none in the decoder.
    for key in ("mlp_bias",) if family == "qwen2" else ("mlp_bias", "attention_bias"):
        if getattr(c, key):
            raise refused(where, key, True, "false")
    _refuse_windows(c, model_type, where)
    base, scaling = _rope(c, where)
    kv_heads, head_width = c.num_key_value_heads, c.head_dim
    if kv_heads is msgspec.UNSET:
        kv_heads = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(model_type)
    if head_width is msgspec.UNSET:
        head_width = 128 if family == "qwen3" else None
    elif head_width is None and family == "qwen3":
        raise refused(where, "head_dim", None, "a number")
    return GPTShape(
        family=family, layers=c.num_hidden_layers, width=c.hidden_size, heads=c.num_attention_heads,
        kv_heads=kv_heads or c.num_attention_heads, hidden=c.intermediate_size,
        head_width=head_width or 0, context=c.max_position_embeddings,
        vocabulary=c.vocab_size, tied=c.tie_word_embeddings, rope_base=base, rope_scaling=scaling,
        norm_epsilon=c.rms_norm_eps, activation=_activation(c.hidden_act, where),
    )  # fmt: skip


def _refuse_windows(c: _Llama, model_type: str, where: str) -> None:
    """Raise InputError where some layer would attend to fewer tokens than the context holds."""
    # Absent it is 4096, which the Qwen families have only where it is switched on, and Llama never.
    window = 4096 if c.sliding_window is msgspec.UNSET and model_type != "llama" else c.sliding_window
    kinds = c.layer_types or []
    if odd := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
        raise refused(where, "layer_types", odd[0], "full_attention")
    if kinds and len(kinds) != c.num_hidden_layers:
        raise InputError(f"{where} has {c.num_hidden_layers} layers and {len(kinds)} layer_types.")
    if not window or window >= c.max_position_embeddings:
        return
    if model_type in ("mistral", "llama"):  # Mistral slides in every layer, whatever layer_types says
        slides = True
    elif c.layer_types is not None:
        slides = "sliding_attention" in kinds
    else:
        slides = c.use_sliding_window and c.max_window_layers < c.num_hidden_layers
    if slides:
        raise InputError(
            f"{where} has layers that see only the last {window} tokens (sliding_window), which Hornbook's "
            f"decoder does not have: in a copy, set max_position_embeddings to {window}, within which the "
            "model is the same."
        )


def _rope(c: _Llama, where: str) -> tuple[float, RotaryScaling | None]:
    """(base, scaling) from `rope_parameters` of transformers 5 or from `rope_theta` and `rope_scaling` of before."""
    given = c.rope_scaling or c.rope_parameters or {}
    if any(isinstance(value, dict) for value in given.values()):
        raise refused(where, "rope_parameters", "a table for each kind of layer", "one for all layers")
    check_keys(given, _Rope.__struct_fields__, (), {}, f"{where}, in its rotary parameters,")
    rope = msgspec.convert(given, type=_Rope)
    kind = rope.rope_type or rope.type or "default"
    base = rope.rope_theta or c.rope_theta or 10_000.0
    if c.partial_rotary_factor != 1 or rope.partial_rotary_factor != 1:
        raise refused(where, "partial_rotary_factor", min(c.partial_rotary_factor, rope.partial_rotary_factor), "1")
    if kind == "default":
        return base, None
    if kind == "linear" and rope.factor > 0:
        return base, RotaryScaling("linear", rope.factor)
    original, low, high = rope.original_max_position_embeddings, rope.low_freq_factor, rope.high_freq_factor
    if kind == "llama3" and rope.factor > 0 and original > 0 and high > low > 0:
        return base, RotaryScaling("llama3", rope.factor, low, high, original)
    if kind in ("linear", "llama3"):
        raise InputError(f'{where} has rotary scaling "{kind}" with missing or impossible numbers: {given}.')
    raise refused(where, "rotary scaling", kind, "default, linear or llama3")


def config_of(
    shape: GPTShape, *, beginning: int | None, end_of_text: int | list[int] | None, dtype: str
) -> dict[str, Any]:
    """The config.json by which `transformers` opens a model of this shape with no code of ours.

    Both styles of rotary keys and of the dtype are written, so that versions before and after transformers 5 agree.
    Raises InputError for a shape that `transformers` refuses.
    """
    config: dict[str, Any] = {
        "architectures": [CLASS_OF[shape.family]], "model_type": shape.family, "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied, "bos_token_id": beginning, "eos_token_id": end_of_text,
        "torch_dtype": dtype, "use_cache": True,
    }  # fmt: skip
    if shape.family == "gpt2":
        if (shape.heads * shape.head_width, shape.kv_heads) != (shape.width, shape.heads):
            raise InputError(
                f"a gpt2 model elsewhere has as many heads for keys as for queries, together as wide as the model: not "
                f"{shape.heads} of {shape.head_width} and {shape.kv_heads} for keys at a width of {shape.width}."
            )
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
