"""The other programs' conventions, against straight transcriptions of what they document."""

import math

import pytest
import torch
from torch.nn import functional as F

from hornbook.evaluation.likes import like_huggingface, like_lm_eval
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder, initialise
from hornbook.text.tokenizer import raw_bytes

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
