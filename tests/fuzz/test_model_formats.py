"""Damaged files of other programs: refused with one sentence, or the same numbers as the reference reader gives.

Seeded, 300 mutations a kind, in one process: anything but our own errors, an abort included, fails.
"""

import copy
import json
import logging
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.formats.gguf import read_gguf, write_gguf
from hornbook.formats.gguf_file import load_gguf_tokenizer, read_header
from hornbook.formats.huggingface import load_huggingface, naming_of, read_huggingface, write_huggingface
from hornbook.formats.huggingface_config import _GPT2, _Llama
from hornbook.formats.keys import CONFIG_ONLY, CONFIG_WITHOUT_EFFECT
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.make_tokenizer import characters, raw_bytes, train_bpe
from hornbook.text.tokenizer import load_tokenizer

NUM_MUTATIONS = 300
TEXT = "Call me Ishmael. Some years ago—never mind how long—having 1234 dollars,\n\n  I'd sail: ñ é e\u0301 日本 🙂.\n"
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]])
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 7, 1.5, -0.0, 1e-30, 1e38, 2**31, 2**31 - 1, 2**63 - 1, 2**64, 10**40, "", "x",
    "silu", "gelu", "relu", "\x1b[31m", "é", [], {}, [1], {"a": 1}, ["full_attention"], {"rope_type": "linear"},
    {"rope_type": "yarn", "factor": 2.0}, [[]],
]  # fmt: skip


def damaged_bytes(data: bytes, draw: random.Random, limit: int | None = None) -> bytes:
    """One to three bytes, bits or stretches changed, within the first `limit` bytes."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(min(len(found), limit or len(found)) or 1)
        stop = min(len(found), place + draw.randint(1, 12))
        way = draw.randrange(6)
        if way == 0:
            found[place:stop] = b""
        elif way == 1:
            found[place:place] = draw.randbytes(draw.randint(1, 9))
        elif way == 2:
            found[place] ^= 1 << draw.randrange(8)
        elif way == 3:
            found[place:place] = found[place:stop]
        elif way == 4:
            found[place] = draw.choice(b'0159-.eE"{}[],: \x00\xff')
        else:
            found[place:] = found[place:] if draw.random() < 0.8 else b""
    return bytes(found)


def damaged_json(content, draw: random.Random, keys: list[str]):
    """One to three values, keys or lists of a JSON changed, at any depth."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 3)):
        here = content
        while True:
            inner = [value for value in (here.values() if isinstance(here, dict) else here) if value]
            inner = [value for value in inner if isinstance(value, dict | list)]
            if not inner or draw.random() < 0.4:
                break
            here = draw.choice(inner)
        places = list(here) if isinstance(here, dict) else list(range(len(here)))
        place = draw.choice(places) if places else None
        way = draw.randrange(4)
        if way == 0 and isinstance(here, dict):
            here[draw.choice(keys)] = draw.choice(VALUES)
        elif place is None:
            continue
        elif way == 1:
            del here[place]
        elif way == 2 and isinstance(here, dict):
            here[draw.choice(keys)] = here[place]
        elif isinstance(here[place], int | float) and draw.random() < 0.5:
            here[place] = here[place] + draw.choice([-1, 1, 0.5])
        else:
            here[place] = draw.choice(VALUES)
    return content


def mutated_json(path: Path, draw: random.Random, keys: list[str], content) -> None:
    if draw.random() < 0.3:
        path.write_bytes(damaged_bytes(json.dumps(content).encode(), draw))
    else:
        path.write_text(json.dumps(damaged_json(content, draw, keys)), encoding="utf-8")


class Tally:
    """What became of the mutations: both ways must be taken, or nothing was tried."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def refused(self, error: InputError) -> None:
        assert "\n" not in str(error)
        assert "\x1b" not in str(error)
        self.counts["refused"] += 1

    def check(self, at_least: int) -> None:
        assert self.counts.total() == NUM_MUTATIONS
        assert min(self.counts["refused"], self.counts["same"]) >= at_least, self.counts


def small(family="llama", vocabulary=97) -> Decoder:
    kv_heads = 2 if family == "gpt2" else 1
    model = initialise(
        Decoder(
            GPTShape(
                family=family, layers=2, width=16, heads=2, kv_heads=kv_heads, hidden=24, context=32,
                vocabulary=vocabulary, tied=False,
            )
        ),
        0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_config(tmp_path, family):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference reader")
    write_huggingface(small(family), tmp_path / "m")
    path, tally = tmp_path / "m" / "config.json", Tally()
    content = json.loads(path.read_text())
    fields = (_GPT2 if family == "gpt2" else _Llama).__struct_fields__
    keys = [*fields, *CONFIG_WITHOUT_EFFECT, *CONFIG_ONLY, "logit_scale", "num_experts", "hidden_size", "n_embd"]
    for seed in range(NUM_MUTATIONS):
        draw = random.Random(seed)
        mutated_json(path, draw, keys, content)
        try:
            model = load_huggingface(tmp_path / "m")
        except InputError as error:
            tally.refused(error)
            continue
        with torch.no_grad():
            ours = model(TOKENS)
        try:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
        except Exception:  # of many kinds, and for values that it never uses
            tally.counts["only ours"] += 1
            continue
        with torch.no_grad():
            wanted = theirs(TOKENS, return_dict=True).logits
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4, msg=lambda m, seed=seed: f"{seed}: {m}")
        tally.counts["same"] += 1
    tally.check(at_least=20)


MAKERS = {
    "bpe": lambda: train_bpe([TEXT * 9], 300),
    "bytes": raw_bytes,
    "characters": lambda: characters([TEXT]),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizer(tmp_path, kind):
    from tokenizers import Tokenizer

    MAKERS[kind]().save(tmp_path)
    path, tally = tmp_path / "tokenizer.json", Tally()
    content = json.loads(path.read_text(encoding="utf-8"))
    keys = [*content, *content["model"], *content["added_tokens"][0], "type", "pattern", "content", "Regex", "prepend"]
    for seed in range(NUM_MUTATIONS):
        draw = random.Random(seed)
        mutated_json(path, draw, keys, content)
        try:
            tokenizer = load_tokenizer(tmp_path)
            ours = tokenizer.encode(TEXT).tolist()
            tokenizer.decode(ours)
        except InputError as error:
            tally.refused(error)
            continue
        theirs = Tokenizer.from_file(str(path))
        theirs.no_truncation()
        theirs.no_padding()
        theirs.encode_special_tokens = True
        assert ours == theirs.encode(TEXT, add_special_tokens=False).ids, seed
        tally.counts["same"] += 1
    tally.check(at_least=20)


def test_tokenizer_config(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is the reference reader")
    train_bpe([TEXT * 9], 300).save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    first = content["added_tokens"][0]
    names = ["<s>", "</s>", "<pad>"]
    content["added_tokens"] += [first | {"id": 300 + i, "content": name} for i, name in enumerate(names)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = {
        "bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False},
        "pad_token": "<pad>", "add_bos_token": False, "model_max_length": 32,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": "x", "added_tokens_decoder": {},
    }  # fmt: skip
    path, tally = tmp_path / "tokenizer_config.json", Tally()
    keys = [*config, "bos_token", "eos_token", "content", "unk_token", "e", "special"]
    for seed in range(NUM_MUTATIONS):
        draw = random.Random(seed)
        mutated_json(path, draw, keys, config)
        try:
            tokenizer = load_tokenizer(tmp_path)
            tokenizer.encode(TEXT)
        except InputError as error:
            tally.refused(error)
            continue
        said = json.loads(path.read_bytes())
        try:
            theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
        except Exception:  # of many kinds, and for values that decide no id
            tally.counts["only ours"] += 1
            continue
        for key, ours in (("bos_token", tokenizer.beginning), ("eos_token", tokenizer.end_of_text)):
            if key in said:  # where it is not said, the usual names are taken here
                assert ours == getattr(theirs, f"{key}_id"), seed
        tally.counts["same"] += 1
    tally.check(at_least=20)


def test_safetensors(tmp_path):
    write_huggingface(small(), tmp_path / "m")
    path, tally = tmp_path / "m" / "model.safetensors", Tally()
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for seed in range(NUM_MUTATIONS):
        draw = random.Random(seed)
        in_header = draw.random() < 0.6
        data = damaged_bytes(whole[:header], draw) + whole[header:] if in_header else whole
        if not in_header:  # a number changed, and its length kept
            place = draw.randrange(header, len(whole))
            data = whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 :]
        path.write_bytes(data)
        try:
            shape, weights = read_huggingface(tmp_path / "m")
        except InputError as error:
            tally.refused(error)
            continue
        try:
            stored = load_file(path)
        except SafetensorError as error:
            pytest.fail(f"{seed}: read, though safetensors refuses it: {error}")
        for theirs, ours in naming_of(shape).groups(shape).items():
            assert torch.equal(weights[next(iter(ours))], stored[theirs].float()), seed
        tally.counts["same"] += 1
    tally.check(at_least=20)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gguf(tmp_path):
    gguf = pytest.importorskip("gguf", reason="the gguf package is an extra")
    tokenizer = train_bpe([TEXT * 9], 300)
    path, tally = tmp_path / "m.gguf", Tally()
    write_gguf(small(vocabulary=300), path, tokenizer=tokenizer, kind="f16")
    whole = path.read_bytes()
    start = min(tensor.start for tensor in read_header(path).tensors.values())
    for seed in range(NUM_MUTATIONS):
        draw = random.Random(seed)
        if draw.random() < 0.5:
            data = damaged_bytes(whole[:start], draw) + whole[start:]
        else:
            place = draw.randrange(len(whole))
            data = whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 :]
        path.write_bytes(data)
        try:
            shape, weights = read_gguf(path)
            ids = load_gguf_tokenizer(path).encode(TEXT).tolist()
        except InputError as error:
            tally.refused(error)
            continue
        reader = gguf.GGUFReader(path)
        metadata = read_header(path).metadata
        for key, field in reader.fields.items():
            if not key.startswith("GGUF."):
                value = metadata[key]
                assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents(), (seed, key)
        stored = {tensor.name: tensor for tensor in reader.tensors}
        embedding = gguf.dequantize(stored["token_embd.weight"].data, stored["token_embd.weight"].tensor_type)
        assert np.array_equal(weights["embedding.weight"].numpy(), embedding), seed
        down = stored["blk.1.ffn_down.weight"]
        assert np.array_equal(weights["blocks.1.mlp.down.weight"].numpy(), gguf.dequantize(down.data, down.tensor_type))
        assert shape.vocabulary == embedding.shape[0]
        assert all(0 <= number < 300 for number in ids)
        tally.counts["same"] += 1
    tally.check(at_least=20)
