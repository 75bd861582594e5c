"""Names beside curves that lie over no line, no other name, and inside the picture.

Each name is tried at places around its point, from near to far; the cheapest place wins. What it may not cover is a
cloud of points along the lines, a few pixels apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

_APART = 3.0  # pixels between two points of a line
_AWAY = (7.0, 12.0, 19.0, 28.0, 40.0, 56.0, 76.0, 100.0, 130.0, 165.0)  # pixels from the point to the name
_DIRECTIONS = [math.radians(angle) for angle in (90, 270, 135, 225, 60, 300, 180, 0, 110, 250, 160, 200)]
_COVERED, _CROSSED, _FAINT = 1000.0, 60.0, 8.0  # what a point of a line costs, in pixels of distance
_NEAR = 20.0  # pixels; farther away, a thin line leads to the name


class Label(NamedTuple):
    text: str
    x: float
    y: float
    colour: str
    bold: bool = False
    farthest: float = math.inf  # cost in pixels; where there is no place as near, it is left out


def place(axes: Any, labels: Sequence[Label], lines: Sequence[Any], faint: Sequence[Any] = ()) -> None:
    """Write the labels into `axes` of a figure of 72 dpi (a pixel is a point), the first ones first. `lines`: (N, 2)
    points of the data, not to be covered; `faint`: rather not."""
    axes.get_xlim(), axes.get_ylim()  # settled only when asked for
    hard, soft = _cloud(axes, lines), _cloud(axes, faint)
    inside = axes.bbox
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        note = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", color=label.colour, ha="center",
            va="center", fontweight="bold" if label.bold else "normal", annotation_clip=False, zorder=8,
        )  # fmt: skip
        box = note.get_window_extent()
        half = np.array([box.width / 2 + 2, box.height / 2 + 1])
        best: tuple[float, float, float, float] | None = None
        for away in _AWAY:
            for angle in _DIRECTIONS:
                towards = np.array([math.cos(angle), math.sin(angle)])
                dx, dy = towards * away + np.sign(np.round(towards, 6)) * half * np.minimum(1, 2 * abs(towards))
                centre = np.array([x + dx, y + dy])
                low, high = centre - half, centre + half
                if low[0] < inside.x0 or high[0] > inside.x1 + 2 or low[1] < inside.y0 or high[1] > inside.y1:
                    continue
                cost = away + _COVERED * _within(hard, low, high) + _FAINT * min(20, _within(soft, low, high))
                if away > _NEAR:  # then a line leads to it, which may cross none either
                    for share in np.arange(9.0, away, 3.0) / away:
                        on = np.array([x, y]) + share * (centre - np.array([0.0, math.copysign(half[1], dy)]) - [x, y])
                        cost += _CROSSED * (_within(hard, on - 2, on + 2) > 0)
                if best is None or cost < best[0]:
                    best = (cost, dx, dy, away)
        if best is None or best[0] > label.farthest:
            note.remove()
            continue
        _, dx, dy, away = best
        note.set_position((dx, dy))
        if away > _NEAR:
            note.arrowprops = None
            axes.annotate(
                "", (label.x, label.y), (dx, dy - math.copysign(half[1], dy)), textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
            )  # fmt: skip
        corners = np.array([x + dx, y + dy])
        hard = np.concatenate([hard, _box(corners - half, corners + half)])


def _within(cloud: np.ndarray, low: np.ndarray, high: np.ndarray) -> int:
    return int(((cloud > low) & (cloud < high)).all(axis=1).sum())


def _box(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Points all over a rectangle."""
    xs, ys = (np.linspace(a, b, max(2, int((b - a) / _APART))) for a, b in zip(low, high, strict=True))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


def _cloud(axes: Any, lines: Sequence[Any]) -> np.ndarray:
    """Points along the lines, in pixels."""
    points = [np.zeros((0, 2))]
    for line in lines:
        at = axes.transData.transform(np.asarray(line, dtype=float).reshape(-1, 2))
        points.append(at)
        for start, end in pairwise(at):
            count = int(min(400, np.hypot(*(end - start)) / _APART))
            if count > 1:
                points.append(start + (end - start) * np.linspace(0, 1, count)[:, None])
    return np.concatenate(points)
