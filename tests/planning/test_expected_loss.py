import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.accelerators import lookup
from hornbook.planning.expected_loss import (
    OFFSET,
    PER_PARAMETER,
    PER_SEEN,
    PER_TEXT,
    SMALL_WIDTH,
    chinchilla_loss,
    compute_optimal,
    expected_loss,
    frontier,
    small_run_bits,
)


def test_outside_its_domain_the_law_is_silent() -> None:
    assert chinchilla_loss(6e6, 1.3e6) > math.log(65)  # the nonsense that it would say: more than knowing nothing
    for parameters, tokens in ((6e6, 1.3e6), (49e6, 1e12), (7e9, 0.9e9)):
        assert expected_loss(parameters, tokens, 50257) is None


@pytest.mark.parametrize(
    ("parameters", "tokens", "loss"),
    [(124e6, 295e9, 2.85), (6.7e9, 1e12, 1.77)],  # nanoGPT README on OpenWebText; LLaMA 7B, figure 1 of its paper
)
def test_published_losses_are_in_the_band(parameters: float, tokens: float, loss: float) -> None:
    band = expected_loss(parameters, tokens, 32_000)
    assert band is not None
    assert band.contains(loss)


@given(st.floats(50e6, 1e13), st.floats(1e9, 1e15), st.integers(2, 300_000))
def test_no_expectation_exceeds_knowing_nothing(parameters: float, tokens: float, vocabulary: int) -> None:
    band = expected_loss(parameters, tokens, vocabulary)
    assert band is not None
    assert band.low <= band.central <= band.high <= math.log(vocabulary) + 1e-12


@given(st.floats(1e20, 1e27), st.floats(0.5, 2.0).filter(lambda f: abs(f - 1) > 0.01))
def test_no_other_split_of_the_same_flops_is_better(flops: float, factor: float) -> None:
    best = compute_optimal(flops)
    assert best is not None
    parameters, tokens = best
    assert 6 * parameters * tokens == pytest.approx(flops)
    assert chinchilla_loss(parameters, tokens) <= chinchilla_loss(parameters * factor, tokens / factor)


def test_little_money_has_no_optimum_in_the_domain() -> None:
    assert compute_optimal(1e16) is None


def test_the_frontier_falls_as_money_grows() -> None:
    points = frontier(1e23, lookup("8xA100")[1], count=8, usd_per_hour=30)
    assert [p.loss_nats_per_token for p in points] == sorted((p.loss_nats_per_token for p in points), reverse=True)
    prices = [p.price_usd for p in points]
    assert None not in prices
    assert prices == sorted(prices)  # type: ignore[type-var]


def test_small_runs_that_were_recorded_end_in_their_band() -> None:
    recorded = Path(__file__).parents[2] / "benchmarks" / "results" / "plan_scored.json"
    law = json.loads(recorded.read_text(encoding="utf-8"))["law"]
    assert len(law["rows"]) == 24
    for row in law["rows"]:
        best = min(row["levels"].values())
        bits = small_run_bits(best, row["num_parameters"], row["train_bytes"], row["tokens"], row["epochs"])
        assert bits is not None
        assert bits.contains(row["bits_per_byte"])
    fitted = law["offset, per ln of bytes seen, parameters, bytes of text"]
    assert fitted == [OFFSET, PER_SEEN, PER_PARAMETER, PER_TEXT]
    left_out = [abs(error) <= SMALL_WIDTH for error in law["errors_left_out_bits_per_byte"]]
    assert (len(left_out), sum(left_out)) == (24, 21)


@pytest.mark.parametrize(
    ("baseline_bits", "train_bytes", "tokens", "epochs"),
    [(1.9, 1e9, 440_000, 0.002), (2.0, 6e5, 30_000, 0.1), (0.1, 6e5, 300_000, 1), (3.4, 2e4, 3e5, 15)],
    ids=["a part of very much text", "few tokens", "text that repeats", "a tiny text"],
)
def test_outside_of_what_runs_have_shown_a_small_run_is_promised_nothing(
    baseline_bits: float, train_bytes: float, tokens: float, epochs: float
) -> None:
    assert small_run_bits(baseline_bits, 500_000, train_bytes, tokens, epochs) is None
