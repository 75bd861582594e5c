"""Sentences about curves are true of curves made to be of a known kind, and noise is never called a trend."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from hornbook.reporting.curves import best_step_between, evaluations, read_curves, train_losses
from hornbook.reporting.words import conclusions, curves_in_words, only_memorizing


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
                "probe_validation_loss_nats_per_token": validation(share) + draw(0, noise),
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
    assert "longer run" not in said
    assert "no sign of learning by heart" in said


def test_a_settled_curve_hardly_moves() -> None:
    said = _said(_run(_settled, _settled, noise=0.002), 4)
    assert "hardly moved" in said
    assert "falling" not in said


def test_a_text_learned_by_heart_is_called_so() -> None:
    rows = _run(_upward, lambda share: 8 * (1 - share) + 0.2, noise=0.01)
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert curves.turned_upward
    assert curves.best.step == pytest.approx(300, abs=45)
    said = _said(rows, 20)
    assert "probably learned text by heart: having read it 20.0 times" in said
    assert "Not measured: whether it continues passages of it word for word" in said
    assert best_step_between(rows) == (292, 375)
    assert f"lowest, {curves.best.validation_loss:.2f}, between step 292 and step 375 (epochs 5.8 to 7.5)" in said
    assert "while training loss went on falling" in said
    assert curves.gap.opened is not None  # the gap is 10 x share - 3.8 from a share of 0.3 on, and -0.2 at the start
    before, at = curves.gap.opened
    assert (before.step, at.step) == (375, 417)
    assert "beyond the noise from between step 375 and step 417 (epochs 7.5 to 8.3) on" in said
    sentence = only_memorizing(rows, 5000)
    assert sentence is not None
    assert "what is learned now does not carry over to the validation text" in sentence
    assert only_memorizing(rows, 100_000) is None  # one reading
    assert only_memorizing(rows[:20], 5000) is None  # before the turn


def test_weights_long_past_the_best_are_said_with_what_would_keep_the_best() -> None:
    rows = _run(_upward, _falling)
    best = min(evaluations(rows), key=lambda point: point.validation_loss).step
    said = _said(rows, 4, used_step=1000)
    assert f"the weights of step 1,000, not with those of step {best}, the lowest look" in said
    assert f"which are kept beside them (--step {best}): --checkpoint.best true" in said
    assert "--checkpoint.best" not in _said(rows, 4, used_step=best)
    assert "--checkpoint.best" not in _said(_run(_settled, _settled, noise=0.01), 4, used_step=1000)


def test_curves_that_part_for_a_moment_have_not_parted() -> None:
    rows = _run(lambda share: 5 + (0.3 < share < 0.5), lambda share: 5.0)
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert curves.gap.opened is None


def test_a_wide_gap_with_low_training_loss_is_by_heart_before_validation_turns() -> None:
    rows = _run(_settled, lambda share: 8 - 7.5 * share)
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert not curves.turned_upward
    assert "probably learned text by heart" in _said(rows, 20)


@pytest.mark.parametrize(("epochs", "read"), [(0.5, "at most once"), (1, "at most once"), (1.04, "about once")])
def test_nothing_is_learned_by_heart_in_one_reading(epochs: float, read: str) -> None:
    rows = _run(_upward, lambda share: 8 * (1 - share) + 0.2)  # ends at 0.2 beside 6.4
    said = _said(rows, epochs)
    assert read in said
    assert "nothing can have been learned by heart through repetition" in said
    for claim in ("probably learned text by heart", "part of what was learned", "beyond the noise from"):
        assert claim not in said
        assert claim in _said(rows, 4) + _said(_run(_upward, lambda share: _upward(min(share, 0.3))), 4)


def test_a_validation_text_of_another_kind_or_from_the_training_text_shows_no_memorization() -> None:
    rows = _run(_upward, lambda share: 8 * (1 - share) + 0.2, noise=0.01)
    heart = {"by_heart", "apart", "parted", "together", "apart_unknown"}
    for known, id in (({"surprise_ratio": 1.77}, "texts_differ"), ({"leaked_share": 0.31}, "gap_leaked")):
        said = {one.id: one.sentence for one in conclusions(rows, tokens_per_epoch=5000, **known)}
        assert not heart & said.keys()
        assert "says nothing of learning by heart" in said[id]
        assert id not in {one.id for one in conclusions(rows, tokens_per_epoch=100_000, **known)}, "it was read once"
    (same,) = (one for one in conclusions(rows, tokens_per_epoch=5000, surprise_ratio=1.3) if one.id == "by_heart")
    assert "of one kind" not in same.sentence, "that was measured, and the gap was not there at first"
    apart = _run(lambda share: _upward(share) + 0.5, lambda share: 8 * (1 - share) + 0.2, noise=0.01)
    assert "texts_differ" in {one.id for one in conclusions(apart, tokens_per_epoch=5000, surprise_ratio=1.3)}


def test_a_run_that_went_back_is_judged_by_the_looks_of_its_weights() -> None:
    """Down to step 292, up to 583, back to 292 and further down."""

    def validation(share: float) -> float:
        return _upward(share) if share < 0.6 else 5.0 - 0.5 * (share - 0.6)

    decision = {
        "event": "decision", "decision": "decay", "step": 583, "from_step": 292, "decay_steps": 417, "tokens": 58_333,
        "sentence": "validation loss has risen since step 292: the run goes back.",
    }  # fmt: skip
    rows = _run(validation, validation)
    before = [row for row in rows if row["step"] <= 583]
    rows = [*before, decision, *rows[len(before) :]]
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert curves.epochs == pytest.approx(20 * (1 - 0.2917), abs=0.01)
    assert [look.step for look in curves.looks if 250 <= look.step <= 650] == [250, 292, 625]
    said = {one.id: one.sentence for one in conclusions(rows, tokens_per_epoch=5000)}
    assert "turned" not in said
    assert said["decision"].startswith("Validation loss has risen since step 292: the run goes back")


def test_of_two_valleys_with_a_bump_between_either_may_hold_the_lowest_point() -> None:
    losses = [5.4, 3.63, 3.58, 5.87, 3.54, 3.50, 3.55, 3.7, 4.0]
    rows = [{"event": "evaluation", "step": i, "tokens": i, "probe_validation_loss_nats_per_token": loss}
            for i, loss in enumerate(losses)]  # fmt: skip
    assert best_step_between(rows) == (0, 6)
    assert best_step_between(rows[3:]) == (4, 6)
    assert best_step_between(rows[:2]) == (0, None)
    assert best_step_between(rows[5:]) == (None, 6)
    assert best_step_between([]) == (None, None)


def test_duplicates_count_as_readings() -> None:
    rows = _run(_upward, lambda share: 8 * (1 - share) + 0.2)
    said = _said(rows, 1, repeated_share=0.95)
    assert "nothing can have been learned by heart" not in said
    assert "having read it 1.0 times (95% of it stands in it more than once: about 20 readings)" in said
    assert "probably learned text by heart" in said
    assert "nothing can have been" in _said(rows, 1, repeated_share=0.03)
    assert only_memorizing(rows, 100_000, repeated_share=0.95) is not None


def test_the_curves_never_part_before_anything_was_read_twice() -> None:
    rows = _run(lambda share: 8 - 3 * share, lambda share: 8 - 4 * share)  # the gap grows steadily
    for epochs in (2.0, 5.0, 20.0):
        curves = read_curves(rows, tokens_per_epoch=round(100_000 / epochs))
        assert curves is not None
        assert curves.gap.opened is not None
        assert curves.gap.opened[1].tokens > 1.05 * 100_000 / epochs


def test_an_upward_turn_with_a_modest_gap_is_no_learning_by_heart() -> None:
    rows = _run(_upward, lambda share: _upward(min(share, 0.3)) - 0.4 * share)
    said = _said(rows, 20)
    assert "learned text by heart" not in said
    assert "part of what was learned does not carry over to the validation text" in said


def test_validation_and_training_loss_that_rise_together_are_an_unstable_run() -> None:
    said = _said(_run(_upward, lambda share: _upward(share) - 0.01), 20)
    assert "look for an unstable step" in said
    assert "by heart" not in said.replace("no sign of learning by heart", "")


def test_a_run_that_ends_worse_than_it_began_says_so() -> None:
    assert "made the model worse" in _said(_run(lambda share: 8 + share, lambda share: 8 + share), 4)


def test_a_harder_validation_text_is_no_sign_of_learning_by_heart() -> None:
    rows = _run(lambda share: _settled(share) + 0.5, _settled, noise=0.002)
    assert "no sign of learning by heart" in _said(rows, 4)


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("points", [4, 6, 10, 30])
def test_noise_around_a_level_is_rarely_a_trend(noise: float, points: int) -> None:
    false = 0
    for seed in range(400):
        rows = _run(lambda _: 4.0, lambda _: 4.0, noise=noise, points=points, seed=seed)
        said = _said(rows, 4)
        false += any(word in said for word in ("risen", "still falling", "does not carry over", "is learning"))
    assert false <= 8  # 2 %


def test_few_evaluations_bring_few_claims() -> None:
    rows = _run(_falling, _falling, points=3)
    assert "too few evaluations" in _said(rows, 4)
    assert curves_in_words(rows[:2], tokens_per_epoch=100) == [
        "Probe validation loss is 8.00 (perplexity 2,981); it was measured once.",
        "The run read its text at most once, so nothing can have been learned by heart through repetition.",
    ]
    assert curves_in_words([], tokens_per_epoch=100) == []
    assert read_curves(rows[:1], tokens_per_epoch=100) is None


def test_the_loss_on_all_of_the_text_is_held_against_baselines_on_all_of_it() -> None:
    rows = _run(_falling, _falling)  # the probe goes from 8 to 4.2
    counting = {"uniform": 8.0, "2-gram": 4.6, "3-gram": 4.0, "5-gram": 4.5}
    assert "baseline" not in _said(rows, 4, counting=counting), "the probe is another text"
    assert "baseline" not in _said(rows, 4, final_loss=4.1)
    below = _said(rows, 4, counting=counting, final_loss=3.9)
    assert "The final loss of 3.90 is below the best n-gram baseline on the same text (3-gram, 4.00)." in below
    assert "learned more" not in below
    assert "is about that of" in _said(rows, 4, counting=counting, final_loss=4.01)
    above = _said(rows, 4, counting=counting, final_loss=4.2)
    assert "is above the best n-gram baseline" in above
    assert "guessing" not in above
    assert "worse than uniform guessing (8.00)" in _said(rows, 4, counting=counting, final_loss=8.1)


def test_the_final_loss_and_the_probes_are_told_apart() -> None:
    said = _said(_run(_falling, _falling), 4, final_loss=3.8054, used_step=500)
    assert (
        "Loss on all of the validation text is 3.81 nats per token (perplexity 44.9), with the weights of step 500."
        in said
    )
    assert "Probe validation loss fell from 8.00 (perplexity 2,981) to 4.20 (perplexity 66.6)" in said


def _windows(rows: list[dict[str, Any]], scatter: float, seed: int = 0, windows: int = 32) -> list[dict[str, Any]]:
    """The same rows with windows, which scatter around the loss of each look and differ from each other by much."""
    draw = random.Random(seed).gauss
    level = [draw(0, 0.5) for _ in range(windows)]
    made = []
    for row in rows:
        if row["event"] == "evaluation":
            nats = {
                name: [row[f"probe_{name}_loss_nats_per_token"] + own + draw(0, scatter) for own in level]
                for name in ("validation", "train")
            }
            row = {
                "event": "evaluation", "step": row["step"], "tokens": row["tokens"],
                "probe_validation_window_nats": nats["validation"], "probe_train_window_nats": nats["train"],
                "probe_validation_loss_nats_per_token": math.fsum(nats["validation"]) / windows,
                "probe_train_loss_nats_per_token": math.fsum(nats["train"]) / windows,
            }  # fmt: skip
        made.append(row)
    return made


@pytest.mark.parametrize("scatter", [0.02, 0.3])
@pytest.mark.parametrize("points", [6, 12, 30])
def test_windows_that_scatter_are_rarely_a_trend(scatter: float, points: int) -> None:
    false = 0
    for seed in range(200):
        rows = _windows(_run(lambda _: 4.0, lambda _: 4.0, noise=0.005, points=points, seed=seed), scatter, seed)
        said = {said.id for said in conclusions(rows, tokens_per_epoch=25_000)}
        false += bool(said & {"turned", "unstable", "still_falling", "rising", "apart", "parted", "by_heart"})
    assert false <= 14  # 7 %, of three claims at 5 % two-sided


def test_a_gap_of_nine_tenths_of_a_nat_is_a_gap() -> None:
    """Few looks at a steep curve: by its residuals it wavers by more than the gap."""
    rows = _run(lambda share: 4 + 2.5 * math.exp(-9 * share), lambda share: 3.1 + 3.4 * math.exp(-7 * share), points=8)
    curves = read_curves(_windows(rows, 0.1), tokens_per_epoch=20_000)
    assert curves is not None
    assert curves.gap.growth is not None
    assert curves.gap.growth.half < 0.1
    assert {"apart", "parted"} <= {said.id for said in conclusions(_windows(rows, 0.1), tokens_per_epoch=20_000)}


def test_a_gap_within_the_noise_of_the_probe_is_no_sign_of_anything() -> None:
    rows = _windows(_run(_falling, lambda share: _falling(share) - 0.15 * share), 0.6, windows=8)
    assert "apart_unknown" in {said.id for said in conclusions(rows, tokens_per_epoch=25_000)}


def test_lost_losses_are_counted_and_nothing_breaks() -> None:
    rows = _run(_falling, _falling)
    rows[10]["train_loss_nats_per_token"] = None
    rows[11]["probe_validation_loss_nats_per_token"] = None
    assert "At 1 step the training loss was not finite." in _said(rows, 4)
    assert len(train_losses(rows)[0]) == len(evaluations(rows)) == 24


def test_without_a_probe_the_training_steps_speak() -> None:
    rows = [
        {k: v for k, v in row.items() if not k.startswith("probe_train")}
        for row in _run(_settled, _settled, points=101)
    ]
    curves = read_curves(rows, tokens_per_epoch=25_000)
    assert curves is not None
    assert curves.train_loss(curves.last) == pytest.approx(4.0, abs=0.01)


def test_the_later_of_two_evaluations_at_one_step_counts() -> None:
    rows = _run(_falling, _falling, points=5)
    again = {**rows[-1], "probe_validation_loss_nats_per_token": 3.0}
    assert [point.validation_loss for point in evaluations([*rows, again])][-1] == 3.0
    assert len(evaluations([*rows, again])) == 5
