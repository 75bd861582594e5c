"""Where a run's own loss curve is heading, with a band: a power law fitted robustly, again with every new point.

loss(tokens) = floor + height x tokens^(-exponent). Every exponent whose fit is nearly as good as the best one has a
say, so that the band is as wide as the curve leaves the answer open. Pure functions of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hornbook.facts.capacity import FREE_EPOCHS
from hornbook.planning.workload import Range

SMALLEST_POINTS = 6
EXPONENTS = np.geomspace(0.03, 2.0, 60)
SKIPPED = 0.1  # share of the tokens seen so far whose points tell nothing: warm-up and the fall from ln V
NEARLY = 2.7  # rise of the summed squares, in residual variances, that an exponent may cost: 90 % of chi-squared(1)
NOISE = 0.005  # share of the loss below which points are not told apart: evaluations repeat themselves
RISEN = 0.03  # share of the loss by which the last two points lie above the lowest where a curve rises
DECAY_GAIN = 0.10  # the last fall of the learning rate lowers the loss below the law by up to this share of it
MARGIN = 0.04  # share of the loss that is added on both sides: the law is a description, not a law


def forecast(
    tokens: Sequence[float], losses: Sequence[float], at: float, *, ceiling: float = math.inf, readings: float = 1.0
) -> Range | None:
    """Loss at `at` tokens in nats per token with its 90 % band, from the points of a run's validation (or smoothed
    training) loss; None where nothing is known: fewer than six points tell anything, the last two lie above the lowest
    one (the law only falls), the answer is not below `ceiling`, ln V for a fresh model, which caps the band, or the
    text will have been read more than four times (`readings`), when a validation loss may turn at any time.

    >>> t = [1e5 * k for k in range(1, 13)]
    >>> f = forecast(t, [2.0 + 90 * x**-0.4 for x in t], at=4e6)
    >>> abs(f.central - (2.0 + 90 * 4e6**-0.4)) < 0.03, f.contains(2.0 + 90 * 4e6**-0.4)
    (True, True)
    """
    t, y = np.asarray(tokens, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    keep = np.isfinite(y) & (t > 0)
    if keep.any():
        keep &= t >= SKIPPED * t[keep].max()
    t, y = t[keep], y[keep]
    if len(t) < SMALLEST_POINTS or at <= 0 or readings > FREE_EPOCHS or min(y[-2:]) > (1 + RISEN) * min(y):
        return None
    costs, answers = _every_exponent(t / t[-1], y, at / t[-1])
    best = float(costs.min())
    variance = max(best / max(len(t) - 3, 1), (NOISE * float(np.median(y))) ** 2)
    near = costs <= best + NEARLY * variance
    central = float(answers[int(costs.argmin())])
    if central >= ceiling:
        return None
    spread = 1.645 * math.sqrt(variance) + MARGIN * central
    low = float(answers[near].min()) - spread - DECAY_GAIN * central
    high = float(answers[near].max()) + spread
    reason = f"this run's own curve of {len(t)} points, floor + height x tokens^-exponent; the final rate decay"
    return Range(max(low, 0.0), central, min(high, ceiling), reason)


def _every_exponent(t: np.ndarray, y: np.ndarray, at: float) -> tuple[np.ndarray, np.ndarray]:
    """For each exponent the weighted sum of squares of its best robust fit, and what it says at `at`. Floor and height
    are not negative."""
    costs, answers = np.empty(len(EXPONENTS)), np.empty(len(EXPONENTS))
    for index, exponent in enumerate(EXPONENTS):
        x, weights = t**-exponent, np.ones_like(t)
        floor = height = 0.0
        for _ in range(4):  # iteratively reweighted: Huber's weights, the scale from the median
            floor, height = _line(x, y, weights)
            residuals = np.abs(y - floor - height * x)
            limit = 1.345 * max(1.4826 * float(np.median(residuals)), NOISE * float(np.median(y)))
            weights = np.minimum(1.0, limit / np.maximum(residuals, 1e-12))
        costs[index] = float((weights * (y - floor - height * x) ** 2).sum())
        answers[index] = floor + height * at**-exponent
    return costs, answers


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weighted least squares y = floor + height x, both at least 0."""
    total = weights.sum()
    mean_x, mean_y = float((weights * x).sum() / total), float((weights * y).sum() / total)
    variance = float((weights * (x - mean_x) ** 2).sum())
    height = float((weights * (x - mean_x) * (y - mean_y)).sum()) / variance if variance > 0 else 0.0
    height = max(height, 0.0)
    floor = mean_y - height * mean_x
    if floor < 0:
        floor, height = 0.0, float((weights * x * y).sum() / (weights * x * x).sum())
    return floor, height


def leaves_band(tokens: Sequence[float], losses: Sequence[float], *, last: int = 3) -> str | None:
    """A sentence when the last few points all stand above the band that the points before them forecast, and above the
    lowest of those; else None. Standing below is no fault: the fall of the learning rate does it. A curve that falls
    more slowly than forecast is none either, and of one that rose before nothing was forecast.

    >>> t = [1e5 * k for k in range(1, 16)]
    >>> y = [2.0 + 90 * x**-0.4 for x in t]
    >>> leaves_band(t, y) is None, leaves_band(t, y[:-3] + [4.0, 4.1, 4.2]) is None
    (True, False)
    """
    if len(tokens) <= last or min(losses[-last:]) <= min(losses[:-last]):
        return None
    highest = 0.0
    for now, loss in zip(tokens[-last:], losses[-last:], strict=True):
        band = forecast(tokens[:-last], losses[:-last], now)
        if band is None or (math.isfinite(loss) and loss <= band.high):
            return None
        highest = band.high
    return (
        f"the validation loss is above its forecast: {losses[-1]:.3f} nats per token after {tokens[-1]:,.0f} tokens, "
        f"where the fit to this run's curve predicted at most {highest:.3f}."
    )
