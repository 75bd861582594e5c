import math

import numpy as np
import pytest
import torch

from hornbook.evaluation.calibration import calibration, calibration_bins, sample_statistics
from hornbook.evaluation.corpus import conventions, encode_documents
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.make_tokenizer import raw_bytes


def decoder(spread):
    tokenizer = raw_bytes()
    shape = GPTShape(family="gpt2", layers=1, width=16, heads=1, context=32, vocabulary=tokenizer.vocabulary)
    model, generator = initialise(Decoder(shape), 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return model, tokenizer


def test_each_number_by_a_plain_softmax():
    model, tokenizer = decoder(0.3)
    text = "A lamp is nothing without its oil."
    how = conventions(model, tokenizer)._replace(window=32, stride=32)
    seen = calibration(model, encode_documents([("a", text[:31])], tokenizer), how)
    ids = torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text[:31]).tolist()])
    with torch.no_grad():
        p = model(ids[None, :-1])[0].double().softmax(-1)
    own = p[torch.arange(31), ids[1:]]
    rank = 1 + (p > own[:, None]).sum(-1)
    entropy = -(p * p.log()).sum(-1)
    assert seen["num_tokens"] == 31
    assert seen["entropy_gap_nats"] == pytest.approx((-own.log() - entropy).mean().item(), abs=1e-5)
    assert seen["mean_reciprocal_rank"] == pytest.approx((1 / rank).mean().item())
    assert seen["top_accuracy"]["10"] == pytest.approx((rank <= 10).double().mean().item())


def test_a_model_that_is_too_sure_has_an_entropy_gap():
    text = "".join(chr(33 + i * i % 90) for i in range(300))
    gaps = []
    for spread in (0.0, 3.0):
        model, tokenizer = decoder(spread)
        how = conventions(model, tokenizer)
        gaps.append(calibration(model, encode_documents([("a", text)], tokenizer), how)["entropy_gap_nats"])
    assert abs(gaps[0]) < 0.05
    assert gaps[1] > 1


def test_bins_of_a_calibrated_and_of_a_sure_forecast():
    generator = np.random.default_rng(0)
    confidence = generator.random(30_000)
    calibrated = calibration_bins(confidence, generator.random(30_000) < confidence)
    assert len(calibrated) == 15
    assert math.fsum(b["share"] for b in calibrated) == pytest.approx(1)
    assert max(abs(b["confidence"] - b["accuracy"]) for b in calibrated) < 0.04
    sure = calibration_bins(np.full(100, 0.9), np.arange(100) % 2 == 0)
    assert math.fsum(b["share"] * abs(b["confidence"] - b["accuracy"]) for b in sure) == pytest.approx(0.4, abs=0.07)


def test_samples():
    tokenizer = raw_bytes()
    healthy = [list(f"sample {i}: every word is new here {i * 7919}".encode()) for i in range(20)]
    stuck = [list(b"and the and the and the and the and the ") for _ in range(20)]
    good, bad = sample_statistics(healthy, tokenizer), sample_statistics(stuck, tokenizer)
    assert good["loop_rate"] == 0
    assert bad["loop_rate"] == 1
    assert good["repetition_4"] < 0.1 < 0.7 < bad["repetition_4"]
    assert bad["distinct_1"] == pytest.approx(len(set(b"and the ")) / (20 * 40))
    broken = sample_statistics([list(b"\xff abc"), list("ü".encode()[:1]), list(b"ok")], tokenizer)
    assert broken["invalid_utf8_rate"] == pytest.approx(1 / 3)
    assert sample_statistics([], tokenizer)["distinct_1"] is None
