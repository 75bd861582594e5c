"""A metric is one row in METRICS and one line in the scoring loop; top-1 accuracy is the example."""

import math

import numpy as np
import pytest
import torch

from hornbook.evaluation.corpus import conventions, corpus_report, document_records, encode_documents
from hornbook.evaluation.inspection import inspect_text, middle_ranks
from hornbook.evaluation.score import TOKEN_METRICS, Request, score_tokens, top1
from hornbook.facts.metrics import METRICS, Metric
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.records.result import Report
from hornbook.reporting.card import model_card
from hornbook.reporting.pages import run_page
from hornbook.reporting.terminal import print_report
from hornbook.text.make_tokenizer import raw_bytes

TEXTS = [(f"{i}.txt", text) for i, text in enumerate(["once upon a time", "there was", "a hornbook", "of", "one leaf"])]


def decoder(spread=0.5):
    shape = GPTShape(family="qwen3", layers=1, width=16, heads=2, context=16, vocabulary=257)
    model, generator = initialise(Decoder(shape), 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return model


def scored(model, texts=TEXTS):
    tokenizer = raw_bytes()
    documents, how = encode_documents(texts, tokenizer), conventions(model, tokenizer)
    return corpus_report(model, documents, how, model_name="m", text_name="t"), documents, how


def test_top1_accuracy_is_the_share_of_tokens_that_rank_first():
    model = decoder()
    report, _, _ = scored(model)
    tokens = [token for _, text in TEXTS for token in inspect_text(model, raw_bytes(), text, greedy_prompt=0).tokens]
    assert report.numbers["top1_accuracy"] == sum(token["rank"] == 1 for token in tokens) / len(tokens)
    low, high = report.intervals["top1_accuracy"]
    assert low <= report.numbers["top1_accuracy"] <= high


def test_equally_probable_tokens_share_the_first_place():
    model = decoder()
    with torch.no_grad():
        model.head.projection.weight.zero_()
    assert scored(model)[0].numbers["top1_accuracy"] == pytest.approx(1 / 257)
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    assert top1(logits, torch.tensor([2, 3])).tolist() == [1 / 3, 0.0]


def test_a_metric_is_one_row_and_one_line(monkeypatch, capsys):
    """Here: the mean rank. JSON, intervals, terminal, page and card have it; the nats stay what they were."""
    model = decoder()
    before, documents, how = scored(model)
    monkeypatch.setitem(
        METRICS, "mean_rank", Metric("mean_rank", "", "lower", "Mean rank.", "mean rank", "{:.2f}".format)
    )
    monkeypatch.setitem(TOKEN_METRICS, "mean_rank", lambda logits, targets: middle_ranks(logits, targets)[0])
    report, _, _ = scored(model)
    ranks = np.concatenate([records["mean_rank"][:-1] for records in document_records(model, documents, how)])
    assert report.numbers["mean_rank"] == math.fsum(ranks.tolist()) / len(ranks)
    assert [row.nats for row in report.documents] == [row.nats for row in before.documents]
    numbers = report.to_dict()
    low, high = numbers["mean_rank_interval_95"]
    assert low < numbers["mean_rank"] < high
    assert Report.from_json(report.to_json()) == report
    print_report(report)
    card = model_card({}, report, to="gguf", dtype="float32", name="m")
    page = run_page([], [], "", numbers, None, None, "", [])
    for shown in (capsys.readouterr().out, card, page):
        assert f"{numbers['mean_rank']:.2f}" in shown
        assert f"{low:.2f} to {high:.2f}" in shown
        assert "mean rank" in shown.lower()


def test_a_report_of_before_has_no_such_number():
    report, _, _ = scored(decoder())
    text = report.to_json().replace('"sums"', '"unknown"')
    assert "top1_accuracy" not in Report.from_json(text).numbers


def test_a_request_may_score_nothing():
    first, second = score_tokens(decoder(), [Request([1, 2], 0), Request([1, 2, 3], 2)])
    assert (len(first), len(second)) == (0, 2)
