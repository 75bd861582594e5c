"""Several runs in one picture, each named at its curve."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from hornbook.facts.errors import InputError
from hornbook.facts.io import write_aside
from hornbook.facts.metrics import Metric
from hornbook.facts.printing import on_one_line
from hornbook.facts.units import format_count
from hornbook.reporting.labels import Label, place
from hornbook.reporting.plots import GRID, MUTED, PAPER, STYLE, min_max, smooth

# Okabe and Ito, without their yellow, which is too light for a line; runs beyond these also differ in dashes.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a37200", "#000000")
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
_UNITS = {"tokens": "training tokens", "step": "steps", "seconds": "seconds of training", "epoch": "epochs"}

Curve = tuple[str, list[tuple[float, float]], bool]  # name, points, whether each is a measurement of its own


def overlay(curves: Sequence[Curve], path: Path, *, x: str, metric: Metric) -> None:
    """Draw the curves into `path`, a .png, .svg or .pdf. Raises InputError for another ending, SystemFailure where it
    cannot be written."""
    ending = path.suffix.lower()
    if ending not in (".png", ".svg", ".pdf"):
        raise InputError(f"cannot draw {path}: give a name that ends in .png, .svg or .pdf.")
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.9), dpi=72, facecolor=PAPER)
        axes = figure.add_axes((0.09, 0.12, 0.86, 0.78), facecolor=PAPER)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.tick_params(length=3, pad=4)
        axes.tick_params(axis="y", length=0)
        labels, lines = [], []
        for number, (name, points, measured) in enumerate(curves):
            colour, dashes = PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)]
            shown = points[1:] if measured and points[0][0] == 0 and len(points) > 1 else points
            xs, ys = [list(column) for column in zip(*shown, strict=True)]
            if not measured:
                axes.plot(*min_max(xs, ys, 500), color=colour, linewidth=0.6, alpha=0.25)
                ys = ys if "learning_rate" in metric.name else smooth(ys, len(ys) // 50)  # a rate has no noise
            axes.plot(xs, ys, color=colour, linewidth=1.6, linestyle=dashes, marker="o" if measured else "",
                      markersize=3.5 if len(xs) <= 40 else 0, clip_on=False)  # fmt: skip
            if len(shown) < len(points):
                axes.plot(*zip(*points[:1], strict=True), "o", color=colour, markerfacecolor=PAPER, markersize=5)
            lines.append(list(zip(xs, ys, strict=True)))
            labels.append(Label(on_one_line(name), xs[-1], ys[-1], colour, bold=True))
        axes.margins(x=0.02, y=0.08)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value) if value else "0"))
        axes.set_xlabel(_UNITS[x])
        unit = f", {metric.unit}" if metric.unit else ""
        axes.text(-0.07, 1.04, f"{metric.name.replace('_nats_per_token', '').replace('_', ' ')}{unit}",
                  color=MUTED, transform=axes.transAxes)  # fmt: skip
        place(axes, sorted(labels, key=lambda label: -label.y), lines)
        picture = io.BytesIO()
        fixed = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[ending]
        figure.savefig(picture, format=ending[1:], dpi=200, metadata=fixed)
    write_aside(path, picture.getvalue())
