"""A scaling law of one text from a ladder of small runs: L(N, D) = floor + a / N^alpha + b / D^beta, with a band.

Few runs leave the exponents open. Every pair of them on a grid gets the best floor, a and b that are not negative, and
a say by how well it fits and how near it is to what others have found (alpha and beta about 0.35: Hoffmann et al. 2022,
arXiv:2203.15556; Besiroglu et al. 2024, arXiv:2404.10102).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import numpy as np

from hornbook.facts.errors import InputError

EXPONENTS = np.geomspace(0.08, 1.5, 40)
USUAL, SPREAD = 0.35, 0.5  # centre of the exponents, and sd of their logarithm, before anything was run
NOISE = 0.01  # share of the loss by which two runs with different seeds differ, at least
FEWEST = 5  # runs


class Point(msgspec.Struct, frozen=True):
    parameters: int
    tokens: int
    loss: float  # nats per token, at the end of a run


class Law(msgspec.Struct, frozen=True):
    """The fits, (n, 5) rows of floor, a, alpha, b, beta, with their weights, which sum to 1, and the noise of a run."""

    fits: np.ndarray
    weights: np.ndarray
    noise: float

    def at(self, parameters: float, tokens: float) -> tuple[float, float, float]:
        """(low, central, high): the 90 % band of the loss of a run."""
        floor, a, alpha, b, beta = self.fits.T
        losses = floor + a * parameters**-alpha + b * tokens**-beta
        low, central, high = self._quantiles(losses)
        spread = 1.645 * self.noise * central
        return central - math.hypot(central - low, spread), central, central + math.hypot(high - central, spread)

    def exponent(self, which: str) -> tuple[float, float, float]:
        """(low, central, high) of "alpha" or "beta"."""
        return self._quantiles(self.fits[:, {"alpha": 2, "beta": 4}[which]])

    def _quantiles(self, values: np.ndarray) -> tuple[float, float, float]:
        order = np.argsort(values)
        share = np.cumsum(self.weights[order])
        return tuple(float(values[order][np.searchsorted(share, q)]) for q in (0.05, 0.5, 0.95))  # type: ignore[return-value]


def fit(points: Sequence[Point]) -> Law:
    """Fit the law. Raises InputError below five runs.

    >>> truth = lambda n, d: 1.5 + 30 * n**-0.4 + 40 * d**-0.4
    >>> law = fit([Point(n, d, truth(n, d)) for n in (10**4, 10**5, 10**6) for d in (10**5, 10**6)])
    >>> low, central, high = law.at(10**7, 10**7)
    >>> low < truth(1e7, 1e7) < high, high - low < 0.5
    (True, True)
    """
    if len(points) < FEWEST:
        raise InputError(f"{len(points)} runs are too few to fit a scaling law: at least {FEWEST} are needed.")
    n, d, y = (np.array([getattr(point, name) for point in points], float) for name in ("parameters", "tokens", "loss"))
    fits, costs = [], []
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        columns = np.stack([np.ones_like(y), n**-alpha, d**-beta], 1)
        coefficients, cost = _not_negative(columns / y[:, None], np.ones_like(y))
        fits.append((coefficients[0], coefficients[1], alpha, coefficients[2], beta))
        costs.append(cost)
    relative = np.array(costs)  # summed squares of relative errors
    noise = max(NOISE, float(np.sqrt(relative.min() / max(1, len(points) - 3))))
    table = np.array(fits)
    prior = np.log(table[:, [2, 4]] / USUAL) / SPREAD
    logs = -(relative - relative.min()) / (2 * noise**2) - 0.5 * (prior**2).sum(1)
    weights = np.exp(logs - logs.max())
    return Law(table, weights / weights.sum(), noise)


def _not_negative(columns: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares with coefficients of at least 0: the best over which of them are 0."""
    best, least = np.zeros(columns.shape[1]), float(y @ y)
    for size in range(1, columns.shape[1] + 1):
        for chosen in itertools.combinations(range(columns.shape[1]), size):
            solved = np.linalg.lstsq(columns[:, chosen], y, rcond=None)[0]
            cost = float(((y - columns[:, chosen] @ solved) ** 2).sum())
            if (solved >= 0).all() and cost < least:
                best, least = np.zeros(columns.shape[1]), cost
                best[list(chosen)] = solved
    return best, least
