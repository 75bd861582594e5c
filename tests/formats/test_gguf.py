"""GGUF: the gguf package and transformers' own GGUF loader are the second implementations, SmolLM2 the real file."""

import importlib
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.shape import GPTShape, RotaryScaling
from hornbook.formats.gguf import deinterleave, interleave, load_gguf, read_gguf, write_gguf
from hornbook.formats.gguf_file import load_gguf_tokenizer, read_header
from hornbook.formats.huggingface import write_huggingface
from hornbook.likelihood import token_nats
from hornbook.model.decoder import Decoder
from hornbook.text.make_tokenizer import raw_bytes, train_bpe

gguf = pytest.importorskip("gguf", reason="the gguf package is an extra")

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]])
VOCABULARY = 300


def small(family: str, **changes) -> Decoder:
    kv_heads = 4 if family == "gpt2" else 2
    sizes = {"layers": 2, "width": 64, "heads": 4, "kv_heads": kv_heads, "hidden": 96, "vocabulary": VOCABULARY}
    model = Decoder(GPTShape(**{"family": family, "context": 32, **sizes, **changes})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise + 1.0 * name.endswith("norm.weight"))
    return model


CASES = [
    ("gpt2", {}),
    ("gpt2", {"tied": False}),
    ("llama", {}),
    ("llama", {"tied": True, "kv_heads": 1, "rope_base": 1000.0}),
    ("llama", {"rope_scaling": RotaryScaling("linear", 4.0)}),
    ("llama", {"rope_scaling": RotaryScaling("llama3", 8.0, 1.0, 4.0, 16)}),
    ("qwen2", {}),
    ("qwen2", {"tied": True}),
    ("qwen3", {}),
    ("qwen3", {"tied": True, "head_width": 32}),
]


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_f32_comes_back_to_the_last_bit(tmp_path, family, changes):
    model = small(family, **changes)
    assert write_gguf(model, tmp_path / "m.gguf", kind="f32") == tmp_path / "m.gguf"
    shape, weights = read_gguf(tmp_path / "m.gguf")
    for field in shape.__struct_fields__:
        assert getattr(shape, field) == pytest.approx(getattr(model.shape, field)), field
    assert weights.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(weights[name], parameter), name
    assert os.listdir(tmp_path) == ["m.gguf"]


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_transformers_reads_what_is_written(tmp_path, family, changes):
    transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")
    if changes.get("rope_scaling"):
        pytest.skip("transformers' GGUF loader reads no rotary scaling")
    model = small(family, **changes)
    write_gguf(model, tmp_path / "m.gguf", kind="f32")
    load = importlib.import_module("transformers.modeling_gguf_pytorch_utils").load_gguf_checkpoint
    config = load(tmp_path / "m.gguf")["config"]
    shape = model.shape
    if family == "gpt2":  # what its loader takes for granted, as GPT-2 and Qwen3 were published
        config |= {"n_positions": shape.context, "vocab_size": VOCABULARY, "n_inner": shape.hidden}
    elif family == "qwen3":
        config["head_dim"] = shape.head_width
    settings = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    tensors = load(tmp_path / "m.gguf", return_tensors=True, model_to_load=theirs)["tensors"]
    theirs = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    missing, extra = theirs.load_state_dict(tensors, strict=False)
    assert extra == []
    assert missing == (["lm_head.weight"] if shape.tied and family != "gpt2" else [])  # GPT-2 stores it twice
    theirs.tie_weights()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), theirs(TOKENS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
def test_quantized_within_the_error_of_the_format(tmp_path, family):
    model = small(family, hidden=80)  # rows of 80 are not whole blocks of 32: they stay f16
    write_gguf(model, tmp_path / "half.gguf", kind="f16")
    write_gguf(model, tmp_path / "eight.gguf", kind="q8_0")
    half, eight = load_gguf(tmp_path / "half.gguf"), load_gguf(tmp_path / "eight.gguf")
    kinds = {tensor.kind for tensor in read_header(tmp_path / "eight.gguf").tensors.values()}
    assert kinds == {0, 1, 8}  # f32, f16, q8_0 in GGML's numbering
    for name, wanted in model.named_parameters():
        got_half, got_eight = half.get_parameter(name), eight.get_parameter(name)
        assert ((got_half - wanted).abs() <= wanted.abs() * 2**-11 + 2**-25).all(), name
        if wanted.dim() == 1 or name == "positions.weight":
            assert torch.equal(got_eight, wanted)
        elif wanted.shape[1] % 32 == 0:
            greatest = wanted.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True)
            error = (got_eight - wanted).unflatten(1, (-1, 32)).abs()
            assert (error <= greatest / 127 / 2 * 1.01 + greatest * 2**-11).all(), name
            assert error.max() > 0
        else:
            assert torch.equal(got_eight, got_half)
    assert os.path.getsize(tmp_path / "eight.gguf") < os.path.getsize(tmp_path / "half.gguf")


def test_rows_are_reordered_as_llama_cpp_does():
    """Its converter's own formula, in numpy: (heads, 2, half, ...) -> (heads, half, 2, ...)."""
    rows = np.arange(24 * 5).reshape(24, 5)
    wanted = rows.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(24, 5)
    assert interleave(torch.from_numpy(rows), heads=3).tolist() == wanted.tolist()
    assert deinterleave(torch.from_numpy(wanted), heads=3).tolist() == rows.tolist()


def rewritten(source: Path, target: Path, changes: dict, tensors: dict | None = None, architecture: str = "llama"):
    """A copy of a file made by the gguf package, with other metadata and tensors (name -> (raw bytes, format))."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in changes:
            continue
        kind, sub = field.types[0], field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), kind, sub)
    for key, value in changes.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    for tensor in reader.tensors:
        raw, kind = (tensors or {}).get(tensor.name, (tensor.data, tensor.tensor_type))
        if raw is not None:
            writer.add_tensor(tensor.name, np.ascontiguousarray(raw), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A llama of width 256 and 2 layers, F32: wide enough for blocks of K-quants."""
    write_gguf(small("llama", width=256, hidden=256), tmp_path / "whole.gguf", kind="f32")
    return tmp_path / "whole.gguf"


@pytest.mark.parametrize(
    "name", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]
)
def test_each_format_is_dequantized(tmp_path, whole, name):
    kind, theirs = gguf.GGMLQuantizationType[name], "blk.1.ffn_up.weight"
    original = small("llama", width=256, hidden=256).blocks[1].mlp.up.weight.detach().numpy()
    try:
        raw = gguf.quantize(original, kind)
    except NotImplementedError:  # formats that the package only reads: any bytes with scales of ordinary size
        size = gguf.quant_shape_to_byte_shape(original.shape, kind)
        raw = np.random.default_rng(0).integers(0, 60, size, dtype=np.uint8)
    rewritten(whole, tmp_path / "m.gguf", {}, {theirs: (raw, kind)})
    _, weights = read_gguf(tmp_path / "m.gguf")
    read = weights["blocks.1.mlp.up.weight"].numpy()
    assert read.dtype == np.float32
    assert np.array_equal(read, gguf.dequantize(raw, kind))
    assert np.unique(read).size > 4


@pytest.mark.parametrize(
    ("changes", "tensors", "sentence"),
    [
        ({"llama.expert_count": 8}, {}, "expert_count = 8"),
        ({"llama.rope.dimension_count": 32}, {}, "llama.rope.dimension_count = 32"),
        ({"llama.attention.sliding_window": 8}, {}, "llama.attention.sliding_window = 8"),
        ({"llama.rope.scaling.type": "yarn"}, {}, '"yarn".*only linear and llama3'),
        (
            {"llama.rope.scaling.factor": 2.0, "llama.rope.scaling.type": "none", "llama.logit_scale": 2.0},
            {},
            "logit_scale",
        ),
        ({"llama.attention.causal": False}, {}, "attention.causal = false"),
        ({"llama.attention.scale": 0.5}, {}, '"attention.scale" = 0.5'),
        ({"llama.attn_logit_softcapping": 50.0}, {}, "attn_logit_softcapping"),
        ({"llama.final_logit_softcapping": 30.0}, {}, "final_logit_softcapping"),
        ({"llama.residual_scale": 0.2}, {}, "residual_scale"),
        ({"llama.embedding_scale": 12.0}, {}, "embedding_scale"),
        ({"llama.use_parallel_residual": True}, {}, "use_parallel_residual = true"),
        ({"llama.nextn_predict_layers": 1}, {}, "nextn_predict_layers = 1"),
        ({"llama.rope.scaling.attn_factor": 1.2}, {}, "attn_factor"),
        ({"llama.rope.scaling.yarn_ext_factor": 1.0}, {}, "yarn_ext_factor"),
        ({"llama.attention.sliding_window_pattern": 2}, {}, "sliding_window_pattern"),
        ({"llama.attention.max_alibi_bias": 8.0}, {}, "max_alibi_bias"),
        ({"llama.attention.clamp_kqv": 8.0}, {}, "clamp_kqv"),
        ({"llama.pooling_type": 1}, {}, "pooling_type"),
        ({"llama.vocab_size": 5}, {}, "vocab_size = 5, but 300 rows"),
        ({"llama.rope.freq_base": 0.0}, {}, "nothing usable about llama.rope.freq_base"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, {}, "nothing usable about llama.attention.layer_norm_rms"),
        ({"llama.feed_forward_length": 0}, {}, "nothing usable about llama.feed_forward_length"),
        ({"general.type": "adapter"}, {}, 'general.type = "adapter"'),
        ({"split.count": 3}, {}, "split.count = 3"),
        ({"llama.attention.sliding_windows": 8}, {}, "did you mean"),
        ({"llama.block_count": None}, {}, "nothing usable about llama.block_count"),
        ({"llama.block_count": "two"}, {}, "nothing usable about llama.block_count: .two."),
        ({"llama.block_count": 10**9}, {}, "lacks many"),
        ({"llama.block_count": 1}, {}, "9 tensors that its architecture does not"),
        ({"llama.embedding_length": 128}, {}, "has the size"),
        ({"llama.attention.head_count": 0}, {}, "nothing usable about llama.attention.head_count"),
        ({}, {"blk.0.attn_v.weight": (None, None)}, "lacks 1 .*blk.0.attn_v.weight"),
        ({}, {"token_embd.weight": (None, None)}, "no token_embd.weight"),
        ({}, {"blk.0.ffn_norm.weight": (np.zeros(256, np.int32), gguf.GGMLQuantizationType.I32)}, "format I32"),
        ({}, {"blk.0.ffn_norm.weight": (np.full(256, np.nan, np.float32), None)}, "NaN"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(tmp_path, whole, changes, tensors, sentence):
    rewritten(whole, tmp_path / "m.gguf", changes, tensors)
    with pytest.raises(InputError, match=sentence) as caught:
        read_gguf(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)


WITHOUT_EFFECT = {
    "llama.attention.causal": True, "llama.expert_count": 0, "llama.expert_used_count": 0, "split.count": 0,
    "llama.attention.sliding_window": 0, "llama.rope.scaling.original_context_length": 8, "general.author": "A. Person",
    "llama.rope.scaling.finetuned": True, "llama.tensor_data_layout": "Meta AI original pth", "general.type": "model",
    "quantize.imatrix.file": "x", "general.sampling.temp": 0.1, "general.base_model.0.name": "b",
    "tokenizer.ggml.scores": 1, "tokenizer.ggml.add_eos_token": True, "llama.rope.scaling.attn_factor": 1.0,
}  # fmt: skip


def test_what_has_no_effect_is_passed_over(tmp_path, whole):
    rewritten(whole, tmp_path / "m.gguf", WITHOUT_EFFECT)
    assert read_gguf(tmp_path / "m.gguf")[0] == read_gguf(whole)[0]


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, RotaryScaling("linear", 4.0)),
        ({"llama.rope.scaling.factor": 4.0}, RotaryScaling("linear", 4.0)),
        ({"llama.rope.scale_linear": 2.0}, RotaryScaling("linear", 2.0)),
    ],
)
def test_rotary_scaling_is_read_as_llama_cpp_reads_it(tmp_path, whole, changes, scaling):
    """llama-model.cpp: absent, the type is linear; of the type none there is no scaling whatever the factor."""
    rewritten(whole, tmp_path / "m.gguf", changes)
    assert read_gguf(tmp_path / "m.gguf")[0].rope_scaling == scaling


def test_other_architectures_are_refused(tmp_path, whole):
    rewritten(whole, tmp_path / "m.gguf", {}, architecture="gemma3")
    with pytest.raises(InputError, match=r'"gemma3".*gpt2, llama, qwen2, qwen3'):
        read_gguf(tmp_path / "m.gguf")


def test_files_that_are_not_whole_are_refused(tmp_path):
    write_gguf(small("llama"), tmp_path / "m.gguf", tokenizer=raw_bytes())
    data = (tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    header = read_header(tmp_path / "m.gguf")
    start = min(tensor.start for tensor in header.tensors.values())
    for length in (0, 3, 4, 7, 20, 30, 100, start // 2, start - 40, start, start + 100, len(data) - 40):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut off|not a GGUF file|damaged"):
            read_gguf(cut)
    cut.write_bytes(b"GGUF\x00\x00\x00\x03" + data[8:])
    with pytest.raises(InputError, match="version"):
        read_gguf(cut)
    with pytest.raises(InputError, match="cannot be read"):
        read_gguf(tmp_path / "absent.gguf")


@pytest.fixture(scope="module")
def headed(tmp_path_factory) -> tuple[Path, bytes, int]:
    folder = tmp_path_factory.mktemp("gguf")
    model = small("llama", layers=1, width=8, heads=2, kv_heads=1, hidden=8, vocabulary=257, context=8)
    write_gguf(model, folder / "m.gguf", tokenizer=raw_bytes())
    start = min(tensor.start for tensor in read_header(folder / "m.gguf").tensors.values())
    return folder, (folder / "m.gguf").read_bytes(), start


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_header_gives_a_sentence_and_never_hangs(headed, data):
    folder, whole, start = headed
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(4, start - 1))] = data.draw(st.integers(0, 255))
    (folder / "damaged.gguf").write_bytes(damaged)
    for read in (read_gguf, load_gguf_tokenizer):
        try:
            read(folder / "damaged.gguf")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)


@pytest.mark.parametrize("kind", [4, 8])  # numbers and strings
def test_a_list_longer_than_any_model_needs_is_refused_before_it_is_read(tmp_path, kind):
    """100 MB of empty strings or numbers would be gigabytes of Python's objects."""
    count = (1 << 22) + 1
    key = b"general.tags"
    data = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, len(key)) + key + struct.pack("<IIQ", 9, kind, count)
    with (tmp_path / "m.gguf").open("wb") as file:
        file.write(data)
        file.truncate(len(data) + 8 * count)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"a list of {count} values"):
        read_header(tmp_path / "m.gguf")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_configuration_far_larger_than_the_file_builds_nothing(tmp_path, whole):
    rewritten(whole, tmp_path / "m.gguf", {"llama.feed_forward_length": 2**31 - 1})
    with pytest.raises(InputError, match=r"holds .* numbers, but its configuration describes a model of"):
        read_gguf(tmp_path / "m.gguf")


def test_a_missing_package_is_a_sentence(monkeypatch, whole):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[gguf\]"'):
        read_gguf(whole)


def test_what_llama_cpp_does_not_compute_is_not_written(tmp_path):
    for model, sentence in (
        (small("gpt2", activation="gelu"), "gelu_tanh, not gelu"),
        (small("qwen3", rope_scaling=RotaryScaling("llama3", 8.0)), "llama family only"),
    ):
        with pytest.raises(InputError, match=sentence):
            write_gguf(model, tmp_path / "m.gguf")
    large = small("llama")
    torch.nn.init.constant_(large.blocks[0].mlp.up.weight, 1e5)
    with pytest.raises(InputError, match=r"blk.0.ffn_up.weight.*too large for f16"):
        write_gguf(large, tmp_path / "m.gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="exists already"):
        write_gguf(small("llama"), tmp_path / "file")
    with pytest.raises(SystemFailure, match="could not be written"):
        write_gguf(small("llama"), tmp_path / "file" / "m.gguf")
    assert os.listdir(tmp_path) == ["file"]


TEXT = (
    "Call me Ishmael. Some years ago—never mind how long precisely—having 1234 dollars,\n\n  I'd sail: ñ 日本 🙂.\n" * 3
)


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_the_tokenizer_travels_with_the_weights(tmp_path, kind):
    tokenizer = train_bpe([TEXT], VOCABULARY - 10) if kind == "bpe" else raw_bytes()
    write_gguf(small("qwen3"), tmp_path / "m.gguf", tokenizer=tokenizer)
    again = load_gguf_tokenizer(tmp_path / "m.gguf")
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert again.end_of_text == tokenizer.end_of_text
    assert again.vocabulary == tokenizer.vocabulary
    assert load_gguf(tmp_path / "m.gguf").shape.vocabulary == VOCABULARY


def book(data: Path, num_characters: int) -> str:
    books = sorted((data / "books").glob("*.txt"))
    return books[0].read_text(encoding="utf-8")[5000 : 5000 + num_characters]


def nats_of(model: torch.nn.Module, ids: torch.Tensor, window: int) -> torch.Tensor:
    """Nats of each token but the first of each window, from either program's logits."""
    nats = []
    with torch.no_grad():
        for piece in ids.split(window):
            logits = model(piece[None])
            logits = getattr(logits, "logits", logits)[0]
            nats.append(token_nats(logits[:-1].double(), piece[1:]))
    return torch.cat(nats)


@pytest.mark.parametrize("num_tokens", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_smollm2_equals_transformers(tmp_path, smollm2, data, num_tokens):
    transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")
    model, tokenizer = load_gguf(smollm2), load_gguf_tokenizer(smollm2)
    text = book(data, 6 * num_tokens)
    ids = torch.from_numpy(tokenizer.encode(text)[:num_tokens].astype(np.int64))
    assert len(ids) == num_tokens
    assert text.startswith(tokenizer.decode(ids.numpy()))
    write_huggingface(model, tmp_path / "exported", tokenizer=tokenizer)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (tokenizer.beginning, tokenizer.end_of_text)
    ours, wanted = nats_of(model, ids, 1000), nats_of(theirs, ids, 1000)
    assert (ours - wanted).abs().max() < 1e-4
    assert ours.sum().item() == pytest.approx(wanted.sum().item(), rel=1e-6)
    assert 2 < ours.mean() < 4  # it reads English


def test_smollm2_tokenizer_equals_transformers(smollm2, data):
    transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")
    path, text = smollm2, book(data, 30_000) + TEXT
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert load_gguf_tokenizer(path).encode(text).tolist() == theirs.encode(text, add_special_tokens=False)
