import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.data.loader import Batches
from hornbook.data.packing import IGNORE
from hornbook.data.shards import TokenStream
from hornbook.facts.errors import InputError


def a_part(num_tokens, num_shards=1, starts=(0,)):
    """A stream in which every id is its own position, so that what a batch holds says where it was read."""
    ids = np.arange(num_tokens, dtype=np.uint32)
    ends = [*starts[1:], num_tokens]
    documents = np.array([[s + 1, e - s - 1, 0, 0, 0] for s, e in zip(starts, ends, strict=True)], np.int64)
    return TokenStream(np.array_split(ids, num_shards), documents, [f"d{i}" for i in range(len(starts))])


@given(
    num_tokens=st.integers(2, 120),
    context=st.integers(1, 40),
    batch=st.integers(1, 20),
    num_shards=st.integers(1, 3),
    seed=st.integers(0, 2**64),
)
def test_every_token_is_a_target_once_an_epoch_across_epoch_boundaries(num_tokens, context, batch, num_shards, seed):
    batches = Batches(a_part(num_tokens, num_shards), context=context, batch=batch, seed=seed)
    windows, num_epochs = batches.windows_per_epoch, 3
    steps = [batches.batch(k) for k in range(-(-windows * num_epochs // batch))]
    inputs = np.concatenate([i for i, _ in steps])[: windows * num_epochs]
    targets = np.concatenate([t for _, t in steps])[: windows * num_epochs]
    for epoch in targets.reshape(num_epochs, -1):
        assert sorted(epoch[epoch != IGNORE].tolist()) == list(range(num_tokens))
    np.testing.assert_array_equal(inputs[:, 1:], (inputs[:, :1] + np.arange(1, context)) % num_tokens)
    scored = targets != IGNORE
    np.testing.assert_array_equal(targets[scored], ((inputs + 1) % num_tokens)[scored])
    assert (scored[:, :-1] >= scored[:, 1:]).all()  # what is ignored is a tail


@given(num_tokens=st.integers(2, 200), context=st.integers(1, 30), order=st.permutations(list(range(12))))
def test_a_batch_depends_on_seed_and_step_only(num_tokens, context, order):
    part = a_part(num_tokens)
    in_order = [Batches(part, context=context, batch=4, seed=3).batch(k) for k in range(12)]
    one = Batches(part, context=context, batch=4, seed=3)
    for step in order:  # one object, any order: no state
        for mine, theirs in zip(one.batch(step), in_order[step], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_sequence_of_windows_does_not_depend_on_the_batch():
    part = a_part(1_000)
    by_batch = {
        b: np.concatenate([Batches(part, context=7, batch=b, seed=5).batch(k)[1] for k in range(600 // b)])
        for b in (1, 4, 6, 600)
    }
    for other in by_batch.values():
        np.testing.assert_array_equal(other, by_batch[1])


def test_another_seed_gives_other_batches():
    part = a_part(1_000)
    drawn = {Batches(part, context=10, batch=4, seed=s).batch(0)[0].tobytes() for s in range(20)}
    assert len(drawn) == 20


def test_windows_that_do_not_shift_are_the_same_in_every_epoch_in_another_order():
    still = Batches(a_part(1_000), context=10, batch=100, seed=5, shift=False)
    first, second = still.batch(0)[0], still.batch(1)[0]
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == list(range(0, 1_000, 10))
    assert first.tolist() != second.tolist()
    moving = Batches(a_part(1_000), context=10, batch=100, seed=5)
    assert len({int(moving.batch(epoch)[0][0, 0]) % 10 for epoch in range(5)}) > 1


def test_types_and_shapes():
    batches = Batches(a_part(50), context=8, batch=3, seed=0)
    (inputs, targets), documents = batches.batch(2), batches.documents(2)
    assert inputs.shape == targets.shape == documents.shape == (3, 8)
    assert (inputs.dtype, targets.dtype, documents.dtype) == (np.int64, np.int64, np.int32)
    assert inputs.flags.c_contiguous
    assert targets.flags.c_contiguous


@given(
    starts=st.sets(st.integers(1, 99), max_size=8).map(lambda s: (0, *sorted(s))),
    num_shards=st.integers(1, 3),
    step=st.integers(0, 30),
)
def test_documents_of_the_inputs_match_a_plain_count(starts, num_shards, step):
    batches = Batches(a_part(100, num_shards, starts), context=13, batch=3, seed=1)
    (inputs, _), documents = batches.batch(step), batches.documents(step)
    owner = list(itertools.accumulate(1 if p in starts else 0 for p in range(100)))
    np.testing.assert_array_equal(documents, np.array(owner)[inputs] - 1)


def test_epochs_are_counted_by_windows():
    batches = Batches(a_part(100), context=10, batch=4, seed=0)
    assert batches.windows_per_epoch == 10
    assert batches.tokens_per_epoch == 100
    assert [batches.epoch(step) for step in (0, 5, 10)] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("num_tokens", "context", "batch", "sentence"),
    [(0, 4, 1, "at least 2"), (1, 4, 1, "at least 2"), (9, 0, 1, "context is 0"), (9, 4, 0, "batch is 0")],
)
def test_what_cannot_be_batched_is_refused(num_tokens, context, batch, sentence):
    part = TokenStream([np.zeros(num_tokens, np.uint16)], np.zeros((0, 5), np.int64), [])
    with pytest.raises(InputError, match=sentence):
        Batches(part, context=context, batch=batch, seed=0)
