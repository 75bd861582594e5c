import math
from dataclasses import replace

import pytest

from hornbook.facts.looks import Evaluation
from hornbook.facts.settings import Settings
from hornbook.training.deciding import decide, finish, sentence
from hornbook.training.decisions import (
    Decision,
    decays,
    decisions_of,
    in_force,
    last_step,
    lr_schedule,
    skipped_batches,
)

TOKENS = 100  # of a step


def settings_of(steps=500, kind="wsd", warmup=10):
    settings = Settings()
    settings.train.steps, settings.schedule.warmup_steps, settings.schedule.name = steps, warmup, kind
    return settings


def look(step, loss):
    """Sixteen windows that share their difficulty from look to look."""
    windows = tuple(loss + 0.3 * math.sin(i) for i in range(16))
    return Evaluation(step, step * TOKENS, loss, None, windows=windows)


FALLING = [look(step, 3 + 2 * 0.98**step) for step in (0, 10, 20, 30, 40, 60, 80, 100)]
RISING = [look(120, 3.6), look(140, 3.9), look(160, 4.2)]


def test_a_run_that_still_falls_or_stands_decides_nothing():
    settings = settings_of()
    assert decide(FALLING, settings, 100) is None
    assert (
        decide([*FALLING, *(look(step, FALLING[-1].validation_loss) for step in (120, 140, 160))], settings, 160)
        is None
    )


def test_before_the_decay_it_goes_back_and_decays():
    found = decide([*FALLING, *RISING], settings_of(), 160)
    assert found == Decision(decision="decay", step=160, from_step=100, decay_steps=50)
    assert last_step(settings_of(), [found]) == 210
    assert "step 100" in sentence(found)
    assert "50 more steps" in sentence(found)


def test_during_the_decay_it_ends():
    settings = settings_of(steps=250)
    assert decays(settings, 160)
    assert decide([*FALLING, *RISING], settings, 160) == Decision(decision="end", step=160, from_step=100)


def test_it_decays_no_longer_than_it_was_planned_to_last():
    found = decide([*FALLING, *RISING], settings_of(steps=180, kind="constant"), 160)
    assert found.decay_steps == 20


def test_what_was_given_up_counts_no_more():
    """After going back, the risen looks are not held against the run, and the tokens since the best look are those
    that its present weights have seen."""
    settings, earlier = settings_of(), Decision(decision="decay", step=160, from_step=100, decay_steps=50)
    looks = [*FALLING, *RISING, look(170, 3.3), look(180, 3.35)]
    assert decide(looks, settings, 180, [earlier]) is None
    risen = [*FALLING, *RISING, look(190, 3.9), look(215, 4.0)]  # 55 steps after the best look, more than half of 100
    assert decide(risen, settings, 215, [earlier]) == Decision(decision="end", step=215, from_step=100)
    few = [*FALLING, *RISING, look(190, 3.9), look(205, 4.0)]
    assert decide(few, settings, 205, [earlier]) is None


def test_the_learning_rate_follows_the_decision():
    settings, decision = settings_of(), Decision(decision="decay", step=160, from_step=100, decay_steps=50)
    planned, decided = lr_schedule(settings), lr_schedule(settings, [decision])
    assert [decided(step) for step in range(160)] == [planned(step) for step in range(160)]
    assert decided(160) == planned(100) == 1.0
    assert decided(185) == pytest.approx(0.5)
    assert decided(209) == pytest.approx(0.02)
    settings.schedule.final_fraction = 0.1
    assert lr_schedule(settings, [decision])(185) == pytest.approx(0.1 + 0.9 / 2)
    early = Decision(decision="decay", step=20, from_step=4, decay_steps=2)  # from within the warm-up
    assert lr_schedule(settings, [early])(20) == pytest.approx(planned(4))
    ended = Decision(decision="end", step=160, from_step=100)
    assert lr_schedule(settings, [ended])(150) == planned(150)


def test_rows_are_read_back():
    decision = Decision(decision="decay", step=160, from_step=100, decay_steps=50)
    row = {"event": "decision", "sentence": "x", "tokens": 5, "decision": "decay", "step": 160, "from_step": 100,
           "decay_steps": 50}  # fmt: skip
    assert decisions_of([{"event": "step", "step": 1}, row]) == [decision]


def test_old_logs_have_no_windows_and_are_judged_by_their_noise():
    plain = [replace(each, windows=()) for each in (*FALLING, *RISING)]
    assert decide(plain, settings_of(), 160) is not None


def test_each_later_length_falls_from_where_the_earlier_one_stands():
    settings = settings_of()  # 500 steps, of which the last 300 decay
    first = Decision(decision="length", step=150, from_step=150, decay_steps=100)
    second = Decision(decision="length", step=200, from_step=200, decay_steps=200)
    rates = lr_schedule(settings, [first, second])
    assert [rates(step) for step in range(150)] == [lr_schedule(settings)(step) for step in range(150)]
    assert [rates(step) for step in (150, 175, 200, 300, 399)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0025])
    assert [last_step(settings, made) for made in ([], [first], [first, second])] == [500, 250, 400]
    assert decays(settings, 160, [first])
    settings.schedule.name = "constant"
    assert {lr_schedule(settings, [first, second])(step) for step in range(10, 400)} == {1.0}
    assert not decays(settings, 160, [first])


def test_finishing_takes_a_quarter_of_the_steps_or_what_is_left():
    settings = settings_of(kind="cosine")
    assert finish(settings, 200, []) == Decision(decision="finish", step=200, from_step=200, decay_steps=50)
    assert finish(settings, 490, []).decay_steps == 10
    rates = lr_schedule(settings, [finish(settings, 200, [])])
    assert rates(200) == lr_schedule(settings)(200)
    assert rates(225) == pytest.approx(rates(200) / 2)


def test_a_run_that_was_made_longer_has_no_other_length():
    kept = Decision(decision="skip", step=30, from_step=30, batches=2)
    gone = Decision(decision="length", step=150, from_step=150, decay_steps=100)
    longer = Decision(decision="lengthen", step=150, from_step=150)
    again = Decision(decision="length", step=300, from_step=300, decay_steps=10)
    assert in_force([kept, gone, longer, again]) == [kept, longer, again]
    assert in_force([kept, gone, kept, longer]) == [kept, longer]
    assert last_step(settings_of(), [kept, longer]) == 500
    assert skipped_batches([kept, longer]) == {31, 32}
