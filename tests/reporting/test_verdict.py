"""What a page says first is what was concluded, the most serious thing of it, and how far the run is."""

import pytest

from hornbook.facts.conclusions import conclusions
from hornbook.reporting.verdict import _SERIOUS, has_diverged, of_memorization, of_run
from hornbook.reporting.words import Finding


def found(*ids):
    return [Finding(name, f"{name} is so.") for name in ids]


@pytest.mark.parametrize(
    ("ids", "tag", "first"),
    [
        (("final_loss", "level", "still_falling", "together"), "good", "Healthy: level is so. still_falling is so."),
        (("level", "turned", "not_best_used", "apart"), "warning", "Trained too long: turned is so."),
        (("level", "apart", "by_heart"), "bad", "Memorized: by_heart is so."),
        (("level", "turned", "apart", "chosen_apart"), "good", "Healthy: level is so."),
        ((), "warning", "Too early to tell: Nothing has been evaluated yet."),
    ],
)
def test_the_most_serious_conclusion_speaks(ids, tag, first):
    verdict = of_run(found(*ids), state="length reached", step=9, steps=9)
    assert (verdict.tag, str(verdict)) == (tag, first)


def test_a_run_without_an_end_says_how_far_it_is_and_is_no_less_serious():
    healthy, ruined = found("level", "still_falling"), found("level", "made_worse")
    assert str(of_run(healthy, state="running", step=30, steps=1000)) == "Going on, at step 30 of 1,000: level is so."
    assert of_run(healthy, state="running", step=30, steps=1000).tag == "good"
    stopped = of_run(healthy, state="interrupted", step=30, steps=1000)
    assert (stopped.tag, stopped.name) == ("warning", "Interrupted at step 30 of 1,000")
    worse = of_run(ruined, state="interrupted", step=30, steps=1000, diverging=True)
    assert (worse.tag, worse.sentence) == ("bad", "Diverged: made_worse is so.")
    assert of_run(healthy, state="length reached", step=1, steps=1, diverged=True).tag == "bad"
    shaky = of_run(healthy, state="length reached", step=1, steps=1, diverging=True)
    assert (shaky.tag, shaky.name) == ("warning", "Unstable")


def test_what_memorize_measured_comes_before_what_the_curves_show():
    result = {"verdict": "Memorized: the model continues 99%.", "by_heart": True, "learned_enough": True}
    assert str(of_memorization(result)) == "Memorized: The model continues 99%."
    verdict = of_run(found("level", "together"), state="length reached", step=1, steps=1, memorized=result)
    assert (verdict.tag, verdict.name) == ("bad", "Memorized")


def test_only_what_is_concluded_elsewhere_is_said():
    assert {name for name, _, _ in _SERIOUS} <= conclusions().keys()


def test_a_loss_that_is_no_number_is_a_divergence():
    step = {"event": "step", "step": 1, "gradient_norm": 1.0}
    look = {"event": "evaluation", "step": 1, "probe_validation_loss_nats_per_token": None}
    assert not has_diverged([step])
    assert has_diverged([step, look])
    assert has_diverged([step, step | {"gradient_norm": None}])
