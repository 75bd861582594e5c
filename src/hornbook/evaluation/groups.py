"""Two recipes, several runs of each, one text: the difference in bits per byte, with an interval that covers both kinds
of chance, and what a number of runs could see.

Another seed would have given other runs, and another text of this kind other documents. The variance of the difference
due to runs is Welch's (1947); that due to documents is the one of `comparison.compare`, of the mean nats of each side.
Both hold what single runs find hard in single documents, which is counted twice: the interval errs on the wide side.
The half-widths, each with its own degrees of freedom, are added as squares: for independent parts that covers 95 % at
least (Banerjee 1960), while degrees of freedom of the sum (Satterthwaite) are misled where one part is small by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hornbook.evaluation.breakdown import estimate, interval_scope
from hornbook.evaluation.comparison import check_same_text, paired_estimate
from hornbook.evaluation.intervals import UNKNOWN_KIND, Estimate, difference
from hornbook.facts.errors import InputError
from hornbook.facts.statistics import t_quantile
from hornbook.records.result import Report

RUNS_A_SIDE = (2, 3, 4, 5, 10)  # for which the smallest difference that would be seen is told
POWER = 0.8


class Spread(NamedTuple):
    """What the runs of one recipe come to: (n,) values, their mean and standard deviation."""

    values: list[float]
    mean: float
    deviation: float

    @property
    def estimate(self) -> Estimate:
        n = len(self.values)
        return Estimate(self.mean, self.deviation / math.sqrt(n), n - 1)


def spread(values: Sequence[float]) -> Spread:
    """
    >>> spread([1.0, 2.0, 3.0])
    Spread(values=[1.0, 2.0, 3.0], mean=2.0, deviation=1.0)
    """
    return Spread(list(values), float(np.mean(values)), float(np.std(values, ddof=1)))


def compare_groups(a: Sequence[Report], b: Sequence[Report]) -> dict[str, Any]:
    """The difference B - A of the mean bits per byte of two or more runs of each recipe over the same documents.

    Raises InputError for fewer than two runs of a side, for a run that is counted twice (the same nats in every
    document, as no two seeds have), and when the reports did not score the same text.
    """
    for name, side in (("A", a), ("B", b)):
        if len(side) < 2:
            raise InputError(
                f"{name} is one run, and how runs of a recipe differ shows only in two or more: train more with "
                "hornbook train --seeds, or compare the two models alone, without --vs."
            )
    for report in (*a, *b):
        check_same_text(a[0], report)
    _check_distinct(a, b)
    sides = [spread([report.bits_per_byte for report in side]) for side in (a, b)]
    scope = interval_scope(a[0].documents)
    by_runs, by_documents = difference(sides[1].estimate, sides[0].estimate), paired_estimate(scope, a, b)
    assert by_runs is not None
    value, half_width, needed = by_runs.value, None, math.inf
    factor = UNKNOWN_KIND if scope.rule == "passage" else 1.0
    if by_documents is not None:
        half_width = math.hypot(by_runs.half_width, by_documents.half_width)
        needed = math.hypot(by_runs.half_width, factor * by_documents.half_width)
    beyond = None if half_width is None else abs(value) > needed
    counts = (len(a), len(b))
    return {
        "difference_bits_per_byte": value,
        "difference_bits_per_byte_interval_95": (
            None if half_width is None else [value - half_width, value + half_width]
        ),
        "half_width_of_runs": by_runs.half_width,
        "half_width_of_documents": None if by_documents is None else by_documents.half_width,
        **{
            side: {"models": [report.model for report in reports], "bits_per_byte": of.mean,
                   "bits_per_byte_of_runs": of.values, "standard_deviation": of.deviation}
            for side, reports, of in zip("ab", (a, b), sides, strict=True)
        },
        "interval_over": f"{counts[0]} and {counts[1]} runs and {scope.over}",
        "interval_about": f"other runs of these recipes, and {scope.about}",
        "num_documents": len(a[0].documents),
        "num_bytes": a[0].num_bytes,
        "beyond_chance": beyond,
        "smallest_difference_seen": smallest_difference(
            [side.deviation for side in sides], by_documents, _shared(a, b, by_documents), factor
        ),
        "verdict": _sentence(value, half_width, needed, f"{counts[0]} and {counts[1]} runs on {scope.over}"),
    }  # fmt: skip


def _check_distinct(a: Sequence[Report], b: Sequence[Report]) -> None:
    seen: dict[tuple[float, ...], str] = {}
    for report in (*a, *b):
        nats = tuple(row.nats for row in report.documents)
        if nats in seen:
            raise InputError(
                f"{seen[nats]} and {report.model} are the same model, and a run counts once: train others with "
                "hornbook train --seeds."
            )
        seen[nats] = report.model


def _shared(a: Sequence[Report], b: Sequence[Report], by_documents: Estimate | None) -> float:
    """The share of the variance between documents that more runs would not take away: what is not due to single runs.

    A run's nats in a document, less the mean of its side, differ by chance alone; their variance is what single runs
    leave in the mean of a side."""
    if by_documents is None or not by_documents.error:
        return 0.0
    alone = 0.0
    for side in (a, b):
        nats = np.array([[row.nats for row in report.documents] for report in side])
        scope, num_bytes = interval_scope(side[0].documents), np.array([row.num_bytes for row in side[0].documents])
        for left in nats - nats.mean(0):
            of_run = estimate(scope, left, num_bytes * math.log(2))
            alone += 0.0 if of_run is None else of_run.error**2 / (len(side) * (len(side) - 1))
    return max(0.0, 1 - alone / by_documents.error**2)


def best_of(groups: Mapping[str, Sequence[Report]]) -> dict[str, Any]:
    """Of two or more recipes, each with two or more runs, the one with the lowest mean bits per byte, and its lead over
    the second. Of equals, the first by chance leads the second by less than the better of two leads the other, so the
    interval of that lead is wrong no more often; of the others nothing is claimed.

    Raises InputError as `compare_groups`.
    """
    means = {name: spread([report.bits_per_byte for report in side]).mean for name, side in groups.items()}
    best, second = sorted(means, key=lambda name: means[name])[:2]
    lead = compare_groups(groups[second], groups[best])
    chance = {True: "beyond the chance of seeds and of the text", False: "which could be chance",
              None: "on too little text to rule out chance"}[lead["beyond_chance"]]  # fmt: skip
    interval = lead["difference_bits_per_byte_interval_95"]
    between = "" if interval is None else f" (95 % {-interval[1]:.4f} to {-interval[0]:.4f})"
    return {
        "best": best,
        "second": second,
        "lead": lead,
        "verdict": f"{best} is the best of {len(groups)}, ahead of {second} by {-lead['difference_bits_per_byte']:.4f} "
        f"bits/byte{between}, {chance}. The best of {len(groups)} is a selection: its own number is flattered.",
    }


def smallest_difference(
    deviations: Sequence[float], by_documents: Estimate | None, shared: float = 1.0, factor: float = 1.0
) -> dict[str, float]:
    """Runs a side -> the difference in bits per byte that so many would show beyond chance in 80 % of cases.

    `deviations` of the runs of both sides; `shared` of the variance between documents stays, however many runs, and
    what counts as beyond chance is so many times (`factor`) as far from it as the documents' interval says. Welch's
    degrees of freedom, between one less than the runs of a side and twice that, are taken near the lower end.

    >>> {k: round(seen, 2) for k, seen in smallest_difference([1.0, 1.0], None).items() if k in "2 3 10"}
    {'2': 9.91, '3': 3.84, '10': 1.38}
    """
    deviation = math.sqrt(math.fsum(d * d for d in deviations) / len(deviations))
    seen = {}
    for runs in RUNS_A_SIDE:
        of_runs = _needed(1.2 * (runs - 1)) * deviation * math.sqrt(2 / runs)
        of_documents = 0.0 if by_documents is None else _needed(by_documents.degrees, factor) * by_documents.error
        seen[str(runs)] = math.hypot(of_runs, of_documents * math.sqrt(shared))
    return seen


def _needed(degrees: float, factor: float = 1.0) -> float:
    """Standard errors of a difference that is found beyond chance in 80 % of cases."""
    return factor * t_quantile(degrees) + t_quantile(degrees, 1 - POWER)


def _sentence(value: float, half_width: float | None, needed: float, on: str) -> str:
    if value == 0:
        return f"A and B are equally good over {on}."
    better, size = ("B" if value < 0 else "A"), abs(value)
    if half_width is None:
        return f"{better} is better by {size:.4f} bits/byte over {on}, too little text to rule out chance."
    chance = "beyond the chance of seeds and of the text" if size > needed else "this could be chance"
    if half_width < size <= needed:
        chance += f", since on one passage only a difference above {needed:.4f} is told from it"
    numbers = f"95 % {size - half_width:.4f} to {size + half_width:.4f}"
    return f"{better} is better by {size:.4f} bits/byte, {numbers}, over {on}; {chance}."
