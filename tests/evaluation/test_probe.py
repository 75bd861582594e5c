import math
import threading

import numpy as np
import pytest
import torch

from hornbook.data.prepare import prepare
from hornbook.evaluation import probe as module
from hornbook.evaluation.probe import Probe, byte_lengths, probe_starts, probed_places
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.documents import documents

CONTEXT = 16


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, english):
    folder = tmp_path_factory.mktemp("probe")
    (folder / "text.txt").write_text("Ünïcödé: " + english[:2000], encoding="utf-8")
    return prepare(documents([str(folder / "text.txt")]), tokenizer="bpe:300", split="tail:0.1", out=folder / "out")


@pytest.fixture(scope="module")
def model(prepared):
    shape = GPTShape(
        family="gpt2", layers=1, width=16, heads=2, context=CONTEXT, vocabulary=prepared.tokenizer.vocabulary
    )
    return initialise(Decoder(shape, dropout=0.3), seed=3)


def probe_of(prepared, num_tokens, part="train", context=CONTEXT):
    lengths = byte_lengths(prepared.tokenizer)
    return Probe(getattr(prepared, part), context=context, num_tokens=num_tokens, byte_lengths=lengths)


def one_by_one(model, prepared, windows, part):
    """The same number, one window at a time, from the definition."""
    stream = part.take(np.zeros(1, np.int64), part.num_tokens)[0]
    nats, num_tokens, spelled = [], 0, b""
    model.eval()
    for i in range(windows):
        start = i * max(1, part.num_tokens // CONTEXT) // windows * CONTEXT
        ids = [int(stream[k % len(stream)]) for k in range(start, start + CONTEXT + 1)]
        ids = ids[: 1 + min(CONTEXT, part.num_tokens)]
        with torch.no_grad():
            logits = model.head(model.hidden(torch.tensor([ids[:-1]])))[0].double()
        nats += (-logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]]).tolist()
        num_tokens += len(ids) - 1
        spelled += prepared.tokenizer.decode_bytes([i for i in ids[1:] if i != prepared.tokenizer.end_of_text])
    return math.fsum(nats), num_tokens, len(spelled)


@pytest.mark.parametrize(("part", "num_tokens"), [("train", 100), ("train", 10**9), ("validation", 64)])
def test_against_one_window_at_a_time(prepared, model, part, num_tokens):
    probe = probe_of(prepared, num_tokens, part)
    side = getattr(prepared, part)
    windows = min(num_tokens, side.num_tokens) // CONTEXT
    nats, tokens, num_bytes = one_by_one(model, prepared, windows, side)
    found = probe.score(model)
    assert (found.surprise.num_tokens, found.surprise.num_bytes) == (tokens, num_bytes)
    assert found.surprise.nats == pytest.approx(nats, rel=1e-6)


def test_a_side_shorter_than_the_context_is_read_once(prepared, model, tmp_path):
    (tmp_path / "short.txt").write_text("x" * 90 + "abcdefghij", encoding="utf-8")
    short = prepare(documents([str(tmp_path / "short.txt")]), tokenizer="bytes", split="tail:0.1", out=tmp_path / "out")
    part = short.validation
    assert part.num_tokens < CONTEXT
    probe = probe_of(short, 1000, "validation")
    small = initialise(
        Decoder(GPTShape(family="gpt2", layers=1, width=16, heads=2, context=CONTEXT, vocabulary=257)), 3
    )
    found = probe.score(small)
    assert (found.surprise.num_tokens, found.surprise.num_bytes) == (part.num_tokens, 10)
    assert found.surprise.nats == pytest.approx(one_by_one(small, short, 1, part)[0], rel=1e-6)


def test_it_touches_neither_randomness_nor_mode(prepared, model):
    probe = probe_of(prepared, 200)
    model.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = probe.score(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert probe.score(model.eval()) == first
    assert not model.training
    assert probe_of(prepared, 200).score(model) == first


def test_the_grouping_of_windows_does_not_show(prepared, model, monkeypatch):
    whole = probe_of(prepared, 10**9).score(model)
    monkeypatch.setattr(module, "ROWS_TOKENS", CONTEXT)
    assert probe_of(prepared, 10**9).score(model).loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_a_stop_gives_no_number_and_restores_the_mode(prepared, model, training):
    stop = threading.Event()
    stop.set()
    model.train(training)
    assert probe_of(prepared, 200).score(model, stop) is None
    assert model.training is training


def test_the_nats_of_each_window_add_up_and_are_the_same_windows_again(prepared, model):
    probe = probe_of(prepared, 10**9)
    seen = probe.score(model)
    assert len(seen.window_nats) == len(probe.requests) > 8
    assert math.fsum(seen.window_nats) * CONTEXT == pytest.approx(seen.surprise.nats, rel=1e-4)
    alone = [one_by_one(model, prepared, len(probe.requests), prepared.train)[0] / seen.surprise.num_tokens]
    assert np.mean(seen.window_nats) == pytest.approx(alone[0], rel=1e-4)


@pytest.mark.parametrize("num_tokens", [100, 10**9])
def test_the_ranges_are_the_tokens_that_are_scored(prepared, num_tokens):
    """Each scored target of the stream lies in the range of its document; separators and wrapped ends in none."""
    part = prepared.train
    ranges = probed_places(part, CONTEXT, num_tokens)
    assert len(ranges) == len(part.documents)
    inside = np.zeros(part.num_tokens, bool)
    for (start, *_), some in zip(part.documents.tolist(), ranges, strict=True):
        for a, b in some:
            inside[start + a : start + b] = True
    wanted = np.zeros(part.num_tokens, bool)
    for start in probe_starts(part, CONTEXT, num_tokens).tolist():
        wanted[start + 1 : start + CONTEXT + 1] = True
    text = np.zeros(part.num_tokens, bool)
    for start, count, *_ in part.documents.tolist():
        text[start : start + count] = True
    assert (inside == (wanted & text)).all()
    assert inside.any()
