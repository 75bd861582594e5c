import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hornbook import likelihood
from hornbook.data.packing import IGNORE
from hornbook.facts.shape import GPTShape
from hornbook.likelihood import Surprise, chunk_rows, head_logits, perplexity, six_steps, sum_nats, token_nats
from hornbook.model.cpu import functional
from hornbook.model.decoder import Decoder, Head
from hornbook.model.init import initialise


def drawn(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def targets_of(number, vocabulary, seed=1):
    return torch.randint(0, vocabulary, (number,), generator=torch.Generator().manual_seed(seed))


def head_nats(head, hidden, targets, vocabulary):
    return torch.cat([token_nats(logits, targets[at]) for at, logits in head_logits(head, hidden, vocabulary)])


def oracle(logits, targets):
    """-log softmax at the target in numpy's float64, by the definition."""
    logits = logits.double().numpy()
    shifted = logits - logits.max(-1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(-1))
    picked = np.take_along_axis(shifted, np.maximum(targets.numpy(), 0)[:, None], -1)[:, 0]
    return np.where(targets.numpy() == IGNORE, 0.0, log_sums - picked)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 positions, the smallest there are."""
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 1)
    assert chunk_rows(50) == 64


@given(st.integers(1, 60_000), st.floats(-50, 50))
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(vocabulary, level):
    logits = torch.full((2, vocabulary), level, dtype=torch.float64)
    nats = token_nats(logits, torch.tensor([0, vocabulary - 1]))
    assert Surprise(nats.sum().item(), 2, 1).perplexity == pytest.approx(vocabulary, rel=1e-12)


def test_token_nats_against_the_definition():
    logits, targets = drawn(300, 77, scale=6), targets_of(300, 77)
    targets[::7] = IGNORE
    assert token_nats(logits, targets).numpy() == pytest.approx(oracle(logits, targets), rel=1e-12, abs=1e-14)
    nats = token_nats(logits.float(), targets)
    assert nats.dtype == torch.float32
    assert nats.numpy() == pytest.approx(oracle(logits.float(), targets), rel=1e-5, abs=1e-6)


def test_half_precision_logits_are_raised_first():
    logits, targets = drawn(50, 77).bfloat16(), targets_of(50, 77)
    assert token_nats(logits, targets).numpy() == pytest.approx(oracle(logits, targets), rel=1e-5)


def test_enormous_logits_stay_finite():
    logits = torch.tensor([[0.0, 3e38], [3e38, 0.0]])
    assert token_nats(logits, torch.tensor([1, 1])).tolist() == pytest.approx([0.0, 3e38])


@pytest.mark.parametrize("number", [1, 63, 64, 65, 200, 1500])
def test_nats_of_head_logits_sum_within_1e_12_of_the_definition(small_chunks, number):
    head = torch.nn.Linear(16, 50, bias=False, dtype=torch.float64)
    hidden, targets = drawn(number, 16), targets_of(number, 50)
    targets[::5] = IGNORE
    with torch.no_grad():
        ours, wanted = head_nats(head, hidden, targets, 50), oracle(head(hidden), targets)
    assert math.fsum(ours.tolist()) == pytest.approx(math.fsum(wanted), rel=1e-12)
    assert ours.numpy() == pytest.approx(wanted, rel=1e-11, abs=1e-13)


def a_head(width=16, vocabulary=50):
    head = Head(GPTShape(family="gpt2", layers=1, width=width, heads=1, context=8, vocabulary=vocabulary))
    with torch.no_grad():
        for seed, parameter in enumerate(head.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=seed))
    return head


@pytest.mark.parametrize("few_rows", [1, 10**9])
def test_both_ways_to_multiply_give_the_same_logits(monkeypatch, few_rows):
    head, hidden = a_head(width=64, vocabulary=3000), drawn(256, 64).float()
    wanted = head.double()(hidden.double())
    head.float()
    monkeypatch.setattr(functional, "FEW_ROWS", few_rows)
    with torch.no_grad():
        torch.testing.assert_close(head(hidden).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("few_rows", [1, 10**9])
def test_head_logits_do_not_show_how_positions_are_grouped(monkeypatch, few_rows):
    monkeypatch.setattr(functional, "FEW_ROWS", few_rows)
    head = a_head(width=32, vocabulary=300)
    hidden, targets = drawn(700, 32).float(), targets_of(700, 300)
    with torch.no_grad():
        together = head_nats(head, hidden, targets, 300)
        for size in (1, 7, 32, 699):
            parts = [head_nats(head, hidden[i : i + size], targets[i : i + size], 300) for i in range(0, 700, size)]
            assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("few_rows", [1, 10**9])
@pytest.mark.parametrize("number", [64, 65, 200])
def test_chunked_sum_equals_the_whole_in_value_and_gradients(small_chunks, monkeypatch, number, few_rows):
    monkeypatch.setattr(functional, "FEW_ROWS", few_rows)
    head = a_head()
    hidden = drawn(number, 16).float().requires_grad_()
    targets = targets_of(number, 50)
    targets[3::4] = IGNORE
    total = sum_nats(head, hidden, targets, 50)
    gradients = torch.autograd.grad(total * 0.37, [hidden, *head.parameters()])
    exact = head.double()
    hidden_exact = hidden.detach().double().requires_grad_()
    whole = token_nats(exact(hidden_exact), targets).sum()
    wanted = torch.autograd.grad(whole * 0.37, [hidden_exact, *exact.parameters()])
    assert total.item() == pytest.approx(whole.item(), rel=1e-6)
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_chunks_do_not_change_the_gradients_of_a_model(monkeypatch, tied):
    """A tied head's weight is reached by two ways: as the head and as the embedding. Both must arrive."""
    shape = GPTShape(family="gpt2", layers=1, width=16, heads=2, context=40, vocabulary=50, tied=tied)
    model = initialise(Decoder(shape), seed=0)
    tokens, targets = targets_of(160, 50).view(4, 40), targets_of(160, 50, seed=2)

    def gradients():
        model.zero_grad()
        sum_nats(model.head, model.hidden(tokens).flatten(0, 1), targets, 50).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    whole = gradients()
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 1)
    chunked = gradients()
    assert chunked.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_the_gradient_is_probability_minus_one_hot():
    head = a_head(width=20, vocabulary=20)
    head.norm, head.projection.weight.data = torch.nn.Identity(), torch.eye(20)
    logits = drawn(9, 20).float().requires_grad_()
    targets = targets_of(9, 20)
    sum_nats(head, logits, targets, 20).backward()
    wanted = logits.detach().softmax(-1) - torch.nn.functional.one_hot(targets, 20)
    torch.testing.assert_close(logits.grad, wanted)


@pytest.mark.parametrize("number", [40, 200])
def test_ignored_targets_neither_count_nor_pull(small_chunks, number):
    head = a_head()
    hidden, targets = drawn(number, 16).float(), targets_of(number, 50)
    keep = torch.arange(number) % 3 != 0
    masked = torch.where(keep, targets, IGNORE)
    hidden = torch.where(keep[:, None], hidden, 1e6).requires_grad_()
    total = sum_nats(head, hidden, masked, 50)
    total.backward()
    assert total.item() == pytest.approx(sum_nats(head, hidden[keep].detach(), targets[keep], 50).item(), rel=1e-6)
    assert not hidden.grad[~keep].any()
    assert hidden.grad[keep].any()


@pytest.mark.parametrize("vocabulary", [2, 65, 257, 4096, 50257, 151_936, 10**7])
def test_a_chunk_of_logits_stays_within_bounds(vocabulary):
    rows = chunk_rows(vocabulary)
    assert rows % 64 == 0
    assert rows == 64 or rows * vocabulary * 4 <= likelihood.LOGITS_BYTES


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=20))
def test_surprises_add(parts):
    surprises = [Surprise(*part) for part in parts]
    total = sum(surprises[1:], surprises[0])
    nats = sum(Fraction(s.nats) for s in surprises)
    tokens, num_bytes = sum(s.num_tokens for s in surprises), sum(s.num_bytes for s in surprises)
    assert (total.num_tokens, total.num_bytes) == (tokens, num_bytes)
    assert total.loss == pytest.approx(float(nats / tokens), rel=1e-12, abs=1e-300)
    assert total.bits_per_byte == pytest.approx(float(nats) / num_bytes / math.log(2), rel=1e-12, abs=1e-300)


def test_perplexity_beyond_floats_is_infinite():
    assert perplexity(709.5) == math.inf
    assert perplexity(0.0) == 1.0
    assert Surprise(5e3, 1, 1).perplexity == math.inf


def test_the_six_steps_agree_with_the_fused_way():
    logits, targets = drawn(40, 33, scale=4), targets_of(40, 33)
    steps = six_steps(logits, targets)
    torch.testing.assert_close(-steps["log_probabilities"], token_nats(logits, targets), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(steps["target_probabilities"].log(), steps["log_probabilities"], rtol=1e-9, atol=1e-9)
    assert steps["cross_entropy"].item() == pytest.approx(token_nats(logits, targets).mean().item(), rel=1e-12)
    assert steps["probabilities"].sum(-1).numpy() == pytest.approx(1.0)


def test_a_vanishing_probability_keeps_its_logarithm():
    steps = six_steps(torch.tensor([[0.0, 2000.0]]), torch.tensor([0]))
    assert steps["target_probabilities"].item() == 0.0
    assert steps["log_probabilities"].item() == -2000.0
