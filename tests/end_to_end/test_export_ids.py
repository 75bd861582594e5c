"""Ids of an export, opened as its card says, on text that shows the differences between tokenizers."""

import json
import re

import pytest
import torch

import hornbook
from hornbook.facts.shape import GPTShape
from hornbook.formats.gguf import write_gguf
from hornbook.formats.huggingface import write_huggingface
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.make_tokenizer import characters, raw_bytes, train_bpe

transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")

TEXT = "Call me Ishmael. Some years ago—never mind how long precisely—having 1234 dollars,\n\n  I'd sail: ñ 日本 🙂.\n"
NASTY = [
    "", " ", "  ", "\n", "\r\n", "\t\tx", " a", "a ", "a  b", "a\n\n\nb", "a \n b", "'s 'S don't I'LL",
    "1234567", "12 34", "x1y2", "e\u0301 é", "ﬁ", "Å Å K K", "日本語テキスト", "한국어", "नमस्ते", "שלום",
    "\u200b\u00a0\u3000", "👩‍👩‍👧 🇫🇷", "<|endoftext|>x", "<s>", "[PAD]", "\\n", "a" * 70, " " * 70, "_▁ĠÂ",
    "\x00\x01\x7f", "http://a.b/c?d=e&f=%20", "def f(x):\n\treturn x**2", "ſ",
]  # fmt: skip


def shape_of(family, vocabulary):
    return GPTShape(
        family=family, layers=1, width=16, heads=2, kv_heads=2, hidden=16, context=32, vocabulary=vocabulary
    )


TOKENIZERS = {
    "bpe": lambda: train_bpe([TEXT * 9, *NASTY], 350),
    "bytes": raw_bytes,
    "characters": lambda: characters([TEXT, *NASTY]),
}


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_ids_of_an_export_opened_as_its_card_says(tmp_path, family, kind):
    """Nothing is taken from the model's writer: a model in a folder, exported by the command's function."""
    tokenizer = TOKENIZERS[kind]()
    write_huggingface(
        initialise(Decoder(shape_of(family, tokenizer.vocabulary)), 0), tmp_path / "in", tokenizer=tokenizer
    )
    hornbook.export(str(tmp_path / "in"), to="huggingface", out=tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    opener = re.search(r"import AutoModelForCausalLM, (\w+)", card)[1]
    assert (opener == "PreTrainedTokenizerFast") == ("Not `AutoTokenizer`" in card) == (family == "qwen2")
    theirs = getattr(transformers, opener).from_pretrained(tmp_path / "out")
    for text in NASTY:
        # The names of special tokens are text to us, and special to transformers unless it is told.
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ids == tokenizer.encode(text).tolist(), text
    assert theirs.pad_token_id == theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text
    assert theirs.model_max_length == 32
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    batch = theirs(["Call me", "Call"], return_tensors="pt", padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert model.generate(**batch, max_new_tokens=3, do_sample=False).shape[0] == 2


def their_folder(folder, family="llama", **files):
    """A folder as others publish it: a tokenizer of 256 bytes and some special tokens, not of our kinds."""
    tokenizer = train_bpe([TEXT * 9], 300)
    names = ["<s>", "</s>", "<|turn|>"]
    shape = shape_of(family, tokenizer.vocabulary + len(names))
    torch.manual_seed(0)
    model = initialise(Decoder(shape), 0)
    torch.nn.init.normal_(model.head.projection.weight, std=0.3)
    write_huggingface(model, folder, tokenizer=tokenizer)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    first = len(content["model"]["vocab"]) + 1
    content["added_tokens"] += [
        content["added_tokens"][0] | {"id": first + i, "content": name} for i, name in enumerate(names)
    ]
    written = {"tokenizer.json": content, "tokenizer_config.json": {}} | {
        f"{name}.json": value for name, value in files.items()
    }
    for name, value in written.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder, {name: first + i for i, name in enumerate(names)}


TEMPLATE = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("to", ["huggingface", "gguf"])
def test_what_a_folder_says_of_writing_is_kept_on_the_way_through(tmp_path, to):
    pytest.importorskip("gguf", reason="the gguf package is an extra")
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizerFast"}
    folder, ids = their_folder(tmp_path / "in", tokenizer_config=config)
    ends = [ids["</s>"], ids["<|turn|>"]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.6}))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    hornbook.export(str(folder), to=to, out=tmp_path / "out")
    if to == "gguf":
        hornbook.export(str(tmp_path / "out" / "out.gguf"), to="huggingface", out=tmp_path / "back")
    last = tmp_path / ("back" if to == "gguf" else "out")
    generation = json.loads((last / "generation_config.json").read_text())
    assert generation["eos_token_id"] == json.loads((last / "config.json").read_text())["eos_token_id"] == ends
    assert generation.get("temperature") == (0.6 if to == "huggingface" else None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(last)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == "<|turn|>hi"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (ids["<s>"], ids["</s>"])


@pytest.mark.parametrize(
    ("config", "first"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, "<s>"),
        ({"bos_token": None, "eos_token": "</s>"}, "</s>"),  # no beginning: the end stands before a text
        ({"bos_token": None, "eos_token": None}, None),
        ({}, "<s>"),  # not said: by its usual name
        ({"bos_token": "<|turn|>", "eos_token": "</s>", "add_bos_token": True}, "<|turn|>"),
        ({"bos_token": "e", "eos_token": "</s>"}, "e"),  # named, though only in the vocabulary
        ({"bos_token": {"content": "<|turn|>"}, "eos_token": "</s>"}, "<|turn|>"),
    ],
)
def test_one_beginning_and_one_number_from_a_folder_and_from_its_gguf(tmp_path, config, first):
    pytest.importorskip("gguf", reason="the gguf package is an extra")
    folder, ids = their_folder(tmp_path / "in", tokenizer_config=config)
    hornbook.export(str(folder), to="gguf", dtype="f32", out=tmp_path / "out")
    ours, theirs = hornbook.open_model(folder), hornbook.open_model(tmp_path / "out" / "out.gguf")
    (tmp_path / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    reports = [hornbook.evaluate(model, str(tmp_path / "text.txt")) for model in (ours, theirs)]
    assert reports[0].nats == pytest.approx(reports[1].nats, rel=1e-7)
    assert reports[0].conventions["beginning"] == reports[1].conventions["beginning"]
    number = None if first is None else ids.get(first, ours.tokenizer.content["model"]["vocab"].get(first))
    if number is None:
        assert reports[0].conventions["beginning"].startswith("none")
    else:
        assert reports[0].conventions["beginning"].startswith(f"id {number} before")
    assert theirs.tokenizer.adds_beginning is ours.tokenizer.adds_beginning is ("add_bos_token" in config)


def test_the_beginning_that_is_not_marked_as_special_gives_the_number_of_transformers(tmp_path):
    folder, ids = their_folder(tmp_path / "in", tokenizer_config={
        "bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast",
    })  # fmt: skip
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["special"] = False
    content["post_processor"] = {  # as Llama's: the beginning before a text
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [ids["<s>"]], "tokens": ["<s>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    text = "Call me Ishmael."
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert hornbook.open_model(folder).tokenizer.adds_beginning
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    batch = tokenizer(text, return_tensors="pt")["input_ids"]
    assert batch[0, 0] == ids["<s>"]
    with torch.no_grad():
        nats = -model(batch).logits[0, :-1].log_softmax(-1)[torch.arange(batch.shape[1] - 1), batch[0, 1:]].sum()
    assert hornbook.evaluate(str(folder), str(tmp_path / "text.txt")).nats == pytest.approx(nats.item(), abs=1e-4)


def test_an_older_folder_s_map_of_special_tokens_has_the_last_word(tmp_path):
    """As in transformers: tokenizer_config.json alone decides only where it lists the added tokens."""
    special = {"bos_token": "<|turn|>", "eos_token": "</s>"}
    folder, ids = their_folder(
        tmp_path / "in", tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"}, special_tokens_map=special
    )
    assert hornbook.open_model(folder).tokenizer.beginning == ids["<|turn|>"]
    assert transformers.AutoTokenizer.from_pretrained(folder).bos_token_id == ids["<|turn|>"]


def test_what_other_programs_cannot_hold_is_not_exported(tmp_path):
    pytest.importorskip("gguf", reason="the gguf package is an extra")
    from hornbook.facts.errors import InputError

    wide = GPTShape(
        family="qwen2", layers=1, width=16, heads=2, head_width=16, hidden=16, context=32, vocabulary=257, kv_heads=2
    )
    with pytest.raises(InputError, match="qwen2 model whose heads together"):
        write_gguf(initialise(Decoder(wide), 0), tmp_path / "m.gguf", tokenizer=raw_bytes())
    few = GPTShape(family="gpt2", layers=1, width=16, heads=2, kv_heads=1, hidden=16, context=32, vocabulary=257)
    with pytest.raises(InputError, match="as many heads for keys as for queries"):
        write_huggingface(initialise(Decoder(few), 0), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_gives_no_numbers_is_not_evaluated(tmp_path):
    """Finite weights so large that their products are not."""
    from safetensors.torch import load_file, save_file

    from hornbook.facts.errors import InputError

    folder, _ = their_folder(tmp_path / "in")
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"lm_head.weight": torch.full_like(weights["lm_head.weight"], 1e38)}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"not numbers .NaN or infinite.; its weights are damaged"):
        hornbook.open_model(folder)
