"""FLOPs -> GPU-hours, wall time, kWh, money. Each is a range that should contain the truth in nine cases of ten.

hours = FLOPs / (peak x utilisation x 3600). FLOPs and peak are known; the utilisation of a whole run, with its restarts
and evaluations, is not, and it is what the ranges are about: see docs/cost.md.
"""

from __future__ import annotations

import math

import msgspec

from hornbook.facts.errors import InputError
from hornbook.facts.hardware import Accelerator
from hornbook.planning.workload import Range

REFERENCE_BALANCE = 153.0  # FLOPs per byte of an A100-80, where the constant of the fit is anchored
# Fitted by benchmarks/utilisation.py on published runs, over x = log(balance / 153), within their balances: the log of
# the utilisation, constant and slope, and the coefficients of half the width of its 90 % range, a polynomial in x.
BALANCES = (136.666666667, 295.343283582)
LOG_UTILISATION = (-0.953609726069, -0.418776187192)
HALF_WIDTH = (
    0.570653598027, -0.0220633302409, 0.0422344127103, 0.0016541837046, -0.00152428383854, -0.000185968930914,
    0.000121078082138,
)  # fmt: skip
SMALLEST_PARAMETERS = 50e6  # the smallest run of the table has 70M
DRAW = (0.75, 0.85, 0.95)  # of the power limit while training: Luccioni et al. 2022, Morrison et al. 2025
HOST = (1.10, 1.15, 1.20)  # processors, memory, network of the host, beside its accelerators
FACILITY = (1.08, 1.20, 1.50)  # PUE: Chowdhery et al. 2022 state 1.08; an old machine room has 1.5


class Budget(msgspec.Struct, frozen=True):
    """What a run takes. What cannot be known is None, and `unknown` says why."""

    flops: float
    utilisation: Range | None
    gpu_hours: Range | None
    wall_seconds: Range | None
    energy_kwh: Range | None
    price_usd: Range | None
    unknown: tuple[str, ...] = ()


def typical_shape(parameters: float) -> tuple[int, int]:
    """Layers and width of a decoder of which only the size is known: 12 x layers x width^2 at width = 128 x layers.

    >>> typical_shape(6.7e9), typical_shape(70e9)  # Llama's are (32, 4096) and (80, 8192)
    ((32, 4150), (71, 9072))
    """
    width = (128 * parameters / 12) ** (1 / 3)
    return max(1, round(width / 128)), max(1, round(width))


def training_flops(
    parameters: float, tokens: float, *, context: float, layers: int | None = None, width: int | None = None
) -> float:
    """FLOPs of training by size: (6 x parameters + 12 x layers x width x context) x tokens (Chowdhery et al. 2022,
    appendix B, the full square of attention). `shape.flops_per_token() x tokens` is better where the shape is known.

    >>> f"{training_flops(6.738e9, 2e12, context=4096, layers=32, width=4096):.3g}"
    '9.37e+22'
    """
    if layers is None or width is None:
        layers, width = typical_shape(parameters)
    return float((6 * parameters + 12 * layers * width * context) * tokens)


def implied_utilisation(flops: float, gpu_hours: float, accelerator: Accelerator) -> float | None:
    """FLOPs done / FLOPs that the hours could have done at the peak; None where no peak is known."""
    peak = accelerator.training_flops()
    return None if peak is None else flops / (gpu_hours * 3600 * peak[1])


def refuse_impossible(
    parameters: float, tokens: float, gpu_hours: float, accelerator: Accelerator, *, context: int = 0,
    layers: int | None = None, width: int | None = None,
) -> None:  # fmt: skip
    """Raise InputError when the hours would need more than the peak, counting only what no kernel can leave out:
    the weights and the causal half of attention.

    llm.c's scripts/run_gpt3_125M.sh states 150 ms a step of 524,288 tokens on eight A100, an hour of which is

    >>> from hornbook.facts.accelerators import lookup
    >>> refuse_impossible(124.5e6, 24_000 * 524_288, 8, lookup("A100")[1])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hornbook.facts.errors.InputError: training ... needs 105% of the peak of one A100-80 (312 TFLOP/s), ...
    """
    flops = training_flops(parameters, tokens, context=context / 2, layers=layers, width=width)
    share, peak = implied_utilisation(flops, gpu_hours, accelerator), accelerator.training_flops()
    if share is not None and peak is not None and share > 1:
        raise InputError(
            f"training {parameters:.3g} parameters on {tokens:.3g} tokens in {gpu_hours:,.1f} accelerator-hours needs "
            f"{share:.0%} of the peak of one {accelerator.name} ({peak[1] / 1e12:.0f} TFLOP/s), which is impossible: "
            "check the tokens, the hours and the number of accelerators."
        )


def log_balance(accelerator: Accelerator) -> float:
    """log(balance / 153), the balance kept within those of the published runs."""
    low, high = BALANCES
    return math.log(min(max(accelerator.balance or REFERENCE_BALANCE, low), high) / REFERENCE_BALANCE)


def why_unknown(accelerator: Accelerator, parameters: float) -> str | None:
    """Why no utilisation can be named, as a sentence; None where one can."""
    peak = accelerator.training_flops()
    if peak is None:
        return f"the peak FLOP/s of {accelerator.name} is unknown: give it with --peak."
    if accelerator.bandwidth_bytes_per_second is not None and peak[0] == "float32":
        return f"no published run used {accelerator.name}: its utilisation is unknown until it is measured."
    if parameters < SMALLEST_PARAMETERS:
        return (
            f"{parameters:,.0f} parameters are fewer than in any published run (70M): how much of the peak so small a "
            "model reaches is unknown until it is measured."
        )
    return None


def utilisation(accelerator: Accelerator, parameters: float) -> Range | None:
    """Share of the peak that a whole run reaches, or None with `why_unknown`.

    >>> from hornbook.facts.accelerators import lookup
    >>> u = utilisation(lookup("A100")[1], 7e9)
    >>> f"{u.central:.2f} {u.high / u.low:.1f}"
    '0.39 3.1'
    """
    if why_unknown(accelerator, parameters) is not None:
        return None
    x = log_balance(accelerator)
    central = math.exp(LOG_UTILISATION[0] + LOG_UTILISATION[1] * x)
    factor = math.exp(math.fsum(c * x**power for power, c in enumerate(HALF_WIDTH)))
    reason = (
        f"by published runs, nine in ten on such accelerators use {central / factor:.0%} to {central * factor:.0%} of "
        "the peak, restarts and evaluations included"
    )
    return Range(central / factor, central, min(central * factor, 1.0), reason)


def power_range(accelerator: Accelerator) -> Range | None:
    """Watts per accelerator while training, with its share of host and building; None where the limit is unknown.

    >>> from hornbook.facts.accelerators import lookup
    >>> p = power_range(lookup("A100")[1])
    >>> round(p.low), round(p.central), round(p.high)
    (356, 469, 684)
    """
    if accelerator.power_watts is None:
        return None
    low, central, high = (accelerator.power_watts * d * h * f for d, h, f in zip(DRAW, HOST, FACILITY, strict=True))
    return Range(
        low, central, high, "energy at 75 to 95 % of the power limit, 10 to 20 % for the host, PUE 1.08 to 1.5"
    )


def product(a: Range, b: Range) -> Range:
    """The range of a product of independent quantities: log widths add in quadrature.

    >>> r = product(Range(1, 2, 4, "x"), Range(3, 3, 3, "y"))
    >>> round(r.low, 9), r.central, round(r.high, 9), r.reason
    (3.0, 6, 12.0, 'x; y')
    """
    central = a.central * b.central
    below = math.hypot(math.log(a.central / a.low), math.log(b.central / b.low))
    above = math.hypot(math.log(a.high / a.central), math.log(b.high / b.central))
    return Range(central / math.exp(below), central, central * math.exp(above), f"{a.reason}; {b.reason}")


def budget(
    flops: float, accelerator: Accelerator, *, count: int = 1, parameters: float, usd_per_hour: float | None = None,
    wall: Range | None = None,
) -> Budget:  # fmt: skip
    """What `flops` take on `count` accelerators, for all of which `usd_per_hour` pays. `wall`, the seconds of the whole
    job by a probe of this very run, replaces the peak and the published runs."""
    unknown: list[str] = []
    share, hours = utilisation(accelerator, parameters), None
    if wall is not None:
        share, hours = None, wall.times(count / 3600)
    elif share is not None:
        peak_flops = (accelerator.training_flops() or ("", 0.0))[1]
        at_peak = flops / peak_flops / 3600
        hours = Range(at_peak / share.high, at_peak / share.central, at_peak / share.low, share.reason)
    else:
        unknown.append("the time is unknown: " + (why_unknown(accelerator, parameters) or ""))
    power = power_range(accelerator)
    if power is None:
        unknown.append(f"the energy is unknown: no power limit is published for {accelerator.name}.")
    if usd_per_hour is None:
        unknown.append("the price is unknown: give --price, the dollars per hour for all of them, such as 30/hour.")
    return Budget(
        flops=flops,
        utilisation=share,
        gpu_hours=hours,
        wall_seconds=None if hours is None else hours.times(3600 / count),
        energy_kwh=None if hours is None or power is None else product(hours, power).times(1e-3),
        price_usd=None if hours is None or usd_per_hour is None else hours.times(usd_per_hour / count),
        unknown=tuple(unknown),
    )
