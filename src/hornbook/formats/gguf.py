"""Weights in GGUF, the file of llama.cpp: dequantized into the decoder, and written for llama.cpp and its kin.

llama.cpp rotates neighbouring features of a head where the decoder rotates features half a head apart, so files of the
`llama` architecture hold the rows of query and key in another order (its converter's `permute`).
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from hornbook.facts.errors import InputError, SystemFailure, as_json
from hornbook.facts.io import sync
from hornbook.facts.shape import FAMILIES, GPTShape, RotaryScaling
from hornbook.formats.gguf_file import GGUFHeader, GGUFTensor, read_header, tokenizer_metadata
from hornbook.formats.huggingface import Naming, assemble, gather, scatter
from hornbook.formats.keys import GGUF_ONLY, GGUF_WITHOUT_EFFECT, check_keys, refused
from hornbook.model.decoder import Decoder, rotary_frequencies

if TYPE_CHECKING:
    from hornbook.text.tokenizer import Tokenizer

Kind = Literal["f32", "f16", "q8_0"]
_FILE_TYPES: dict[Kind, int] = {"f32": 0, "f16": 1, "q8_0": 7}  # llama.cpp's numbers for general.file_type
_BLOCK = 32  # numbers that share a scale in Q8_0
_OUTER = {
    "embedding": "token_embd", "positions": "position_embd", "head.norm": "output_norm", "head.projection": "output",
}  # fmt: skip
_PARTS = {
    "attention_norm": "attn_norm", "attention.query": "attn_q", "attention.key": "attn_k", "attention.value": "attn_v",
    "attention.output": "attn_output", "attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm", "mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down",
}  # fmt: skip
_FUSED = {"attention.query": "attn_qkv", "attention.key": "attn_qkv", "attention.value": "attn_qkv"}
# What `_shape` and `_rope_scaling` read, without the architecture's name.
_USED = {
    "general.architecture", "general.alignment", "vocab_size", "context_length", "embedding_length", "block_count",
    "feed_forward_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.sliding_window", "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scaling.type",
    "rope.scaling.factor", "rope.scale_linear",
}  # fmt: skip
_EMBEDDING, _HEAD, _ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"


def _naming(family: str) -> Naming:
    return Naming(_OUTER, "blk.{}", _PARTS | _FUSED if family == "gpt2" else _PARTS)


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Rows of each head from (first half, second half) to neighbouring pairs: the order of llama.cpp's `llama`.

    >>> interleave(torch.arange(8), heads=2)
    tensor([0, 2, 1, 3, 4, 6, 5, 7])
    """
    return rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def deinterleave(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `interleave`.

    >>> deinterleave(interleave(torch.arange(8), heads=2), heads=2)
    tensor([0, 1, 2, 3, 4, 5, 6, 7])
    """
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _heads_of(theirs: str, shape: GPTShape) -> int | None:
    """How many heads' rows a tensor holds when they are stored interleaved, else None."""
    part = theirs.split(".")[-2]
    return {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(part) if shape.family == "llama" else None


def load_gguf(path: str | Path) -> Decoder:
    """The decoder of a GGUF file, ready for evaluation; errors as `read_gguf`."""
    return assemble(*read_gguf(path))


def read_gguf(path: str | Path) -> tuple[GPTShape, dict[str, Tensor]]:
    """The shape and the weights by our names, dequantized to float32, of a GGUF file.

    Raises InputError with one sentence when the `gguf` package is not installed, for other architectures and formats,
    and for damaged or unfitting files.
    """
    gguf = _package()
    header = read_header(Path(path))
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        divisors = _dequantized(gguf, header, _ROPE_FACTORS, data) if _ROPE_FACTORS in header.tensors else None
        shape = _shape(header, tied=_is_tied(gguf, header, data), rope_divisors=divisors)
        stored = {name: tensor.size for name, tensor in header.tensors.items() if name != _ROPE_FACTORS}
        if shape.tied:
            stored.pop(_HEAD, None)

        def read(name: str) -> Tensor:
            tensor = _dequantized(gguf, header, name, data)
            heads = _heads_of(name, shape)
            return tensor if heads is None else deinterleave(tensor, heads)

        return shape, gather(shape, _naming(shape.family), stored, read, str(path))


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise InputError('GGUF files need the gguf package: pip install -e ".[gguf]" in the checkout.') from None
    return gguf


def _raw(gguf: Any, header: GGUFHeader, name: str, data: mmap.mmap) -> tuple[Any, np.ndarray[Any, Any]]:
    """The format of a tensor and its bytes, (rows, bytes of a row); raises InputError when not read, or cut off."""
    tensor: GGUFTensor = header.tensors[name]
    formats = gguf.GGMLQuantizationType
    kind = next((known for known in gguf.GGML_QUANT_SIZES if known == tensor.kind), None)
    if kind is None or kind in (formats.I8, formats.I16, formats.I32, formats.I64):
        name_of_kind = tensor.kind if kind is None else kind.name
        raise InputError(f"{header.path}: {name} is stored in the format {name_of_kind}, which is not read.")
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row = tensor.size[-1] if tensor.size else 1
    num_bytes = tensor.count // block * block_bytes
    if row % block or not tensor.count or tensor.start + num_bytes > header.num_bytes:
        raise InputError(f"{header.path} is damaged or cut off at the tensor {name}: copy or download it again.")
    raw = np.frombuffer(data[tensor.start : tensor.start + num_bytes], np.uint8)
    return kind, raw.reshape(-1, row // block * block_bytes)


def _dequantized(gguf: Any, header: GGUFHeader, name: str, data: mmap.mmap) -> Tensor:
    """One tensor as float32 in memory of its own."""
    kind, raw = _raw(gguf, header, name, data)
    formats = gguf.GGMLQuantizationType
    floats = {formats.F32: np.float32, formats.F16: np.float16, formats.F64: np.float64}
    try:
        numbers = raw.view(floats[kind]) if kind in floats else gguf.dequantize(raw, kind)
    except NotImplementedError:
        raise InputError(f"{header.path}: {name} is stored as {kind.name}, which is not read.") from None
    return torch.from_numpy(np.array(numbers, dtype=np.float32)).reshape(header.tensors[name].size)


def _is_tied(gguf: Any, header: GGUFHeader, data: mmap.mmap) -> bool:
    """Whether the head is the embedding: not stored, or stored again with the same bytes, as is usual for GPT-2."""
    if _HEAD not in header.tensors or _EMBEDDING not in header.tensors:
        return _HEAD not in header.tensors
    (kind, raw), (other_kind, other) = (_raw(gguf, header, name, data) for name in (_HEAD, _EMBEDDING))
    return bool(kind == other_kind and np.array_equal(raw, other))


def _shape(header: GGUFHeader, *, tied: bool, rope_divisors: Tensor | None) -> GPTShape:
    """The shape that the metadata describes; raises InputError for what the decoder does not have."""
    metadata, where = header.metadata, header.path
    family = metadata.get("general.architecture")
    if family not in FAMILIES:
        raise InputError(
            f"{where} holds the architecture {as_json(family)}, which Hornbook does not have: it reads "
            f"{', '.join(FAMILIES)}."
        )

    own = {key.removeprefix(f"{family}."): value for key, value in metadata.items()}
    if own.get("attention.sliding_window") == 0:  # none
        del own["attention.sliding_window"]
    check_keys(own, _USED, GGUF_WITHOUT_EFFECT, GGUF_ONLY, str(where))

    def number(key: str, default: float | None = None, kind: type[int] | type[float] = int) -> Any:
        value = own.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (kind, int)) or not 0 < value < 2**31:
            raise InputError(f"{where} says nothing usable about {family}.{key}: {as_json(value)}.")
        return value

    width, heads = number("embedding_length"), number("attention.head_count")
    head_width = number("attention.key_length", max(1, width // heads))
    context = number("context_length")
    for key, value, allowed in (
        ("attention.value_length", number("attention.value_length", head_width), head_width),
        ("rope.dimension_count", number("rope.dimension_count", head_width), head_width),
        ("attention.sliding_window", min(number("attention.sliding_window", context), context), context),
    ):
        if value != allowed:
            raise refused(str(where), f"{family}.{key}", value, str(allowed))
    embedding = header.tensors.get(_EMBEDDING)
    if embedding is None:
        raise InputError(f"{where} has no {_EMBEDDING}: it is not a whole model.")
    if (vocabulary := number("vocab_size", embedding.size[0])) != embedding.size[0]:
        raise InputError(f"{where} has {family}.vocab_size = {vocabulary}, but {embedding.size[0]} rows of embedding.")
    epsilon = "attention.layer_norm_epsilon" if family == "gpt2" else "attention.layer_norm_rms_epsilon"
    base = float(number("rope.freq_base", 10_000.0, float))
    return GPTShape(
        family=family, layers=number("block_count"), width=width, heads=heads, head_width=head_width,
        kv_heads=number("attention.head_count_kv", heads), hidden=number("feed_forward_length"), context=context,
        vocabulary=embedding.size[0], tied=tied, rope_base=base,
        norm_epsilon=float(number(epsilon, None, float)),
        rope_scaling=None if family == "gpt2" else _rope_scaling(header, family, head_width, base, rope_divisors),
    )  # fmt: skip


def _rope_scaling(
    header: GGUFHeader, family: str, head_width: int, base: float, divisors: Tensor | None
) -> RotaryScaling | None:
    """Linear scaling from the metadata; Llama 3's from the tensor of divisors, which is what GGUF keeps of it."""
    metadata, key = header.metadata, f"{family}.rope.scaling"
    kind = metadata.get(f"{key}.type", "linear")  # llama.cpp's default
    factor = metadata.get(f"{key}.factor", metadata.get(f"{family}.rope.scale_linear", 1.0)) if kind != "none" else 1.0
    if kind not in ("none", "linear") or not isinstance(factor, (int, float)) or not 0 < factor < 1e30:
        raise InputError(
            f"{header.path} has rotary scaling {as_json(kind)} by {factor}: only linear and llama3 are read."
        )
    if divisors is not None and factor != 1:
        raise InputError(f"{header.path} scales its rotary frequencies twice, by {factor} and by {_ROPE_FACTORS}.")
    if divisors is None:
        return RotaryScaling("linear", float(factor)) if factor != 1 else None
    plain = rotary_frequencies(head_width, base, None)
    for original in [8192, *(2**power for power in range(4, 21))]:
        scaling = RotaryScaling("llama3", float(divisors.max()), 1.0, 4.0, original)
        expected = plain / rotary_frequencies(head_width, base, scaling)
        if divisors.shape == expected.shape and torch.allclose(divisors, expected, rtol=1e-5, atol=0):
            return scaling
    raise InputError(f"{header.path} scales its rotary frequencies in a way that is neither linear nor Llama 3's.")


def write_gguf(
    model: Decoder, path: str | Path, *, tokenizer: Tokenizer | None = None, kind: Kind = "f16", name: str = "hornbook",
    ends: Sequence[int] = (),
) -> Path:  # fmt: skip
    """Write a GGUF file for llama.cpp and its kin, with the tokenizer in it; whole or not at all.

    `f32`, `f16`, or `q8_0`: 8-bit blocks of 32 with a scale each, for matrices whose rows are a multiple of 32 (the
    others stay f16). Norms, biases and positions are always f32. `ends`: ids that end a text, besides the tokenizer's
    own. Raises InputError when the path exists, for what llama.cpp does not compute, and for weights too large for
    f16; SystemFailure when the disk does not take it.
    """
    gguf = _package()
    path, shape = Path(path), model.shape
    if path.exists():
        raise InputError(f"{path} exists already: give another path, or remove it first.")
    if shape.activation != shape.kind.activation:
        raise InputError(
            f"llama.cpp computes {shape.family} models with {shape.kind.activation}, not {shape.activation}."
        )
    if shape.family in ("gpt2", "qwen2") and shape.heads * shape.head_width != shape.width:
        raise InputError(
            f"llama.cpp does not open a {shape.family} model whose heads together ({shape.heads} of "
            f"{shape.head_width}) are not as wide as the model ({shape.width})."
        )
    if shape.rope_scaling is not None and shape.rope_scaling.kind == "llama3" and shape.family != "llama":
        raise InputError(f"llama.cpp has llama3 rotary scaling for the llama family only, not for {shape.family}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
            aside = Path(scratch) / "model.gguf"
            writer = gguf.GGUFWriter(aside, shape.family)
            writer.add_name(name)
            writer.add_file_type(_FILE_TYPES[kind])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            add = {
                bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
                list: writer.add_array,
            }  # fmt: skip
            for key, value in (_metadata(shape) | _tokenizer(tokenizer, shape.vocabulary, ends)).items():
                if value != []:  # llama.cpp reads an absent list as an empty one, which the writer cannot write
                    add[type(value)](key, value)
            for theirs, (numbers, stored) in _tensors(gguf, model, kind).items():
                writer.add_tensor(theirs, numbers, raw_dtype=stored)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            sync(aside)
            aside.replace(path)
    except OSError as error:
        raise SystemFailure(f"{path} could not be written: {error.strerror or error}.") from None
    return path


def _tokenizer(tokenizer: Tokenizer | None, vocabulary: int, ends: Sequence[int]) -> dict[str, Any]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    others = [number for number in ends if number != tokenizer.end_of_text]
    more = zip(("eot", "eom"), others, strict=False)  # llama.cpp has room for two, and knows the usual ones by name
    named = {f"tokenizer.ggml.{name}_token_id": number for name, number in more}
    return tokenizer_metadata(tokenizer, vocabulary) | named


def _metadata(shape: GPTShape) -> dict[str, Any]:
    """The shape by llama.cpp's keys."""
    epsilon = "layer_norm_epsilon" if shape.family == "gpt2" else "layer_norm_rms_epsilon"
    metadata: dict[str, Any] = {
        "vocab_size": shape.vocabulary, "context_length": shape.context, "embedding_length": shape.width,
        "block_count": shape.layers, "feed_forward_length": shape.hidden, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, f"attention.{epsilon}": shape.norm_epsilon,
    }  # fmt: skip
    if shape.family != "gpt2":
        metadata |= {
            "rope.freq_base": shape.rope_base, "rope.dimension_count": shape.head_width,
            "attention.key_length": shape.head_width, "attention.value_length": shape.head_width,
        }  # fmt: skip
        if shape.rope_scaling is not None and shape.rope_scaling.kind == "linear":
            metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": shape.rope_scaling.factor}
    return {f"{shape.family}.{key}": value for key, value in metadata.items()}


def _tensors(gguf: Any, model: Decoder, kind: Kind) -> dict[str, tuple[np.ndarray[Any, Any], Any]]:
    """Each tensor by llama.cpp's name, in its format."""
    shape, formats = model.shape, gguf.GGMLQuantizationType
    tensors: dict[str, tuple[np.ndarray[Any, Any], Any]] = {}
    for theirs, tensor in scatter(model, _naming(shape.family)).items():
        heads = _heads_of(theirs, shape)
        rows = tensor.float().cpu() if heads is None else interleave(tensor.float().cpu(), heads)
        stored = formats.F32
        if rows.dim() == 2 and kind != "f32" and not theirs.startswith("position_embd"):
            stored = formats.Q8_0 if kind == "q8_0" and rows.shape[1] % _BLOCK == 0 else formats.F16
        if stored == formats.F16 and rows.abs().max() > torch.finfo(torch.float16).max:
            raise InputError(f"{theirs} holds numbers too large for f16: export as f32.")
        tensors[theirs] = (gguf.quantize(rows.numpy(), stored), stored)
    if shape.family == "gpt2" and shape.tied:  # llama.cpp ties the other families' heads itself
        tensors[_HEAD] = tensors[_EMBEDDING]
    if shape.rope_scaling is not None and shape.rope_scaling.kind == "llama3":
        plain = rotary_frequencies(shape.head_width, shape.rope_base, None)
        divisors = plain / rotary_frequencies(shape.head_width, shape.rope_base, shape.rope_scaling)
        tensors[_ROPE_FACTORS] = (divisors.numpy(), formats.F32)
    return tensors
