"""What loss to expect for the money: the scaling law of Chinchilla as re-fitted by Besiroglu et al., where it holds.

Below 50M parameters or 1B tokens it gives nonsense (16 nats for 6M parameters and 1.3M tokens, more than ln V): there
nothing is expected from it, and a run's own curve speaks (`forecast.py`).
"""

from __future__ import annotations

import math

import msgspec

from hornbook.facts.capacity import effective_tokens
from hornbook.facts.hardware import Accelerator
from hornbook.planning.budget import budget
from hornbook.planning.workload import Range

# L(N, D) = E + A / N^alpha + B / D^beta, nats per token: Besiroglu et al. 2024, arXiv:2404.10102, of the runs of
# Hoffmann et al. 2022, arXiv:2203.15556.
E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
SMALLEST_PARAMETERS, SMALLEST_TOKENS = 50e6, 1e9
# The law speaks of one text and one tokenizer of 32,000 ids. Others differ: nanoGPT's 124M on OpenWebText ends 6 %
# above it (2.85 nats), LLaMA 7B about 15 % below (1.77, read off figure 1 of its paper).
BAND = 1.2


class FrontierPoint(msgspec.Struct, frozen=True):
    """The best split of one amount of money (or of FLOPs) between size and tokens."""

    flops: float
    parameters: float
    tokens: float
    loss_nats_per_token: float
    gpu_hours: float | None
    price_usd: float | None


def chinchilla_loss(parameters: float, tokens: float) -> float:
    """Nats per token, wherever asked; `expected_loss` asks only where the law holds.

    >>> f"{chinchilla_loss(70e9, 1.4e12):.3f}"  # Chinchilla itself
    '1.974'
    """
    return E + A / math.pow(parameters, ALPHA) + B / math.pow(tokens, BETA)


def why_no_loss(parameters: float, tokens: float) -> str | None:
    """Why no published law speaks about this run, as a sentence; None where one does."""
    if parameters >= SMALLEST_PARAMETERS and tokens >= SMALLEST_TOKENS:
        return None
    return (
        "the expected loss is unknown: published scaling laws hold from 50M parameters and 1B tokens on; a run's own "
        "curve tells after its first evaluations."
    )


def expected_loss(parameters: float, tokens: float, vocabulary: int, *, epochs: float = 1.0) -> Range | None:
    """Final validation loss in nats per token with its band, never above ln V; None with `why_no_loss`. `tokens`
    counts every token trained on; repeated ones count for less.

    >>> expected_loss(6e6, 1.3e6, 4096) is None
    True
    """
    if why_no_loss(parameters, tokens) is not None:
        return None
    loss = chinchilla_loss(parameters, effective_tokens(tokens / max(epochs, 1.0), epochs))
    ceiling = math.log(vocabulary)
    reason = "Chinchilla's law as re-fitted by Besiroglu et al. 2024; another text or tokenizer moves it by 20 %"
    return Range(min(loss / BAND, ceiling), min(loss, ceiling), min(loss * BAND, ceiling), reason)


# Small runs, from 24 of our own (texts of 0.13 to 19 MB by characters, bytes and BPE; Muon, default settings):
# bits per byte = those of the best n-gram baseline x exp(OFFSET + PER_SEEN ln(bytes seen / 600k)
# + PER_PARAMETER ln(parameters / 500k) + PER_TEXT ln(bytes of text / 500k)). More text makes the baseline better.
# `benchmarks/plan_scored.py law` fits them.
OFFSET, PER_SEEN, PER_PARAMETER, PER_TEXT = 0.093, -0.086, -0.019, 0.047
SMALL_WIDTH = 0.15  # bits per byte either way: with each left out in turn, 21 of the 24 lay within, the others at 0.16
# Where recorded runs lay, with a little room. A text that is too short to be learned follows another rule.
SMALL_DOMAIN = {
    "parameters": (8e4, 2.5e6), "train_bytes": (1.2e5, 2.5e7), "bytes seen": (8e4, 2e6), "tokens": (8e4, 1e6),
    "epochs": (0.02, 7.0), "baseline_bits": (1.6, 2.3),
}  # fmt: skip


def small_run_bits(
    baseline_bits: float, parameters: int, train_bytes: float, tokens: float, epochs: float
) -> Range | None:
    """Final bits per byte of a small run with Muon, from those of the best n-gram baseline on the same text.

    `tokens` are those trained on, over all `epochs`. None outside of what our own runs have shown: SMALL_DOMAIN.

    >>> r = small_run_bits(2.0, 500_000, 600_000, 250_000, 1.0)
    >>> f"{r.low:.2f} {r.central:.2f} {r.high:.2f}", small_run_bits(1.9, 500_000, 1e9, 440_000, 0.002)
    ('2.06 2.21 2.36', None)
    """
    effective = effective_tokens(train_bytes, epochs)
    is_at = (parameters, train_bytes, effective, tokens, epochs, baseline_bits)
    if not all(low <= at <= high for at, (low, high) in zip(is_at, SMALL_DOMAIN.values(), strict=True)):
        return None
    ratio = OFFSET + PER_SEEN * math.log(effective / 6e5) + PER_PARAMETER * math.log(parameters / 5e5)
    ratio += PER_TEXT * math.log(train_bytes / 5e5)
    bits = baseline_bits * math.exp(ratio)
    reason = "the best n-gram baseline, and how small runs of Hornbook compare with one; 0.15 bits either way"
    return Range(bits - SMALL_WIDTH, bits, bits + SMALL_WIDTH, reason)


def compute_optimal(flops: float) -> tuple[float, float] | None:
    """(parameters, tokens) of the lowest loss for 6 x parameters x tokens = flops; None outside the law's domain.

    Setting the derivative to zero: N = G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)).

    >>> n, d = compute_optimal(5.76e23)  # Gopher's and Chinchilla's
    >>> round(n / 1e9), round(d / n)
    (72, 18)
    """
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    parameters = scale * (flops / 6) ** (BETA / (ALPHA + BETA))
    tokens = flops / 6 / parameters
    return (parameters, tokens) if why_no_loss(parameters, tokens) is None else None


def frontier(
    flops: float, accelerator: Accelerator, *, count: int = 1, usd_per_hour: float | None = None,
    factors: tuple[float, ...] = (0.1, 0.3, 1, 3, 10),
) -> list[FrontierPoint]:  # fmt: skip
    """Loss against cost: the best run for each multiple of `flops`, where the law holds."""
    points = []
    for factor in factors:
        best = compute_optimal(flops * factor)
        if best is None:
            continue
        costs = budget(flops * factor, accelerator, count=count, parameters=best[0], usd_per_hour=usd_per_hour)
        points.append(
            FrontierPoint(
                flops=flops * factor,
                parameters=best[0],
                tokens=best[1],
                loss_nats_per_token=chinchilla_loss(*best),
                gpu_hours=costs.gpu_hours.central if costs.gpu_hours else None,
                price_usd=costs.price_usd.central if costs.price_usd else None,
            )
        )
    return points
