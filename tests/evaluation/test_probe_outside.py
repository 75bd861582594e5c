import math

import pytest

from hornbook.data.prepare import prepare
from hornbook.evaluation.baselines import baselines
from hornbook.evaluation.corpus import conventions, corpus_report, part_documents
from hornbook.evaluation.probe import Probe, selection_places
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.documents import documents

CONTEXT = 16


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, english):
    folder = tmp_path_factory.mktemp("chosen")
    (folder / "text.txt").write_text(english[:6000], encoding="utf-8")
    return prepare(documents([str(folder / "text.txt")]), tokenizer="bytes", split="blocks:0.2", out=folder / "out")


def test_nothing_is_set_aside_where_the_last_weights_are_used_or_too_little_would_remain(prepared):
    assert selection_places(prepared.validation, CONTEXT, None) is None
    assert selection_places(prepared.validation, CONTEXT, 10**6) is None
    assert selection_places(prepared.validation, CONTEXT, 200) is not None


def test_the_report_and_the_baselines_leave_out_the_same_tokens(prepared):
    part, tokenizer = prepared.validation, prepared.tokenizer
    shape = GPTShape(family="gpt2", layers=1, width=16, heads=2, context=CONTEXT, vocabulary=tokenizer.vocabulary)
    model = initialise(Decoder(shape), seed=3)
    texts, how = part_documents(part, tokenizer), conventions(model, tokenizer)
    places = selection_places(prepared.validation, CONTEXT, 200)
    whole = corpus_report(model, texts, how, model_name="m", text_name="t")
    rest = corpus_report(model, texts, how, model_name="m", text_name="t", leave_out=places, tokenizer=tokenizer)
    left_out = sum(stop - start for document in places for start, stop in document)
    assert 150 < left_out <= 200
    assert rest.num_tokens == whole.num_tokens - left_out
    assert rest.num_bytes == whole.num_bytes - left_out  # a byte each
    level = baselines(prepared.train, texts, how, tokenizer.vocabulary, places)["uniform"]
    assert level["loss_nats_per_token"] == pytest.approx(math.log(tokenizer.vocabulary))
    assert level["bits_per_byte"] == pytest.approx(math.log2(tokenizer.vocabulary) * rest.num_tokens / rest.num_bytes)


def test_what_is_left_out_is_what_the_probe_scores(prepared):
    """The nats of the left-out tokens, scored as the probe cuts them, are the probe's."""
    tokenizer, part = prepared.tokenizer, prepared.validation
    probe = Probe(part, context=CONTEXT, num_tokens=200, byte_lengths=part_documents(part, tokenizer)[0].byte_lengths)
    places = selection_places(prepared.validation, CONTEXT, 200)
    inside = sum(stop - start for document in places for start, stop in document)
    separators = sum(int((request.ids[1:] == tokenizer.end_of_text).sum()) for request in probe.requests)
    assert inside == probe.num_tokens - separators
