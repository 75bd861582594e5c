import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.capacity import REPETITIONS, capacity_bits, effective_tokens, memorization_estimate


@given(st.integers(2, 60))
def test_an_epoch_is_worth_its_predecessors_times_a_constant(epoch):
    """The law as a sum: the value of each further epoch falls by the same factor exp(-1 / R*)."""
    worth = [effective_tokens(1000.0, e) - effective_tokens(1000.0, e - 1) for e in (epoch, epoch + 1)]
    assert worth[1] / worth[0] == pytest.approx(math.exp(-1 / REPETITIONS))


def test_effective_tokens_are_all_tokens_at_first_and_bounded():
    assert effective_tokens(7.0, 1) == 7
    assert effective_tokens(7.0, 1.001) == pytest.approx(7 * 1.001, rel=1e-4)
    assert effective_tokens(7.0, 1e9) == pytest.approx(7 * (1 + REPETITIONS))


def test_the_published_size_that_was_full():
    """Morris et al. 2025: a model of 1.5B parameters holds 5.4e9 bits."""
    assert capacity_bits(1_500_000_000) == pytest.approx(5.4e9)


def test_what_to_expect_changes_with_epochs_and_size():
    assert [memorization_estimate(5145, 20_479, 124_000_000, epochs).expect for epochs in (1, 10, 20, None)] == [
        "not by heart", "in part", "by heart", "by heart",
    ]  # fmt: skip
    small = memorization_estimate(300_000, 1_115_394, 50_000)
    assert (small.by_heart_epochs, small.expect) == (None, "not by heart")
    assert small.fill > 1
    needed = [memorization_estimate(0, num_bytes, 1000).by_heart_epochs for num_bytes in range(1, 1800, 100)]
    assert needed == sorted(needed)
    assert needed[0] == pytest.approx(1 + REPETITIONS, rel=0.01)


@pytest.mark.parametrize("epochs", [None, 1, 10, 30])
@pytest.mark.parametrize("parameters", [1000, 10**8])
def test_each_sentence_says_the_numbers(epochs, parameters):
    expected = memorization_estimate(5145, 20_479, parameters, epochs)
    assert expected.sentence.startswith("5,145 tokens against ")
    assert "\n" not in expected.sentence
    if expected.by_heart_epochs is not None:
        assert "within 5 to 50" in expected.sentence  # what was measured lies between 6 and 51


def test_epochs_are_said_with_one_digit():
    assert "with 7.6 epochs" in memorization_estimate(5145, 20479, 124_000_000, 7.58331).sentence


def test_a_text_that_repeats_itself_is_counted_without_repetition():
    """20 KB thirty times over, read once: 30 readings of 20 KB."""
    once, copies = (
        memorization_estimate(5145, 20_479, 124_000_000, 30),
        memorization_estimate(30 * 5145, 30 * 20_479, 124_000_000, 1),
    )
    apart = memorization_estimate(30 * 5145, 30 * 20_479, 124_000_000, 1, readings_per_epoch=30)
    assert (copies.expect, apart.expect) == ("not by heart", "by heart")
    assert (apart.data_bits, apart.effective_tokens) == pytest.approx((once.data_bits, once.effective_tokens))
    assert apart.by_heart_epochs == pytest.approx(once.by_heart_epochs / 30)
    assert apart.sentence.startswith("154,350 tokens, 5,145 without repetition, against 124M parameters: ")
    assert "within 0.2 to 2 epochs" in apart.sentence
    assert memorization_estimate(5145, 20_479, 1000, 1, readings_per_epoch=1.1) == memorization_estimate(
        5145, 20_479, 1000, 1
    )
