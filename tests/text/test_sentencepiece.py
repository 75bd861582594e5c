"""Tokenizers that mark spaces, as Llama 2, Mistral and Gemma do: what they put before a text, and what they lose."""

import json
import math
import re

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import hornbook
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate
from hornbook.model.init import initialise
from hornbook.reporting.terminal import print_report
from hornbook.setup.model import LoadedModel
from hornbook.text.pieces import PIECE
from hornbook.text.tokenizer import load_tokenizer

STYLES = ("prepend", "metaspace", "metaspace first", "unigram")
BOUNDS = ["<unk>", "<s>", "</s>"]


def sentencepiece(style, text, *, bos=False, byte_fallback=True):
    """The library's own tokenizer of this style, trained on `text`."""
    if style == "unigram":
        theirs = tokenizers.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=BOUNDS, unk_token="<unk>", show_progress=False)
    else:
        theirs = tokenizers.Tokenizer(models.BPE(byte_fallback=byte_fallback, unk_token="<unk>", fuse_unk=True))
        fallback = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=BOUNDS + fallback, show_progress=False)
    scheme = "first" if style == "metaspace first" else "always"
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    theirs.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse()])
    theirs.train_from_iterator(text.splitlines(keepends=style == "unigram"), trainer)
    content = json.loads(theirs.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    if style == "prepend":  # trained by words, as Llama 2's was, and used without splitting into words
        content["pre_tokenizer"] = None
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    if style == "prepend":
        theirs.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        theirs.decoder = decoders.Sequence(steps)
    if bos:
        theirs.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return theirs


@pytest.fixture(scope="module", params=STYLES)
def pair(request, english, tmp_path_factory):
    """(the library's tokenizer, ours of the same file)."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    theirs = sentencepiece(request.param, english)
    theirs.save(str(folder / "tokenizer.json"))
    return theirs, load_tokenizer(folder)


def ids_of(theirs, text):
    return theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("part", ["abc", "a word\n", "line\n", " goes on"])
def test_nothing_is_put_into_a_long_text(pair, part):
    """A text longer than a piece is cut within a word, before a line's end or before a space: no mark stands there."""
    theirs, ours = pair
    text = part * (PIECE * 3 // 2 // len(part))
    ids = ours.encode(text)
    assert ours.decode(ids) == text.removeprefix(" " if ids_of(theirs, " a") == ids_of(theirs, "a") else "")
    if " " in part:  # else the whole is one word, which takes the library minutes
        assert ids.tolist() == ids_of(theirs, text)


@pytest.mark.parametrize("text", ["a", "two words", " one space first", "\ttab", "é", "x  y", "line\nline"])
def test_ids_are_those_of_the_library(pair, text):
    theirs, ours = pair
    assert ours.encode(text).tolist() == ids_of(theirs, text)


def test_what_goes_on_with_a_text_keeps_its_first_space(pair):
    _, ours = pair
    ids = ours.encode("over the hill")
    assert ours.decode(ids) == "over the hill"
    assert ours.decode(ids, inside=True) == " over the hill"


def opened(theirs, folder, vocabulary=None):
    """A model with random weights that never writes a byte or a special token."""
    theirs.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    tokenizer = load_tokenizer(folder)
    shape = GPTShape(
        family="llama",
        layers=1,
        width=16,
        heads=2,
        context=64,
        vocabulary=vocabulary or tokenizer.vocabulary,
        tied=False,
    )
    model, generator = initialise(Decoder(shape), 0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
        model.head.projection.weight[: 3 + 256] = 0
    return LoadedModel("model", model, tokenizer.for_model(shape.vocabulary))


@pytest.mark.parametrize("style", ["prepend", "metaspace", "metaspace first"])
def test_generate_writes_the_spaces_that_the_library_decodes(style, english, tmp_path):
    theirs = sentencepiece(style, english)
    model = opened(theirs, tmp_path)
    for prompt in ("", "Once", "Two words"):
        begin = [1, *ids_of(theirs, prompt)] if prompt else [1]
        written = list(generate(model.model, begin, max_tokens=40, temperature=0))
        text = theirs.decode(begin + written)
        assert text.startswith(prompt)
        assert text.count(" ") > 5
        assert "".join(hornbook.generate(model, prompt, max_tokens=40, temperature=0)) == text[len(prompt) :]
        at = text.index(" ", len(prompt) + 10)
        stopped = "".join(hornbook.generate(model, prompt, max_tokens=40, temperature=0, stop=[text[at : at + 4]]))
        assert stopped == text[len(prompt) : text.index(text[at : at + 4], len(prompt))]


def test_what_a_tokenizer_puts_around_a_text(english, tmp_path):
    for bos in (False, True):
        sentencepiece("prepend", english, bos=bos).save(str(tmp_path / "tokenizer.json"))
        assert load_tokenizer(tmp_path).around == ([1] * bos, [])
    theirs = sentencepiece("metaspace", english)
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).around == ([1], [2])


# What is lost


@pytest.mark.parametrize(
    ("text", "lost"), [("plain words", 0), ("a 中 b", 3), ("é中é", 3), ("x  y   z", 3), ("ABC abc", 3), ("", 0)]
)
def test_lost_bytes_are_counted(text, lost, tmp_path):
    """Unknown characters, spaces that are collapsed, letters that are lowered."""
    theirs = sentencepiece("metaspace", "é plain words and more words abc xyz " * 30, byte_fallback=False)
    theirs.normalizer = normalizers.Sequence(
        [normalizers.Replace(tokenizers.Regex(" +"), " "), normalizers.Lowercase()]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.lost_bytes(text, ours.encode(text)) == lost


def test_a_whole_text_loses_nothing(pair, english):
    _, ours = pair
    known = "".join(c for c in english if c.isalpha() or c in " .,\n")
    assert ours.lost_bytes(known, ours.encode(known)) == 0


# Vocabularies that are not those of the model


def test_ids_beyond_the_tokenizer_stand_for_no_text(english, tmp_path):
    theirs = sentencepiece("prepend", english)
    model = opened(theirs, tmp_path, theirs.get_vocab_size() + 50)
    assert model.tokenizer.vocabulary == theirs.get_vocab_size() + 50
    unused = theirs.get_vocab_size()
    assert model.tokenizer.decode([*ids_of(theirs, "a b"), unused]) == "a b"
    assert model.tokenizer.token_text(unused) == f"[unused {unused}]"
    with torch.no_grad():
        model.model.head.projection.weight[:unused] = 0  # it writes nothing else
    assert "".join(hornbook.generate(model, "Once", max_tokens=5, temperature=0)) == ""
    seen = hornbook.inspect(model, "over the hill").to_dict()
    assert {each["id"] for token in seen["tokens"] for each in token["alternatives"]} & {unused}


def test_ids_beyond_the_model_are_refused(english, tmp_path):
    theirs = sentencepiece("prepend", english)
    theirs.add_tokens(["<extra>"])
    model = opened(theirs, tmp_path, theirs.get_vocab_size() - 1)
    assert hornbook.inspect(model, "over the hill").to_dict()["num_tokens"] > 1
    with pytest.raises(InputError, match=r'gives "<extra>" the id \d+, but the model has only the ids 0 to'):
        hornbook.inspect(model, "over <extra> the hill")
    with pytest.raises(InputError, match="belongs to the model"):
        model.tokenizer.for_model(2)
    assert np.array_equal(model.tokenizer.encode("hill"), load_tokenizer(tmp_path).encode("hill"))


def test_a_report_says_what_its_tokenizer_loses(english, tmp_path, capsys):
    """8 of 40 bytes are of characters that the tokenizer does not know."""
    theirs = sentencepiece("metaspace", english, byte_fallback=False)
    model = opened(theirs, tmp_path)
    for name, text in (("lost.txt", "two words " * 2 + "中é" * 1 + "文" + "x" * 12), ("kept.txt", "two words " * 4)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert len((tmp_path / "lost.txt").read_bytes()) == 40
    report = hornbook.evaluate(model, str(tmp_path / "lost.txt"))
    assert report.extra["lost_share"] == 8 / 40
    print_report(report)
    shown = capsys.readouterr().out
    assert "not comparable across tokenizers" in shown
    assert "the tokenizer loses 20% of the bytes of this text" in shown
    assert hornbook.inspect(model, (tmp_path / "lost.txt").read_text()).to_dict()["lost_share"] == 0.2
    assert hornbook.evaluate(model, str(tmp_path / "lost.txt"), like="lm-eval")["lost_share"] == 0.2
    compared = hornbook.compare(model, model, str(tmp_path / "lost.txt"))
    assert compared["a"]["lost_share"] == compared["b"]["lost_share"] == 0.2
    made = hornbook.prepare(
        str(tmp_path / "lost.txt"), tokenizer=str(tmp_path / "tokenizer.json"), split="none", out=tmp_path / "prepared"
    )
    assert made["parts"]["train"]["lost_bytes"] == 8
    assert any("loses 20%" in note for note in made["report"]["notes"])
    kept = hornbook.evaluate(model, str(tmp_path / "kept.txt"))
    assert "lost_share" not in kept.extra
    print_report(kept)
    assert " comparable across tokenizers" in (shown := capsys.readouterr().out)
    assert "not comparable" not in shown


@pytest.mark.parametrize("bos", [False, True])
def test_like_other_programs_reads_the_text_as_it_stands(bos, english, tmp_path):
    """A space at the beginning is in the words that lm-eval counts, and in the text that transformers is given."""
    theirs = sentencepiece("metaspace first", english, bos=bos)
    model, text = opened(theirs, tmp_path), "  one space too many\n" + " ".join(english[:80].split())
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    ids = theirs.encode(text).ids
    assert (ids[0] == 1) is bos
    assert 20 < len(ids) < 64  # all in one window

    def nats(ids):
        with torch.no_grad():
            log_p = model.model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
        return -log_p.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]

    found = hornbook.evaluate(model, str(tmp_path / "text.txt"), like="lm-eval")
    assert found["num_tokens"] == len(ids)
    assert found["num_words"] == len(re.split(r"\s+", text))
    assert found["bits_per_byte"] == pytest.approx(nats([1, *ids]).sum().item() / math.log(2) / len(text), rel=1e-5)
    found = hornbook.evaluate(model, str(tmp_path / "text.txt"), like="huggingface")
    assert found["loss_nats_per_token"] == pytest.approx(nats(ids).mean().item(), rel=1e-5)
