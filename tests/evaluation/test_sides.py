import numpy as np
import pytest

from hornbook.data.shards import TokenStream
from hornbook.evaluation.reference import _stretches, leave_out
from hornbook.evaluation.sides import Windows, independent_units, repeated_share

SIZES = (10_000, 10_000)


def part_of(pieces):
    """{name: number of tokens}, a character each; `names` as a split writes them."""
    starts = np.cumsum([0, *pieces.values()])[:-1]
    rows = [(start, n, n, n, 1) for start, n in zip(starts, pieces.values(), strict=True)]
    generator = np.random.default_rng(0)
    stream = generator.integers(0, 20, sum(pieces.values())).astype(np.uint16)
    return TokenStream([stream], np.array(rows, np.int64), list(pieces), separator=False)


def windows_of(part, positions, length=8):
    positions = np.array(positions)
    documents = np.searchsorted(part.documents[:, 0], positions, side="right") - 1
    tokens = part.take(positions, length)
    shape = (len(positions), length - 1)
    return Windows(positions, documents, tokens, np.zeros(shape), np.zeros(shape, bool))


def test_pieces_of_a_text_are_set_against_their_own_stratum():
    """Five held-out pieces of a book of 1,000 characters, each in a stratum of 200."""
    book = {f"book.txt[{i * 200 + 110}:{(i + 1) * 200 + 80}]": 170 for i in range(4)}
    train = part_of({"book.txt[0:80]": 80, **book, "book.txt[910:]": 90, "alone.txt": 50})
    held_out = part_of({f"book.txt[{i * 200 + 90}:{i * 200 + 100}]": 10 for i in range(5)})
    trained, new = windows_of(train, [0, 40, 100, 240, 800, 880]), windows_of(held_out, [0, 11, 21, 31, 41])
    units = independent_units(train, held_out, trained, new, SIZES)
    assert (units.unit, units.alike) == ("passages", True)  # not in every stratum
    places = [10, 60, 90, 260, 430, 600, 800, 880]
    units = independent_units(train, held_out, windows_of(train, places), new, SIZES)
    # Characters 14, 64, 124, 324, 524, 724, 954 and, of the other document, none.
    assert units.unit == "strata"
    assert units.train.tolist() == [0, 0, 0, 1, 2, 3, 4, -1]
    assert units.heldout.tolist() == [0, 1, 2, 3, 4]


def test_other_texts_are_documents_or_passages():
    many = part_of({f"{i}.txt": 50 for i in range(6)})
    more = part_of({f"other {i}.txt": 50 for i in range(6)})
    windows = windows_of(many, [i * 50 for i in range(6)])
    assert independent_units(many, more, windows, windows, SIZES).unit == "documents"
    one = part_of({"tail.txt": 300})
    units = independent_units(many, one, windows, windows_of(one, range(0, 280, 10)), SIZES)
    assert (units.unit, units.alike) == ("passages", False)
    cut = part_of({"book.txt[0:900]": 900}), part_of({"book.txt[900:]": 100})
    sides = windows_of(cut[0], range(0, 800, 40)), windows_of(cut[1], range(0, 90, 4))
    units = independent_units(*cut, *sides, SIZES)
    assert (units.unit, units.alike) == ("passages", True)


def test_a_window_that_repeats_itself_shows_no_memory():
    assert repeated_share([5] * 20, 10) == 1.0
    assert repeated_share(list(range(20)), 10) == 0.0
    part = part_of({"a": 30})
    part.shards[0][:] = [*range(10), *range(10), *range(10, 20)]
    windows = windows_of(part, [0, 10, 0], 20)
    assert windows.repeats(10, np.array([True, True, False])).tolist() == [True, False, False]


@pytest.mark.parametrize("stretch", [8, 40, 1000])
def test_what_is_counted_never_overlaps_the_window_scored(stretch):
    """Every 8-gram stands once, so an n-gram model that had seen a window would know it."""
    part = part_of({"a": 400, "b": 7, "c": 200})
    part.shards[0][:] = np.arange(607)
    positions = np.array([0, 90, 399 - 8, 407, 590])
    starts, lengths = _stretches(part, 50)
    assert starts[0] == 0
    assert lengths.sum() == 607
    assert (lengths[lengths != 7] >= 50).all()
    found = leave_out(part, positions, part.take(positions, 8), part.take(positions, 8), 607, stretch)
    assert found.own.min() > 7 * np.log(607) - 1e-9  # never better than a guess
    assert found.other.min() < found.own.min()  # the same windows, counted as text of the other side


def test_a_text_of_few_windows_is_too_short_to_leave_some_out():
    part = part_of({"a": 40})
    assert leave_out(part, np.array([0]), part.take(np.array([0]), 8), part.take(np.array([3]), 8), 20, 8) is None


@pytest.mark.parametrize("together", [True, False])
def test_copies_are_left_out_with_what_they_copy(together):
    """A text of 300 tokens, each n-gram once, that stands five times: what is counted must not hold the window."""
    once = np.arange(300)
    pieces = {"a": 1500} if together else {f"{i}": 300 for i in range(5)}
    part = part_of(pieces)
    part.shards[0][:] = np.tile(once, 5)
    positions = np.array([5, 320, 700, 940, 1250])
    windows = part.take(positions, 8)
    found = leave_out(part, positions, windows, windows, 300, 300)
    assert found.own.min() > 7 * np.log(300) - 1e-9
