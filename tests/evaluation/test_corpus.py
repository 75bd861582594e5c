"""Scoring: every target once, the same bits however it is grouped, and the sums of an independent float64 oracle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hornbook.evaluation.breakdown import by_source, counts_within, interval_scope
from hornbook.evaluation.corpus import (
    Conventions,
    EncodedDocument,
    conventions_in_words,
    corpus_report,
    document_records,
    document_row,
    encode_documents,
)
from hornbook.evaluation.intervals import one_passage
from hornbook.evaluation.score import forward_rows, padded_length
from hornbook.evaluation.windows import windows
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.records.result import DocumentRow
from hornbook.text.make_tokenizer import raw_bytes

VOCABULARY, END = 90, 89
CONTEXT = 48


def decoder(family="qwen3", context=CONTEXT, dropout=0.0):
    shape = GPTShape(family=family, layers=2, width=32, heads=2, context=context, vocabulary=VOCABULARY)
    model = initialise(Decoder(shape, dropout=dropout), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # zero output projections would make every context look alike
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def document(name, tokens):
    lengths = np.arange(VOCABULARY) % 3 + 1
    size = int(lengths[tokens].sum())
    return EncodedDocument(name, np.asarray(tokens, np.int64), size, size, len(tokens) // 4, name, lengths)


def corpus(count, seed=0, longest=200):
    generator = np.random.default_rng(seed)
    return [
        document(f"d{i}", generator.integers(0, END, generator.integers(0, longest))) for i in range(count)
    ]  # fmt: skip


OURS = Conventions(CONTEXT, CONTEXT // 2, END, END)


@given(st.integers(0, 300), st.integers(1, 40), st.data())
def test_each_target_is_scored_once_with_its_context(num_targets, window, data):
    stride = data.draw(st.integers(1, window))
    scored = []
    for w in windows(num_targets, window, stride):
        assert 0 <= w.start <= w.first < w.stop <= num_targets
        assert w.stop - w.start <= window
        for target in range(w.first, w.stop):
            assert target - w.start + 1 >= min(target + 1, window - stride + 1)
        scored.extend(range(w.first, w.stop))
    assert scored == list(range(num_targets))


@pytest.mark.parametrize(("window", "stride"), [(4, 5), (4, 0), (0, 0)])
def test_windows_refuse(window, stride):
    with pytest.raises(InputError, match="stride"):
        list(windows(10, window, stride))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@pytest.mark.parametrize("stride", [5, 24, 48])
def test_equals_a_float64_oracle(family, stride):
    model, documents = decoder(family), corpus(3, longest=120)
    how = OURS._replace(stride=stride)
    for doc, records in zip(documents, document_records(model, documents, how), strict=True):
        sequence = torch.tensor([END, *doc.tokens.tolist(), END])
        for target in range(len(sequence) - 1):
            # The context by its definition: the window that ends with the stride in which the target lies.
            stop = CONTEXT if target < CONTEXT else CONTEXT + -(-(target - CONTEXT + 1) // stride) * stride
            stop = min(stop, len(sequence) - 1)
            with torch.no_grad():
                logits = model(sequence[None, max(0, stop - CONTEXT) : target + 1])[0, -1].double()
            assert records["nats"][target] == pytest.approx(
                -logits.log_softmax(0)[sequence[target + 1]].item(), abs=2e-5
            )


def score_documents(model, documents, how, **options):
    scores = document_records(model, documents, how, **options)
    return [document_row(each, records, how) for each, records in zip(documents, scores, strict=True)]


def test_sums_from_the_same_logits_are_exact():
    model, documents = decoder(), corpus(1, seed=4)
    tokens = torch.zeros(1, 32, dtype=torch.int64)
    how = OURS._replace(window=32, stride=32)
    short = [document("s", documents[0].tokens[:31])]
    tokens[0] = torch.tensor([END, *short[0].tokens.tolist()])
    with torch.no_grad():
        rows = forward_rows(32, model, torch.device("cpu"))
        hidden = model.hidden(tokens.expand(rows, 32))[0]
        padded = torch.zeros(256, 32)
        padded[:32] = hidden
        logits = model.head(padded)[:32].double()
    targets = torch.tensor([*short[0].tokens.tolist(), END])
    exact = [
        math.log(math.fsum(math.exp(x - row[t]) for x in row)) for row, t in zip(logits.tolist(), targets, strict=True)
    ]
    (row,) = score_documents(model, short, how)
    assert row.nats == pytest.approx(math.fsum(exact[:-1]), rel=1e-12)
    assert row.end_nats == pytest.approx(exact[-1], rel=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_the_bits_do_not_depend_on_batch_size_or_grouping(family):
    model, documents = decoder(family), corpus(12)
    reference = score_documents(model, documents, OURS, batch_size=1)
    for batch_size in (7, 32, 256):
        assert score_documents(model, documents, OURS, batch_size=batch_size) == reference
    backwards = score_documents(model, documents[::-1], OURS, batch_size=32)
    assert backwards[::-1] == reference
    alone = [score_documents(model, [doc], OURS)[0] for doc in documents[:4]]
    assert alone == reference[:4]


def test_counts_and_the_first_token_without_a_beginning():
    doc = document("d", np.arange(10))
    (ours,) = score_documents(decoder(), [doc], OURS)
    assert (ours.num_tokens, ours.num_bytes) == (10, doc.num_bytes)
    assert ours.end_nats is not None
    foreign = score_documents(decoder(), [doc, document("one", [3]), document("none", [])], Conventions(48, 24, None))
    assert [row.num_tokens for row in foreign] == [9, 0, 0]
    assert foreign[0].end_nats is None


def test_evaluate_draws_no_randomness_and_leaves_the_model_as_it_was():
    model = decoder("gpt2", dropout=0.5).train()
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    report = corpus_report(model, corpus(40), OURS, model_name="m", text_name="t")
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    quiet = corpus_report(decoder("gpt2").eval(), corpus(40), OURS, model_name="m", text_name="t")
    assert quiet.nats == report.nats


def test_positions_and_sources_add_up():
    documents = [document(f"{'a' if i % 2 else 'b'}/f.jsonl:{i}", d.tokens) for i, d in enumerate(corpus(40))]
    report = corpus_report(decoder(), documents, OURS, model_name="m", text_name="t")
    table = report.extra["by_position"]
    assert sum(row["num_tokens"] for row in table) == report.num_tokens
    total = math.fsum(row["num_tokens"] * row["loss_nats_per_token"] for row in table)
    assert total == pytest.approx(report.nats, rel=1e-12)
    assert [row["context_tokens"] for row in table][:2] == [[1, 1], [2, 3]]
    assert table[-1]["context_tokens"][1] == int(report.conventions["window"].split()[0])  # no token sees more
    sources = report.extra["by_source"]
    assert set(sources) == {"a/f.jsonl", "b/f.jsonl"}
    assert sum(row["num_bytes"] for row in sources.values()) == report.num_bytes


def test_sources_are_folders_where_each_document_is_a_file():
    rows = [
        DocumentRow(name=name, nats=1.0, num_tokens=1, num_bytes=1, num_characters=1, num_words=1)
        for name in ("x/1.txt", "x/2.txt", "y/1.txt")
    ]
    assert list(by_source(rows)) == ["x", "y"]
    assert by_source(rows[:2]) == {}


def rows_named(*names, num_bytes=300):
    generator = np.random.default_rng(0)
    return [
        DocumentRow(name=name, nats=float(x), num_tokens=100, num_bytes=num_bytes, num_characters=300, num_words=50)
        for name, x in zip(names, generator.normal(200, 20, len(names)), strict=True)
    ]


@pytest.mark.parametrize(
    ("names", "rule", "words"),
    [
        ([f"d{i}" for i in range(5)], "documents", "a few documents are unlike the rest (from 5 documents)"),
        (
            [f"a[{i}:{i + 9}]" for i in range(8)],
            "pieces",
            "this document as a whole, had the model not trained on it; not about others (from 8 pieces",
        ),
        ([f"{d}[{i}:{i + 9}]" for d in "abcdef" for i in range(2)], "pieces", "these 6 documents as a whole"),
        (["a[0:9]", "a[20:29]"], "none", "none: 2 pieces of 1 document are too few"),
        ([f"a[{i}:{i + 9}]" for i in range(7)] + ["b[0:9]"], "none", "none: 8 pieces of 2 documents are too few"),
        ([*"abcd", "e[0:9]", "e[20:29]"], "documents", "from 5 documents"),
        (["a"], "none", "under 2,048 bytes"),
        ([f"a{i}" for i in range(4)], "none", "under 2,048 bytes"),
        (["a.txt[900:]"], "none", "under 2,048 bytes"),
    ],
)
def test_what_an_interval_is_about(names, rule, words):
    scope = interval_scope(rows_named(*names))
    assert scope.rule == rule
    assert words in scope.sentence


def test_a_long_text_of_few_documents_is_a_passage():
    one, four = (
        interval_scope(rows_named("a[900:]", num_bytes=2048)),
        interval_scope(rows_named(*"abcd", num_bytes=512)),
    )
    assert one.rule == four.rule == "passage"
    assert "like this passage, not about other texts" in one.sentence
    assert "like these 4 passages" in four.sentence
    assert "code" in one.sentence  # a file of many parts is not what it holds for


def test_intervals_from_documents_pieces_and_passages():
    many = corpus_report(decoder(), corpus(40), OURS, model_name="m", text_name="t")
    low, high = many.intervals["bits_per_byte"]
    assert low < many.bits_per_byte < high
    assert many.interval_method.startswith("about other text of this kind")
    assert "from 39 documents" in many.interval_method  # one of the 40 is empty
    assert "parts" not in many.extra
    tokens = np.random.default_rng(0).integers(0, END, 2000)
    one = corpus_report(decoder(), [document("d", tokens)], OURS, model_name="m", text_name="t")
    assert "like this passage" in one.interval_method
    sums = np.array(one.extra["parts"])
    assert sums.sum(0) == pytest.approx([one.nats, one.num_tokens, one.num_bytes])
    assert np.ptp(sums[:, 2]) <= 3  # equal bytes, to a token
    expected = one_passage(sums[:, 0], sums[:, 1], one.num_bytes)
    assert one.intervals["loss_nats_per_token"] == pytest.approx(expected.interval)
    pieces = [document(f"d[{i}:{i + 9}]", tokens[i * 100 : i * 100 + 60]) for i in range(8)]
    spread = corpus_report(decoder(), pieces, OURS, model_name="m", text_name="t")
    assert "this document as a whole" in spread.interval_method
    low, high = spread.intervals["loss_nats_per_token"]
    assert low < spread.loss_nats_per_token < high
    tiny = corpus_report(decoder(), [document("d", np.arange(20))], OURS, model_name="m", text_name="t")
    assert tiny.intervals == {}
    assert tiny.interval_method.startswith("none: ")


LEFT = ["Grüße aus dem alten Haus, sagte sie; und er ging.", "Noch ein Satz, der bleibt."]


def bytes_scored(leave_out, texts=LEFT):
    tokenizer = raw_bytes()
    shape = GPTShape(family="gpt2", layers=1, width=32, heads=2, context=16, vocabulary=tokenizer.vocabulary)
    model = initialise(Decoder(shape), seed=1)
    documents = encode_documents([(f"d{i}", text) for i, text in enumerate(texts)], tokenizer)
    how = Conventions(16, 8, tokenizer.end_of_text, tokenizer.end_of_text)
    return corpus_report(
        model, documents, how, model_name="m", text_name="t", leave_out=leave_out, tokenizer=tokenizer
    ), [records["nats"] for records in document_records(model, documents, how)]  # fmt: skip


def test_what_is_left_out_is_in_no_sum():
    whole, nats = bytes_scored(None)
    out = [[(0, 7), (20, 26)], []]  # "Grüße" (a character of two bytes in it), and "Haus, "
    rest, _ = bytes_scored(out)
    gone = np.zeros(len(LEFT[0].encode()), bool)
    gone[0:7] = gone[20:26] = True
    left, row = LEFT[0].encode(), rest.documents[0]
    assert left[0:7].decode() == "Grüße"
    assert row.nats == math.fsum(nats[0][:-1][~gone].tolist())
    assert row.num_tokens == row.num_bytes == len(left) - 13
    assert row.num_characters == len(LEFT[0]) - 11
    assert row.num_words == len(LEFT[0].split()) - 2
    assert row.end_nats == whole.documents[0].end_nats
    assert rest.documents[1] == whole.documents[1]
    assert rest.extra["text_sha256"][0] != whole.extra["text_sha256"][0]
    assert rest.extra["text_sha256"][1] == whole.extra["text_sha256"][1]
    assert sum(r["num_tokens"] for r in rest.extra["by_position"]) == rest.num_tokens
    total = math.fsum(r["num_tokens"] * r["loss_nats_per_token"] for r in rest.extra["by_position"])
    assert total == pytest.approx(rest.nats, rel=1e-12)


def test_both_sides_of_a_cut_add_up():
    whole, _ = bytes_scored(None)
    one, _ = bytes_scored([[(0, 11)], [(0, 99)]])
    other, _ = bytes_scored([[(11, 99)], []])
    for name in ("nats", "num_tokens", "num_bytes", "num_characters", "num_words"):
        assert getattr(one, name) + getattr(other, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    with pytest.raises(InputError, match="no token"):
        bytes_scored([[(0, 99)], [(0, 99)]])


@given(st.text(), st.integers(0, 2**32 - 1))
def test_counts_of_chosen_tokens_and_of_the_rest_add_up(text, seed):
    generator = np.random.default_rng(seed)
    data = text.encode()
    cuts = np.unique(generator.integers(0, len(data) + 1, 5)).tolist()
    tokens = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    chosen = generator.random(len(tokens)) < 0.5
    both = np.add(counts_within(tokens, chosen), counts_within(tokens, ~chosen)).tolist()
    assert both == [len(data), len(text), len(text.split())]


def test_progress_reaches_the_total():
    seen = []
    list(
        document_records(
            decoder(), corpus(9), OURS, batch_size=4, progress=lambda done, total: seen.append((done, total))
        )
    )
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


def test_lengths_are_few_and_fit():
    model = decoder("gpt2", context=100)
    lengths = {padded_length(n, model) for n in range(1, 101)}
    assert lengths == {32, 48, 64, 96, 100}
    assert all(padded_length(n, model) >= n for n in range(1, 101))


def test_conventions_travel():
    words = conventions_in_words(OURS, decoder(), 3)
    assert words["window"] == "48 tokens"
    assert "float32" in words["dtype"]
