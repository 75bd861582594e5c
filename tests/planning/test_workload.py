import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.planning.workload import (
    AFTER_TURNING,
    FIRST_EPOCHS,
    LEAST_EVEN,
    EvaluationSteps,
    evaluation_interval,
    evaluation_steps,
    evaluation_steps_until,
)

COUNTS = st.integers(1, 10**5)


@given(COUNTS, st.floats(0.01, 1e5), COUNTS)
def test_two_looks_next_to_each_other_are_a_factor_of_two_or_an_epoch_apart(steps, per_epoch, every):
    """Up to the end of the tenth epoch, whatever the even part is."""
    seen = evaluation_steps(steps, per_epoch, every)
    due = [step for step in range(steps + 1) if seen.due(step)]
    assert due[0] == 0
    assert due[-1] == steps
    for a, b in pairwise(due):
        early = b <= FIRST_EPOCHS * per_epoch
        assert b <= max(1, 2 * a) or (early and b - a <= math.ceil(per_epoch))
    assert seen.num_even + seen.num_extra == len(due) - 1


@given(st.integers(8, 10**5), st.floats(1, 1e4), st.integers(64, 10**5), st.integers(100, 10**7), st.booleans())
def test_looking_takes_about_a_tenth_of_the_time_where_there_is_time(steps, per_epoch, step_tokens, held, bfloat16):
    every, tokens = evaluation_interval(
        steps, per_epoch, step_tokens, held, every=None, probe_tokens=None, bfloat16=bfloat16
    )
    seen = evaluation_steps(steps, per_epoch, every)
    assert 1 <= every <= steps
    scored = seen.num_extra * min(tokens, held) + seen.num_even * (min(tokens, held) + tokens)
    share = scored * (0.55 if bfloat16 else 1 / 3) / (steps * step_tokens)
    assert share <= 0.15 or (seen.num_even <= LEAST_EVEN + 1 and tokens <= 4096)


def test_what_is_given_stays():
    assert evaluation_interval(10, 1.0, 64, 10**6, every=2, probe_tokens=10**5) == (2, 10**5)


def test_a_long_run_is_looked_at_twenty_times_besides():
    every, tokens = evaluation_interval(10_000, 5_000, 4096, 10**6, every=None, probe_tokens=None)
    assert (every, tokens) == (500, 16_384)


@pytest.mark.parametrize(("step", "last"), [(100, 150), (100, 102), (100, 100)])
def test_a_decay_that_was_decided_is_looked_at_closely(step, last):
    seen = evaluation_steps_until(EvaluationSteps(400, 40, frozenset({1, 2, 4, 160})), step, last)
    assert seen.steps == last
    assert sum(seen.due(k) for k in range(step + 1, last + 1)) >= min(last - step, AFTER_TURNING)
    assert all(extra < last for extra in seen.extra)
