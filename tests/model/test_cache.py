"""The cache keeps what was appended, for each layer, and no more than it has room for."""

import pytest
import torch

from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Cache

SHAPE = GPTShape(family="qwen3", layers=3, width=32, heads=4, kv_heads=2, context=16, vocabulary=50)


def test_appended_pieces_come_back_in_order_for_each_layer():
    cache = Cache(SHAPE, batch=2, capacity=9)
    written = torch.randn(3, 2, 2, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    for start, end in ((0, 4), (4, 5), (5, 9)):
        for layer in range(3):
            keys, values = cache.append(layer, *written[layer, :, :, :, start:end])
            assert torch.equal(keys, written[layer, 0, :, :, :end])
            assert torch.equal(values, written[layer, 1, :, :, :end])
        cache.length = end


def test_a_length_taken_back_is_read_again():
    cache = Cache(SHAPE, batch=1, capacity=4)
    first, second = torch.ones(2, 1, 2, 4, 8), torch.zeros(2, 1, 2, 2, 8)
    cache.append(0, *first)
    cache.length = 1
    keys, _ = cache.append(0, *second)
    assert keys[0, 0, :, 0].tolist() == [1, 0, 0]


def test_memory_is_what_the_shape_says_and_is_set_aside_once():
    cache = Cache(SHAPE, batch=2, capacity=9)
    assert cache.store.nbytes == 2 * SHAPE.layers * SHAPE.kv_heads * SHAPE.head_width * 4 * 2 * 9
    half = Cache(SHAPE, batch=2, capacity=9, dtype=torch.bfloat16)
    assert half.store.nbytes == cache.store.nbytes / 2
    keys, _ = cache.append(1, *torch.zeros(2, 2, 2, 3, 8))
    assert keys.untyped_storage().data_ptr() == cache.store.untyped_storage().data_ptr()


def test_more_than_the_capacity_is_refused():
    cache = Cache(SHAPE, batch=1, capacity=4)
    cache.length = 3
    with pytest.raises(ValueError, match="holds 4 tokens, not 5"):
        cache.append(0, *torch.zeros(2, 1, 2, 2, 8))
