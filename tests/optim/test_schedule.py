import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.settings import Schedule
from hornbook.optim.schedule import LR_SCHEDULES, decay_start, lr_scale


@st.composite
def schedules(draw):
    steps = draw(st.integers(1, 500))
    return {
        "name": draw(st.sampled_from(sorted(LR_SCHEDULES))),
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
    decaying = round(how["decay_fraction"] * how["steps"]) if how["name"] == "wsd" else how["steps"]
    decays = how["name"] != "constant" and min(decaying, how["steps"] - how["warmup_steps"]) > 0
    assert end == pytest.approx(how["final_fraction"] if decays else 1.0)
    if decays:
        assert lr_scale(10 * how["steps"] + 1, **how) == pytest.approx(end)  # and it stays there


@pytest.mark.parametrize("step", [0, 19, 20, 35, 50, 99])
def test_cosine_by_its_formula(step):
    found = lr_scale(step, name="cosine", steps=100, warmup_steps=20, final_fraction=0.1)
    wanted = (step + 1) / 20 if step < 20 else 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2
    assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("step", "wanted"), [(4, 1), (5, 1), (9, 1), (60, 1), (70, 0.75), (80, 0.5), (99, 0.025)])
def test_wsd_stays_and_then_falls_along_a_line(step, wanted):
    assert lr_scale(step, name="wsd", steps=100, warmup_steps=5, decay_fraction=0.4) == pytest.approx(wanted)


def test_without_warmup_it_starts_at_the_peak():
    assert [lr_scale(0, name=name, steps=10, warmup_steps=0) for name in LR_SCHEDULES] == [1.0] * len(LR_SCHEDULES)


@given(schedules())
def test_the_decay_starts_where_it_begins_to_fall(how):
    how = how | {"final_fraction": 0.0}
    start = decay_start(**{key: value for key, value in how.items() if key != "final_fraction"})
    scales = [lr_scale(step, **how) for step in range(how["steps"] + 1)]
    assert scales[how["warmup_steps"] : start + 1] == [1.0] * (start + 1 - how["warmup_steps"])
    assert start == how["steps"] or scales[start + 1] < 1


def test_every_schedule_has_its_setting():
    fields = {field.name: field.type for field in msgspec.inspect.type_info(Schedule).fields}
    kinds = [kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind for kind in fields.values()]
    (names,) = [kind.values for kind in kinds if isinstance(kind, msgspec.inspect.LiteralType)]
    assert set(names) == LR_SCHEDULES.keys()


def test_a_schedule_is_one_function(monkeypatch):
    """All else follows from it: warm-up, the last learning rate, where the decay starts."""

    def step_decay(step, steps, decay_steps):
        return 0.5 ** (step * 4 // steps)

    monkeypatch.setitem(LR_SCHEDULES, "step_decay", step_decay)
    how = {"name": "step_decay", "steps": 42, "warmup_steps": 2}
    assert [lr_scale(step, **how) for step in (0, 2, 11, 12, 22, 41)] == [0.5, 1.0, 1.0, 0.5, 0.25, 0.125]
    assert lr_scale(12, **how, final_fraction=0.2) == pytest.approx(0.6)
    assert decay_start(**how) == 11
