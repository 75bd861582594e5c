"""Sentences about curves are true of curves made to be of a known kind, and noise is never called a trend."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from hornbook.report.curves import curves_in_words, evaluations, only_memorizing, read_curves, train_losses


def _run(
    validation: Callable[[float], float],
    training: Callable[[float], float],
    *,
    points: int = 25,
    noise: float = 0.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A run of `points` evaluations over 1,000 steps of 100 tokens; the losses are functions of the finished share."""
    draw = random.Random(seed).gauss
    rows: list[dict[str, Any]] = []
    for i in range(points):
        share = i / (points - 1)
        at = {"step": round(1000 * share), "tokens": round(100_000 * share)}
        loss = training(share) + draw(0, noise)
        rows.append({"event": "step", **at, "train_loss_nats_per_token": loss})
        rows.append(
            {
                "event": "evaluation",
                **at,
                "validation_loss_nats_per_token": validation(share) + draw(0, noise),
                "probe_train_loss_nats_per_token": loss,
            }
        )
    return rows


def _falling(share: float) -> float:
    return 4 + 4 * math.exp(-3 * share)


def _settled(share: float) -> float:
    return 4 + 4 * math.exp(-30 * share)


def _upward(share: float) -> float:
    return 8 - 3 * min(1, share / 0.3) + 2 * max(0, share - 0.3)


def _said(rows: list[dict[str, Any]], epochs: float, **more: Any) -> str:
    return " ".join(curves_in_words(rows, tokens_per_epoch=round(100_000 / epochs), **more))


def test_a_falling_curve_is_still_falling() -> None:
    said = _said(_run(_falling, _falling, noise=0.005), 4)
    assert "fell from 7.99 (perplexity 2,960) to 4.21" in said
    assert "still falling at the end" in said
    assert "no sign of learning by heart" in said


def test_a_settled_curve_hardly_moves() -> None:
    said = _said(_run(_settled, _settled, noise=0.002), 4)
    assert "hardly moved" in said
    assert "falling" not in said


def test_a_text_learned_by_heart_is_called_so() -> None:
    rows = _run(_upward, lambda share: 8 * (1 - share) + 0.2, noise=0.01)
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert (curves.turned_upward, curves.by_heart) == (True, True)
    assert curves.best.step == pytest.approx(300, abs=45)
    said = _said(rows, 20)
    assert "by heart: having read it 20.0 times" in said
    assert f"at step {curves.best.step:,} (epoch {curves.best.tokens / 5000:.1f})" in said
    assert "while training loss went on falling" in said
    assert curves.parted is not None  # the gap is 10 x share - 3.8 from a share of 0.3 on, and -0.2 at the start
    assert curves.parted.step == pytest.approx(375, abs=45)
    assert (
        f"The two curves part at step {curves.parted.step:,} (epoch {curves.parted.tokens / 5000:.1f}): from there on"
        in said
    )
    sentence = only_memorizing(rows, 5000)
    assert sentence is not None
    assert "further epochs only memorize" in sentence
    assert only_memorizing(rows, 100_000) is None  # one reading
    assert only_memorizing(rows[:20], 5000) is None  # before the turn


def test_weights_long_past_the_best_are_said_with_what_would_keep_the_best() -> None:
    rows = _run(_upward, _falling)
    best = min(evaluations(rows), key=lambda point: point.validation_loss).step
    said = _said(rows, 4, used_step=1000)
    assert f"the weights of step 1,000, its last, not with those of step {best} with" in said
    assert "next time --checkpoint.best true" in said
    assert "--checkpoint.best" not in _said(rows, 4, used_step=best)
    assert "--checkpoint.best" not in _said(_run(_settled, _settled, noise=0.01), 4, used_step=1000)


def test_curves_that_part_for_a_moment_have_not_parted() -> None:
    rows = _run(lambda share: 5 + (0.3 < share < 0.5), lambda share: 5.0)
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert curves.parted is None


def test_a_wide_gap_with_low_training_loss_is_by_heart_before_validation_turns() -> None:
    rows = _run(_settled, lambda share: 8 - 7.5 * share)
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert (curves.turned_upward, curves.by_heart) == (False, True)


@pytest.mark.parametrize(("epochs", "read"), [(0.5, "at most once"), (1, "at most once"), (1.04, "about once")])
def test_nothing_is_learned_by_heart_in_one_reading(epochs: float, read: str) -> None:
    rows = _run(_upward, lambda share: 8 * (1 - share) + 0.2)  # ends at 0.2 beside 6.4
    said = _said(rows, epochs)
    assert read in said
    assert "training loss ends 6.20 nats below validation loss means that the two texts differ" in said
    for claim in ("learning the text by heart", "training text only", "curves part"):
        assert claim not in said
        assert claim in _said(rows, 2) + _said(_run(_upward, lambda share: _upward(min(share, 0.3))), 2)
    together = _said(_run(_falling, _falling), epochs)
    assert read in together
    assert "the two texts differ" not in together


def test_an_upward_turn_with_a_modest_gap_is_no_learning_by_heart() -> None:
    rows = _run(_upward, lambda share: _upward(min(share, 0.3)) - 0.4 * share)
    said = _said(rows, 20)
    assert "learning the text by heart" not in said
    assert "part of what was learned holds for the training text only" in said


def test_validation_and_training_loss_that_rise_together_are_an_unstable_run() -> None:
    said = _said(_run(_upward, lambda share: _upward(share) - 0.01), 20)
    assert "look for an unstable step" in said
    assert "by heart" not in said.replace("no sign of learning by heart", "")


def test_a_run_that_ends_worse_than_it_began_says_so() -> None:
    assert "made the model worse" in _said(_run(lambda share: 8 + share, lambda share: 8 + share), 4)


def test_a_harder_validation_text_is_no_sign_of_learning_by_heart() -> None:
    rows = _run(lambda share: _settled(share) + 0.5, _settled, noise=0.002)
    assert "no sign of learning by heart" in _said(rows, 4)


@pytest.mark.parametrize("noise", [0.005, 0.05, 0.3])
@pytest.mark.parametrize("points", [4, 6, 10, 30])
def test_noise_around_a_level_is_rarely_a_trend(noise: float, points: int) -> None:
    false = 0
    for seed in range(400):
        rows = _run(lambda _: 4.0, lambda _: 4.0, noise=noise, points=points, seed=seed)
        said = _said(rows, 4)
        false += any(word in said for word in ("risen", "still falling", "training text only", "is learning"))
    assert false <= 8  # 2 %


def test_few_evaluations_bring_few_claims() -> None:
    rows = _run(_falling, _falling, points=3)
    assert "too few evaluations" in _said(rows, 4)
    assert curves_in_words(rows[:2], tokens_per_epoch=100) == [
        "Validation loss is 8.00 nats per token (perplexity 2,981); it was measured once.",
        "The run read its text at most once, so nothing can have been learned by heart through repetition.",
    ]
    assert curves_in_words([], tokens_per_epoch=100) == []
    assert read_curves(rows[:1], tokens_per_epoch=100) is None


def test_the_best_model_that_only_counts_is_the_reference_where_one_is_given() -> None:
    rows = _run(_falling, _falling)  # from 8 to 4.2
    assert "only count" not in _said(rows, 4)
    below = _said(rows, 4, counting={"uniform": 8.0, "2-gram": 5.0, "3-gram": 5.5})
    assert "ends below the best of the models that only count (the 2-gram's 5.00 nats)" in below
    above = _said(rows, 4, counting={"uniform": 8.0, "2-gram": 4.6, "3-gram": 4.0, "5-gram": 4.5})
    assert "did not get below the best of the models that only count (the 3-gram's 4.00 nats)" in above
    assert "blind guess" not in above


def test_a_run_that_ends_above_a_guess_says_so() -> None:
    rows = _run(_upward, lambda share: 8 * (1 - share) + 0.2)  # down to 5, ends at 6.4
    said = _said(rows, 20, counting={"uniform": 6.0, "2-gram": 5.5})
    assert "worse than a blind guess among all tokens (6.00 nats)" in said
    assert "At its best (5.07 nats) it was below the best of the models that only count" in said
    assert "blind guess" not in _said(rows, 20, counting={"uniform": 6.5, "2-gram": 4.5})


def test_lost_losses_are_counted_and_nothing_breaks() -> None:
    rows = _run(_falling, _falling)
    rows[10]["train_loss_nats_per_token"] = None
    rows[11]["validation_loss_nats_per_token"] = None
    assert "At 1 step the training loss was not a finite number." in _said(rows, 4)
    assert len(train_losses(rows)[0]) == len(evaluations(rows)) == 24


def test_without_a_probe_the_training_steps_speak() -> None:
    rows = [{k: v for k, v in row.items() if not k.startswith("probe")} for row in _run(_settled, _settled, points=101)]
    curves = read_curves(rows, tokens_per_epoch=25_000)
    assert curves is not None
    assert curves.train_loss == pytest.approx(4.0, abs=0.01)


def test_the_later_of_two_evaluations_at_one_step_counts() -> None:
    rows = _run(_falling, _falling, points=5)
    again = {**rows[-1], "validation_loss_nats_per_token": 3.0}
    assert [point.validation_loss for point in evaluations([*rows, again])][-1] == 3.0
    assert len(evaluations([*rows, again])) == 5
