"""Inspection agrees with evaluation to the bit, with plain softmax, and with finite differences."""

import math

import numpy as np
import pytest
import torch

from hornbook.evaluation.calibration import calibration
from hornbook.evaluation.corpus import conventions, corpus_report, encode_documents
from hornbook.evaluation.inspection import gradients, inspect_text, weights
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.likelihood import six_steps
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.make_tokenizer import raw_bytes

TEXT = "The moral is: grow or perish. Ø\n" * 4


def decoder(family="qwen3", width=32, layers=2, context=64):
    shape = GPTShape(
        family=family, layers=layers, width=width, heads=2, context=context, vocabulary=raw_bytes().vocabulary
    )
    model, generator = initialise(Decoder(shape), seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_the_sum_is_evaluates_sum_exactly(family):
    model, tokenizer = decoder(family), raw_bytes()
    how = conventions(model, tokenizer)
    report = corpus_report(model, encode_documents([("t", TEXT)], tokenizer), how, model_name="m", text_name="t")
    seen = inspect_text(model, tokenizer, TEXT)
    assert seen.surprise.nats == report.nats
    result = seen.to_dict()
    for key in ("nats", "loss_nats_per_token", "perplexity", "bits_per_byte", "num_tokens", "num_bytes"):
        assert result[key] == getattr(report, key)
    assert seen.end["nats"] == report.documents[0].end_nats


def test_each_number_by_the_six_steps():
    model, tokenizer = decoder(), raw_bytes()
    text = "grow or perish"
    ids = tokenizer.encode(text).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.end_of_text, *ids[:-1]]]))[0]
    steps = six_steps(logits, torch.tensor(ids))
    seen = inspect_text(model, tokenizer, text, top_k=3)
    for n, token in enumerate(seen.tokens):
        p = steps["probabilities"][n]
        assert token["id"] == ids[n]
        assert token["text"] == text[n]
        assert token["logit"] == pytest.approx(steps["logits"][n, ids[n]].item(), abs=1e-4)
        assert token["probability"] == pytest.approx(p[ids[n]].item(), rel=1e-4)
        assert token["log_probability"] == pytest.approx(steps["log_probabilities"][n].item(), abs=1e-4)
        assert token["nats"] == -token["log_probability"]
        assert token["rank"] == 1 + (p > p[ids[n]]).sum().item()
        assert token["entropy_nats"] == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)
        assert token["surplus_nats"] == token["nats"] - token["entropy_nats"]
        assert [a["id"] for a in token["alternatives"]] == p.topk(3).indices.tolist()
    assert seen.surprise.loss == pytest.approx(steps["cross_entropy"].item(), abs=1e-5)


def test_a_model_that_knows_nothing_gives_every_token_the_middle_rank():
    model, tokenizer = decoder(), raw_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    middle = (tokenizer.vocabulary + 1) / 2
    assert {token["rank"] for token in inspect_text(model, tokenizer, "perish").tokens} == {middle}
    seen = calibration(model, encode_documents([("a", "perish")], tokenizer), conventions(model, tokenizer))
    assert seen["mean_reciprocal_rank"] == pytest.approx(1 / middle)
    assert seen["top_accuracy"]["10"] == pytest.approx(10 / tokenizer.vocabulary)


def test_greedy_departs_where_a_rank_is_not_one():
    model, tokenizer = decoder(), raw_bytes()
    seen = inspect_text(model, tokenizer, TEXT[:50], greedy_prompt=10)
    first = next(n for n in range(10, 50) if seen.tokens[n]["rank"] != 1)
    assert seen.greedy["departs_at_token"] == first
    assert seen.greedy["instead_of"] == seen.tokens[first]["text"]
    own = tokenizer.decode(inspect_text(model, tokenizer, TEXT[:10], greedy_prompt=2).greedy["ids"])
    again = inspect_text(model, tokenizer, TEXT[:2] + own, greedy_prompt=2)
    if tokenizer.encode(TEXT[:2] + own).tolist()[2:] == again.greedy["ids"]:  # the continuation is valid UTF-8
        assert again.greedy["departs_at_token"] is None


def test_gradient_of_the_logits_is_p_minus_one():
    model, tokenizer = decoder().double(), raw_bytes()
    text = "perish"
    (document,) = encode_documents([("t", text)], tokenizer)
    how = conventions(model, tokenizer)
    slopes = gradients(model, document, how)
    seen = inspect_text(model, tokenizer, text, with_gradients=True)
    assert seen.gradients == slopes
    for token, slope in zip(seen.tokens, slopes["tokens"], strict=True):
        assert slope["own_logit_gradient"] == pytest.approx((token["probability"] - 1) / len(text), abs=1e-12)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_gradient_norms_agree_with_finite_differences(family):
    model, tokenizer = decoder(family, width=4, layers=1, context=8).double(), raw_bytes()
    (document,) = encode_documents([("t", "grow or perish")], tokenizer)
    how = conventions(model, tokenizer)
    slopes = gradients(model, document, how)

    def loss():
        report = corpus_report(model, [document], how, model_name="m", text_name="t")
        return report.loss_nats_per_token

    h = 1e-5
    for part in ("blocks.0", "head") if model.shape.tied else ("blocks.0",):
        squares = []
        for name, parameter in model.named_parameters():
            if not name.startswith(part):
                continue
            flat = parameter.data.view(-1)
            for i in range(len(flat)):
                value = flat[i].item()
                flat[i] = value + h
                up = loss()
                flat[i] = value - h
                squares.append(((up - loss()) / (2 * h)) ** 2)
                flat[i] = value
        (row,) = (row for row in slopes["parts"] if row["part"] == part)
        assert row["gradient_norm"] == pytest.approx(math.sqrt(math.fsum(squares)), abs=1e-6)


def test_weights_are_counted_once():
    for family in ("gpt2", "qwen3"):
        model = decoder(family)
        seen = weights(model)
        assert seen["num_parameters"] == sum(p.numel() for p in model.parameters()) == model.shape.parameters
        assert seen["tied"] == model.shape.tied
        assert sum(seen["num_parameters_by_part"].values()) == seen["num_parameters"]
        for row in seen["weights"]:
            assert sum(row["histogram"]) == row["num_parameters"] == np.prod(row["shape"])


def test_nothing_to_score_is_said():
    with pytest.raises(InputError, match="no token"):
        inspect_text(decoder(), raw_bytes(), "")


@pytest.mark.parametrize("text", ["你好，世界", "สวัสดี a", "é👩‍👩‍👧x", "a\u2028b"])
def test_parts_of_characters_are_bytes_and_whole_ones_characters(text):
    """By bytes every token is a part: all but the last of a character are shown as bytes, the last as the character."""
    tokenizer = raw_bytes()
    model = initialise(
        Decoder(GPTShape(family="qwen3", layers=1, width=16, heads=2, context=32, vocabulary=257)), 0
    )  # fmt: skip
    seen = inspect_text(model, tokenizer, text, top_k=300)
    expected = []
    for character in text:
        *parts, _ = character.encode()
        expected += [*(f"<0x{part:02X}>" for part in parts), character]
    assert [token["text"] for token in seen.tokens] == expected
    assert all("\ufffd" not in token["text"] for token in seen.tokens)
    alternatives = {each["id"]: each["text"] for each in seen.tokens[-1]["alternatives"]}
    last = text[-1].encode()
    other = last[:-1] + bytes([last[-1] ^ 1])
    assert alternatives[other[-1]] == other.decode()  # what the character would have been
    assert alternatives[0xFF] == "<0xFF>"
