import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.accelerators import ACCELERATORS, lookup
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import custom
from hornbook.facts.shape import PRESETS
from hornbook.planning import budget as planning
from hornbook.planning.budget import Range, budget, implied_utilisation, price, training_flops, utilisation
from hornbook.planning.published import RUNS

ROOT = Path(__file__).parents[2]
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
            share = utilisation(accelerator, float(row["params"]), without_family=family(row["id"]))
            assert used is not None
            assert share is not None
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
        used = implied_utilisation(planning.run_flops(run), run.accelerator_hours, accelerator)
        share = utilisation(accelerator, run.parameters, without_family=run.family)
        assert used is not None
        assert share is not None
        rows.append((used, share))
    assert_honest(rows)
    assert 0.85 <= np.mean([share.contains(used) for used, share in rows]) <= 0.95
    half_width = np.mean([math.log(share.central / share.low) for _, share in rows])
    assert half_width == pytest.approx(np.quantile(np.log(factors(rows)), 0.9), rel=0.1)


def by_matrices(between: float, within: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(coefficients, their covariance, restricted log-likelihood) by numpy; the prior's variance is in the data's."""
    points = np.array([planning._observed(run) for run in RUNS])
    features = np.stack([np.ones(len(RUNS)), points[:, 0]], 1)
    same = np.array([[a.family == b.family for b in RUNS] for a in RUNS])
    variance = between * same + within * np.eye(len(RUNS))
    normal = features.T @ np.linalg.solve(variance, features) + np.diag([0.0, planning.SLOPE_PRIOR**-2])
    found = np.linalg.solve(normal, features.T @ np.linalg.solve(variance, points[:, 1]))
    variance += planning.SLOPE_PRIOR**2 * np.outer(points[:, 0], points[:, 0])
    ones = np.ones(len(RUNS))
    precision = ones @ np.linalg.solve(variance, ones)
    residuals = points[:, 1] - ones @ np.linalg.solve(variance, points[:, 1]) / precision
    likelihood = np.linalg.slogdet(variance)[1] + np.log(precision) + residuals @ np.linalg.solve(variance, residuals)
    return found, np.linalg.inv(normal), -likelihood / 2


def test_the_closed_form_is_generalised_least_squares_and_the_restricted_likelihood() -> None:
    """Against numpy's matrices."""
    found = planning.fit()
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
    shares, fits = zip(*planning.fit(), strict=True)
    picked = random.choice(len(fits), 100_000, p=shares)
    means = np.array([each.constant + 0.5 * each.slope for each in fits])[picked]
    drawn = random.normal(means, np.array([each.deviation(0.5) for each in fits])[picked])
    central, half = planning.predicted(0.5)
    assert drawn.mean() == pytest.approx(central, abs=0.005)
    assert np.mean(np.abs(drawn - central) < half) == pytest.approx(0.9, abs=0.004)


def test_no_run_outside_the_fit_shares_a_family_name_that_would_hide_it() -> None:
    for run in RUNS:
        assert run.source
        assert run.hours_are in ("stated", "derived")


def test_the_seed_figure_from_its_inputs() -> None:
    assert price(184_320, 8, 30) == 691_200


def test_llama_2_7b_from_its_size_and_tokens_alone() -> None:
    count, accelerator = lookup("8xA100")
    plan = budget(training_flops(7e9, 2e12, context=4096), accelerator, count=count, parameters=7e9, usd_per_hour=30)
    assert plan.gpu_hours is not None
    assert plan.price_usd is not None
    assert plan.gpu_hours.contains(184_320)
    assert plan.price_usd.contains(691_200)
    assert plan.gpu_hours.high / plan.gpu_hours.low <= 4


def test_more_than_the_peak_is_refused() -> None:
    steps = 3600 / 0.150  # llm.c's scripts/run_gpt3_125M.sh states 150 ms a step of 524,288 tokens on eight A100
    accelerator = lookup("A100")[1]
    with pytest.raises(InputError, match=r"105% of the peak .* impossible"):
        planning.refuse_impossible(124.5e6, steps * 524_288, 8, accelerator)
    planning.refuse_impossible(124.5e6, steps * 524_288, 16, accelerator)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_no_published_run_is_impossible(run) -> None:  # type: ignore[no-untyped-def]
    planning.refuse_impossible(
        run.parameters, run.tokens, run.accelerator_hours, lookup(run.accelerator)[1], context=run.context,
        layers=run.layers, width=run.width,
    )  # fmt: skip


def test_flops_by_size_agree_with_those_of_the_shape() -> None:
    for name in ("gpt2", "gpt2-xl", "llama2-7b"):
        shape = PRESETS[name]
        by_size = training_flops(
            shape.matmul_parameters, 1, context=shape.context, layers=shape.layers, width=shape.width
        )
        assert by_size == shape.flops_per_token()


@given(st.floats(60e6, 1e12), st.floats(1e9, 1e14), st.integers(1, 1000), st.sampled_from(ACCELERATORS))
def test_cost_scales_as_it_must(parameters: float, tokens: float, count: int, accelerator) -> None:  # type: ignore[no-untyped-def]
    flops = training_flops(parameters, tokens, context=2048)
    one = budget(flops, accelerator, parameters=parameters, usd_per_hour=2.0)
    many = budget(flops * 2, accelerator, count=count, parameters=parameters, usd_per_hour=2.0 * count)
    if one.gpu_hours is None:
        assert many.gpu_hours is None
        assert any("measure" in sentence for sentence in one.unknown)
        return
    assert many.gpu_hours is not None
    assert many.wall_seconds is not None
    assert many.price_usd is not None
    assert one.price_usd is not None
    assert math.isclose(many.gpu_hours.central, 2 * one.gpu_hours.central)
    assert math.isclose(many.wall_seconds.central * count, many.gpu_hours.central * 3600)
    assert math.isclose(many.price_usd.central, 2 * one.price_usd.central)
    assert many.gpu_hours.low < many.gpu_hours.central < many.gpu_hours.high


def test_a_measurement_replaces_the_published_runs() -> None:
    wall = Range(1800.0, 3600.0, 7200.0, "measured")
    plan = budget(3.6e15, custom("mine", 2e12), count=2, parameters=1e6, wall=wall)
    assert plan.gpu_hours == Range(1.0, 2.0, 4.0, "measured")
    assert plan.utilisation is None


def test_unknown_is_said_and_not_guessed() -> None:
    small = budget(1e15, lookup("H100")[1], parameters=1e6)
    assert small.gpu_hours is small.energy_kwh is small.price_usd is None
    assert len(small.unknown) == 2
    tpu = budget(1e22, lookup("TPUv5p")[1], parameters=1e9)
    assert tpu.gpu_hours is not None
    assert tpu.energy_kwh is None


def test_measured_energy_of_olmo_2_is_inside() -> None:
    """7B on 4.05T tokens took 131 MWh and 13B on 5T took 257 MWh (arXiv:2501.00656), of the GPUs alone: host and
    building are added as the low end of the plan has them."""
    for parameters, tokens, layers, width, mwh in ((7.3e9, 4.05e12, 32, 4096, 131), (13.7e9, 5.0e12, 40, 5120, 257)):
        flops = training_flops(parameters, tokens, context=4096, layers=layers, width=width)
        plan = budget(flops, lookup("H100")[1], parameters=parameters)
        assert plan.energy_kwh is not None
        assert plan.energy_kwh.contains(mwh * 1000 * 1.08 * 1.1)
