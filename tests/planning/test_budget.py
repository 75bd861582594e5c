import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.accelerators import ACCELERATORS, lookup
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import custom
from hornbook.facts.shape import PRESETS
from hornbook.planning import budget as planning
from hornbook.planning.budget import budget, training_flops
from hornbook.planning.workload import Range


def test_the_seed_figure_from_its_inputs() -> None:
    wall = Range(*[184_320 * 3600 / 8] * 3, "stated")
    price = budget(1e22, lookup("A100")[1], count=8, parameters=7e9, usd_per_hour=30, wall=wall).price_usd
    assert price is not None
    assert price.central == pytest.approx(691_200)


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
