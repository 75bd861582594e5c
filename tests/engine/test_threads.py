"""Batches on several cores at once: the same results as one after another, and torch's threads as they were."""

import numpy as np
import pytest
import torch

from hornbook.engine.threads import in_parallel
from hornbook.evaluation.score import Request, score_tokens
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_without_gradients_and_threads_are_given_back(threads):
    def square(x):
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 1
        return x * x

    assert list(in_parallel(square, range(20), threads)) == [(x, x * x) for x in range(20)]
    assert torch.get_num_threads() == threads


def test_an_error_of_one_batch_is_raised_and_threads_are_given_back(threads):
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(lambda x: 1 // x, [2, 1, 0, 1, 2], threads))
    assert torch.get_num_threads() == threads


def test_whoever_stops_listening_leaves_the_threads_as_they_were(threads):
    results = in_parallel(lambda x: x, range(100), threads)
    assert next(results) == (0, 0)
    results.close()
    assert torch.get_num_threads() == threads


def test_the_bits_of_a_score_do_not_depend_on_the_number_of_workers():
    shape = GPTShape(vocabulary=300, context=64, layers=2, width=64, heads=2, family="qwen3")
    model = initialise(Decoder(shape), 0)
    with torch.no_grad():
        model.head.projection.weight.normal_(generator=torch.Generator().manual_seed(1))
    tokens = np.random.default_rng(0).integers(0, 300, (150, 65))
    before, nats = torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        nats.append(
            np.stack([records["nats"] for records in score_tokens(model, [Request(row, 64) for row in tokens])])
        )
    torch.set_num_threads(before)
    assert np.array_equal(nats[0], nats[1])
    assert np.array_equal(nats[0], nats[2])
    assert nats[0].std() > 0.1
