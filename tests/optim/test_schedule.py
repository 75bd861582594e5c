import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.optim.schedule import lr_scale

KINDS = ("wsd", "cosine", "linear", "constant")


@st.composite
def schedules(draw):
    steps = draw(st.integers(1, 500))
    return {
        "kind": draw(st.sampled_from(KINDS)),
        "steps": steps,
        "warmup_steps": draw(st.integers(0, steps)),
        "decay_fraction": draw(st.floats(0, 1)),
        "final_fraction": draw(st.floats(0, 1)),
    }


@given(schedules())
def test_it_rises_then_never_rises_again(how):
    values = [lr_scale(step, **how) for step in range(how["steps"])]
    warmup = how["warmup_steps"]
    assert values[:warmup] == [(step + 1) / warmup for step in range(warmup)]
    after = values[max(0, warmup - 1) :]
    assert all(a >= b for a, b in itertools.pairwise(after))
    assert all(0 <= value <= 1 for value in values)
    assert all(value >= how["final_fraction"] - 1e-12 for value in values[warmup:])


@given(schedules())
def test_where_it_ends(how):
    end = lr_scale(how["steps"], **how)
    decaying = round(how["decay_fraction"] * how["steps"]) if how["kind"] == "wsd" else how["steps"]
    decays = how["kind"] != "constant" and min(decaying, how["steps"] - how["warmup_steps"]) > 0
    assert end == pytest.approx(how["final_fraction"] if decays else 1.0)
    if decays:
        assert lr_scale(10 * how["steps"] + 1, **how) == pytest.approx(end)  # and it stays there


@pytest.mark.parametrize("step", [0, 19, 20, 35, 50, 99])
def test_cosine_by_its_formula(step):
    found = lr_scale(step, kind="cosine", steps=100, warmup_steps=20, final_fraction=0.1)
    wanted = (step + 1) / 20 if step < 20 else 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2
    assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("step", "wanted"), [(4, 1), (5, 1), (9, 1), (60, 1), (70, 0.75), (80, 0.5), (99, 0.025)])
def test_wsd_stays_and_then_falls_along_a_line(step, wanted):
    assert lr_scale(step, kind="wsd", steps=100, warmup_steps=5, decay_fraction=0.4) == pytest.approx(wanted)


def test_without_warmup_it_starts_at_the_peak():
    assert [lr_scale(0, kind=kind, steps=10, warmup_steps=0) for kind in KINDS] == [1.0] * 4
