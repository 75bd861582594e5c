"""Sentences about curves are true of curves made to be of a known kind, and noise is never called a trend.

sentences.txt has what is said in each of `cases`; `python tests/reporting/test_sentences.py` writes it anew, and the
difference is to be read.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.facts.shape import preset
from hornbook.planning.health import RunFacts, warnings
from hornbook.reporting.curves import best_step_between, evaluations, read_curves, train_losses
from hornbook.reporting.heatmap import difference_in_words, greedy_in_words
from hornbook.reporting.terminal import baselines_in_words, score_in_words
from hornbook.reporting.words import conclusions, only_memorizing

GOLDEN = Path(__file__).with_name("sentences.txt")


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


def _rising(share: float) -> float:
    return 8 + share


def _memorized(share: float) -> float:
    return 8 * (1 - share) + 0.2


CURVES: dict[str, tuple[list[dict[str, Any]], float]] = {  # rows, and how often the text was read
    "falling": (_run(_falling, _falling, noise=0.005), 4),
    "settled": (_run(_settled, _settled, noise=0.002), 4),
    "learned by heart": (_run(_upward, _memorized, noise=0.01), 20),
    "learned by heart before validation turns": (_run(_settled, lambda share: 8 - 7.5 * share), 20),
    "turned with a modest gap": (_run(_upward, lambda share: _upward(min(share, 0.3)) - 0.4 * share), 20),
    "both rise": (_run(_upward, lambda share: _upward(share) - 0.01), 20),
    "worse than it began": (_run(_rising, _rising), 4),
    "a harder validation text": (_run(lambda share: _settled(share) + 0.5, _settled, noise=0.002), 4),
    "few evaluations": (_run(_falling, _falling, points=3), 4),
    "one evaluation": (_run(_falling, _falling, points=3)[:2], 1),
    "no evaluation": (_run(_falling, _falling)[:1], 4),
    **{f"read {epochs} times": (_run(_upward, _memorized), epochs) for epochs in (0.5, 1, 1.04, 4)},
}
BASELINES = {"uniform": 8.0, "2-gram": 4.6, "3-gram": 4.0, "5-gram": 4.5}
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {  # a curve, and what else is known
    "a loss of the probe is not compared": ("falling", {"counting": BASELINES}),
    "no baselines": ("falling", {"final_loss": 4.1}),
    "below the baselines": ("falling", {"counting": BASELINES, "final_loss": 3.9}),
    "at the baselines": ("falling", {"counting": BASELINES, "final_loss": 4.01}),
    "above the baselines": ("falling", {"counting": BASELINES, "final_loss": 4.2}),
    "worse than guessing": ("falling", {"counting": BASELINES, "final_loss": 8.1}),
    "of earlier weights": ("falling", {"final_loss": 3.8054, "used_step": 500}),
    "outside the probe": ("falling", {"final_loss": 3.8054, "outside_probe": True}),
    "not the best used": ("learned by heart", {"used_step": 1000}),
    "the best used": ("learned by heart", {"used_step": 292}),
    "the last of a settled one used": ("settled", {"used_step": 1000}),
    "another kind of text": ("learned by heart", {"surprise_ratio": 1.77}),
    "another kind of text, read once": ("read 1 times", {"surprise_ratio": 1.77}),
    "the same kind of text": ("learned by heart", {"surprise_ratio": 1.3}),
    "leaked": ("learned by heart", {"leaked_share": 0.31}),
    "leaked, read once": ("read 1 times", {"leaked_share": 0.31}),
    "read once with many duplicates": ("read 1 times", {"repeated_share": 0.95}),
    "read once with few duplicates": ("read 1 times", {"repeated_share": 0.03}),
}
FACTS: dict[str, Any] = {
    "shape": preset("1M"), "batch_tokens": 8192, "steps": 1000, "warmup_steps": 20, "evaluate_every": 50,
    "optimizer": "muon", "learning_rates": {"Muon": 0.02, "AdamW beside Muon": 0.01}, "train_tokens": 3_000_000,
    "train_bytes": 10_000_000, "median_document_tokens": 4000.0, "needed_bytes": 10**9, "available_bytes": 16 * 10**9,
}  # fmt: skip
WARNED: dict[str, dict[str, Any]] = {
    "sound facts": {}, "all warm-up": {"warmup_steps": 1000}, "much warm-up": {"warmup_steps": 600},
    "no evaluation in time": {"evaluate_every": 2000}, "a small text": {"train_tokens": 5000, "steps": 1},
    "short documents": {"median_document_tokens": 20.0},
    "a large vocabulary": {"train_tokens": 10_000, "train_bytes": None, "batch_tokens": 100, "steps": 100},
    "by heart": {"train_bytes": 100_000, "steps": 5000}, "repeated text": {"readings_per_epoch": 100.0},
    "many epochs": {"steps": 20_000}, "too large": {"needed_bytes": 17 * 10**9},
    "a high rate": {"learning_rates": {"Muon": 0.6}}, "a low rate": {"learning_rates": {"AdamW": 1e-5}},
}  # fmt: skip


def _said(curve: str, **known: Any) -> list[str]:
    """Each sentence with its id."""
    rows, epochs = CURVES[curve]
    per_epoch = round(100_000 / epochs)
    said = [f"{one.id}: {one.sentence}" for one in conclusions(rows, tokens_per_epoch=per_epoch, **known)]
    warning = only_memorizing(rows, per_epoch, repeated_share=known.get("repeated_share", 0.0))
    return said if warning is None else [*said, f"memorizing: {warning}"]


def cases() -> Iterator[tuple[str, list[str]]]:
    """What is said of what; with more known, what is said besides (+) and no more (-)."""
    for curve in CURVES:
        yield f"curves: {curve}", _said(curve)
    for name, (curve, known) in KNOWN.items():
        usual, said = _said(curve), _said(curve, **known)
        gone = [f"- {sentence}" for sentence in usual if sentence not in said]
        yield f"{curve}: {name}", gone + [f"+ {sentence}" for sentence in said if sentence not in usual]
    noisy = _windows(_run(_falling, lambda share: _falling(share) - 0.15 * share), 0.6, windows=8)
    yield "curves: within noise", [one.sentence for one in conclusions(noisy, tokens_per_epoch=25_000)]
    apart = _run(lambda share: _upward(share) + 0.5, _memorized, noise=0.01)
    found = conclusions(apart, tokens_per_epoch=5000, surprise_ratio=1.3)
    yield "curves: another kind by the first gap", [one.sentence for one in found]
    for name, change in WARNED.items():
        yield f"before a run: {name}", warnings(RunFacts(**(FACTS | change)))
    yield "before a run: nothing known", warnings(RunFacts(shape=preset("6M"), batch_tokens=8192, steps=100))
    plan = {"predicted": 100.0, "actual": 110.0, "factor": 1.1, "inside": True}
    yield "a plan", [score_in_words({"wall_seconds": plan, "bits_per_byte": plan | {"inside": False}})]
    yield "baselines", [baselines_in_words({name: {"loss_nats_per_token": loss} for name, loss in BASELINES.items()})]
    for a, b in ((3.0, 2.0), (2.0, 3.0), (2.0, 2.0)):
        views = [{"bits_per_byte": bits, "num_bytes": 9} for bits in (a, b)]
        yield f"two models: {a} {b}", [difference_in_words(views)]
    yield "two models: other bytes", [difference_in_words([views[0], views[0] | {"num_bytes": 8}])]
    greedy = {"prompt_tokens": 2, "num_tokens": 5, "num_tokens_before_departure": 1, "num_tokens_equal": 2,
              "departs_at_token": 4, "wrote": " x", "instead_of": " b"}  # fmt: skip
    for change in ({}, {"num_tokens_before_departure": 0, "num_tokens_equal": 0}, {"departs_at_token": None}):
        yield f"greedy: {change}", [greedy_in_words(greedy | change)]


def rendered() -> str:
    return "".join(f"# {name}\n" + "".join(f"{sentence}\n" for sentence in said) for name, said in cases())


def test_what_is_said() -> None:
    assert rendered() == GOLDEN.read_text(encoding="utf-8")


def test_a_text_learned_by_heart_is_called_so() -> None:
    rows = _run(_upward, _memorized, noise=0.01)
    curves = read_curves(rows, tokens_per_epoch=5000)
    assert curves is not None
    assert curves.turned_upward
    assert curves.best.step == pytest.approx(300, abs=45)
    assert best_step_between(rows) == (292, 375)
    assert curves.gap.opened is not None  # the gap is 10 x share - 3.8 from a share of 0.3 on, and -0.2 at the start
    before, at = curves.gap.opened
    assert (before.step, at.step) == (375, 417)
    assert only_memorizing(rows, 100_000) is None  # one reading
    assert only_memorizing(rows[:20], 5000) is None  # before the turn


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
    assert [point.step for point in curves.points if 250 <= point.step <= 650] == [250, 292, 625]
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


def test_the_curves_never_part_before_anything_was_read_twice() -> None:
    rows = _run(lambda share: 8 - 3 * share, lambda share: 8 - 4 * share)  # the gap grows steadily
    for epochs in (2.0, 5.0, 20.0):
        curves = read_curves(rows, tokens_per_epoch=round(100_000 / epochs))
        assert curves is not None
        assert curves.gap.opened is not None
        assert curves.gap.opened[1].tokens > 1.05 * 100_000 / epochs


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("points", [4, 6, 10, 30])
def test_noise_around_a_level_is_rarely_a_trend(noise: float, points: int) -> None:
    false = 0
    for seed in range(400):
        rows = _run(lambda _: 4.0, lambda _: 4.0, noise=noise, points=points, seed=seed)
        said = " ".join(one.sentence for one in conclusions(rows, tokens_per_epoch=25_000))
        false += any(word in said for word in ("risen", "still falling", "does not carry over", "is learning"))
    assert false <= 8  # 2 %


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


def test_lost_losses_are_counted_and_nothing_breaks() -> None:
    rows = _run(_falling, _falling)
    rows[10]["train_loss_nats_per_token"] = None
    rows[11]["probe_validation_loss_nats_per_token"] = None
    assert conclusions(rows, tokens_per_epoch=25_000)[-1].sentence == "At 1 step the training loss was not finite."
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


if __name__ == "__main__":
    GOLDEN.write_text(rendered(), encoding="utf-8")
