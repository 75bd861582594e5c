"""The shipped utilisation is what benchmarks/utilisation.py fits, and the fit is honest about runs it has not seen."""

import csv
import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest

from hornbook.facts.accelerators import ACCELERATORS, lookup
from hornbook.planning import budget
from hornbook.planning.budget import (
    implied_utilisation,
    log_balance,
    refuse_impossible,
    training_flops,
    utilisation,
    why_unknown,
)
from hornbook.planning.workload import Range

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("utilisation", ROOT / "benchmarks" / "utilisation.py")
assert spec is not None
assert spec.loader is not None
fit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fit)
RUNS = fit.RUNS
PUBLISHED = Path(os.environ.get("HORNBOOK_DATA", ROOT.parent / "shared" / "data")) / "published_runs.csv"


def family(name: str) -> str:
    """The family in the fit of a row of the file: its first word without a version."""
    word = name.split("-")[0].split(".")[0].rstrip("0123456789")
    return {"bloomberggpt": "bloomberg"}.get(word, word)


def factors(rows: list[tuple[float, Range]]) -> list[float]:
    return [max(used / share.central, share.central / used) for used, share in rows]


def published_rows() -> list[tuple[float, Range]]:
    """(utilisation that the row implies, the one predicted with its family left out)."""
    rows = []
    families = {run.family for run in RUNS}
    with PUBLISHED.open() as file:
        for row in csv.DictReader(file):
            accelerator = lookup(row["accelerator"])[1]
            flops = training_flops(
                float(row["params"]), float(row["tokens"]), context=float(row["context"]),
                layers=int(row["num_layers"]), width=int(row["width"]),
            )  # fmt: skip
            used = implied_utilisation(flops, float(row["accelerator_hours"]), accelerator)
            assert family(row["id"]) in families, row["id"]  # else it would not be left out
            share = fit.utilisation(accelerator, family(row["id"]))
            assert used is not None
            rows.append((used, share))
    return rows


def assert_honest(rows: list[tuple[float, Range]]) -> None:
    off = factors(rows)
    assert np.median(off) <= 1.35
    assert np.quantile(off, 0.9) <= 1.8
    assert np.mean([share.contains(used) for used, share in rows]) >= 0.85
    assert max(share.high / share.low for _, share in rows) <= 4


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the file of published runs is not here")
def test_published_runs_are_predicted_with_their_family_left_out() -> None:
    assert_honest(published_rows())


def test_our_table_is_predicted_with_families_left_out_and_ranges_are_as_wide_as_their_errors() -> None:
    rows = []
    for run in RUNS:
        accelerator = lookup(run.accelerator)[1]
        used = implied_utilisation(fit.run_flops(run), run.accelerator_hours, accelerator)
        share = fit.utilisation(accelerator, run.family)
        assert used is not None
        rows.append((used, share))
    assert_honest(rows)
    assert 0.85 <= np.mean([share.contains(used) for used, share in rows]) <= 0.95
    half_width = np.mean([math.log(share.central / share.low) for _, share in rows])
    assert half_width == pytest.approx(np.quantile(np.log(factors(rows)), 0.9), rel=0.1)


def by_matrices(between: float, within: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(coefficients, their covariance, restricted log-likelihood) by numpy; the prior's variance is in the data's."""
    points = np.array([fit._observed(run) for run in RUNS])
    features = np.stack([np.ones(len(RUNS)), points[:, 0]], 1)
    same = np.array([[a.family == b.family for b in RUNS] for a in RUNS])
    variance = between * same + within * np.eye(len(RUNS))
    normal = features.T @ np.linalg.solve(variance, features) + np.diag([0.0, fit.SLOPE_PRIOR**-2])
    found = np.linalg.solve(normal, features.T @ np.linalg.solve(variance, points[:, 1]))
    variance += fit.SLOPE_PRIOR**2 * np.outer(points[:, 0], points[:, 0])
    ones = np.ones(len(RUNS))
    precision = ones @ np.linalg.solve(variance, ones)
    residuals = points[:, 1] - ones @ np.linalg.solve(variance, points[:, 1]) / precision
    likelihood = np.linalg.slogdet(variance)[1] + np.log(precision) + residuals @ np.linalg.solve(variance, residuals)
    return found, np.linalg.inv(normal), -likelihood / 2


def test_the_closed_form_is_generalised_least_squares_and_the_restricted_likelihood() -> None:
    """Against numpy's matrices."""
    found = fit.fit()
    assert math.fsum(share for share, _ in found) == pytest.approx(1)
    share, best = max(found, key=lambda each: each[0])
    coefficients, covariance, likelihood = by_matrices(best.between, best.within)
    assert (best.constant, best.slope) == pytest.approx(tuple(coefficients))
    assert best.covariance == pytest.approx((covariance[0, 0], covariance[0, 1], covariance[1, 1]))
    for other_share, other in found:
        if other_share > 1e-3 * share:
            difference = by_matrices(other.between, other.within)[2] - likelihood
            assert other_share == pytest.approx(share * math.exp(difference))


def test_the_range_holds_nine_in_ten_draws_of_what_the_fit_says() -> None:
    random = np.random.default_rng(0)
    shares, fits = zip(*fit.fit(), strict=True)
    picked = random.choice(len(fits), 100_000, p=shares)
    means = np.array([each.constant + 0.5 * each.slope for each in fits])[picked]
    drawn = random.normal(means, np.array([each.deviation(0.5) for each in fits])[picked])
    central, half = fit.predicted(0.5)
    assert drawn.mean() == pytest.approx(central, abs=0.005)
    assert np.mean(np.abs(drawn - central) < half) == pytest.approx(0.9, abs=0.004)


def test_no_run_outside_the_fit_shares_a_family_name_that_would_hide_it() -> None:
    for run in RUNS:
        assert run.source
        assert run.hours_are in ("stated", "derived")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_no_published_run_is_impossible(run) -> None:  # type: ignore[no-untyped-def]
    refuse_impossible(
        run.parameters, run.tokens, run.accelerator_hours, lookup(run.accelerator)[1], context=run.context,
        layers=run.layers, width=run.width,
    )  # fmt: skip


def test_the_constants_are_what_the_fit_gives() -> None:
    for name, numbers in fit.constants().items():
        assert getattr(budget, name) == pytest.approx(numbers, abs=1e-8), name


@pytest.mark.parametrize("accelerator", ACCELERATORS, ids=lambda accelerator: accelerator.name)
def test_the_polynomial_is_the_fit_on_every_device(accelerator) -> None:  # type: ignore[no-untyped-def]
    if why_unknown(accelerator, 1e9) is not None:
        return
    shipped, fitted = utilisation(accelerator, 1e9), fit.utilisation(accelerator)
    assert shipped is not None
    for name in ("low", "central", "high"):
        assert getattr(shipped, name) == pytest.approx(getattr(fitted, name), rel=1e-9)
    assert fit.predicted(log_balance(accelerator))[0] == pytest.approx(math.log(shipped.central))
