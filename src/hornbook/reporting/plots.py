"""The picture of a run: loss against tokens and epochs, with perplexity on the right, as PNG and SVG.

Colours are those of Okabe and Ito, which the colour-blind tell apart; the curves also differ in weight and by name.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hornbook.facts.errors import InputError
from hornbook.facts.io import write_aside
from hornbook.facts.looks import Evaluation
from hornbook.facts.printing import on_one_line
from hornbook.facts.units import BEYOND_COUNTING, format_count, perplexity_text
from hornbook.reporting.curves import Rows, evaluations, read_curves, train_losses
from hornbook.reporting.labels import Label, place

PAPER, INK, MUTED, GRID = "#ffffff", "#22252a", "#6b7078", "#e3e5e9"
VALIDATION, TRAINING = "#0072b2", "#d55e00"
COLOURS = {"paper": PAPER, "ink": INK, "muted": MUTED, "grid": GRID, "validation": VALIDATION, "training": TRAINING}

STYLE = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), MUTED),
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Source Sans 3", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "hornbook",
    "text.color": INK,
}

_HUGE = 1e4  # a loss from here on, that of a run which diverged, is written with a letter

# Perplexities one likes to read, of which an axis shows those in its range.
_PERPLEXITIES = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]


class _Curve(NamedTuple):
    name: str
    colour: str
    width: float
    points: list[tuple[int, float]]  # (tokens, loss)


def loss_plot(
    rows: Rows, *, path_png: Path | None, path_svg: Path | None, tokens_per_epoch: int,
    uniform_loss: float | None = None, title: str = "", repeated_share: float = 0.0,
) -> str:  # fmt: skip
    """Draw the run's losses, write the files whose paths are given, and return the SVG text.

    The probe's losses of both texts, validation with its lowest point marked, and the loss of each batch (faint; where
    no probe has seen the training text also smoothed), in nats per token against tokens (below) and epochs (above);
    perplexity = exp(loss) on the right; a dotted line at `uniform_loss` = ln(vocabulary) when it is in view.
    `repeated_share`: see `read_curves`. Raises InputError when there is nothing to draw yet, SystemFailure when a file
    cannot be written.
    """
    import logging

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # fonts are a wish list: the next will do
    points = evaluations(rows)
    tokens, losses = train_losses(rows)
    if not points and not losses:
        raise InputError("there are no losses to draw yet")
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.9), dpi=72, facecolor=PAPER)
        axes = figure.add_axes((0.085, 0.12, 0.82, 0.72), facecolor=PAPER)
        low, high = _range(losses, points, uniform_loss)
        end = max([*tokens[-1:], *(point.tokens for point in points), 1])
        axes.set_xlim(0, end)
        axes.set_ylim(low, high)
        _frame(axes, end, tokens_per_epoch)
        thin = list(zip(*min_max(tokens, losses, 500), strict=True)) if losses else []
        if losses:
            axes.plot(*zip(*thin, strict=True), color=TRAINING, linewidth=0.7, alpha=0.28, zorder=2)
        curves = _curves(tokens, losses, points)
        _draw_curves(axes, curves)
        # In view, with room for its name.
        in_view = uniform_loss is not None and low < uniform_loss < high and uniform_loss > 0.05 * high
        if in_view and uniform_loss is not None:
            axes.axhline(uniform_loss, color=MUTED, linewidth=1, linestyle=(0, (1, 2.5)), zorder=1)
        _mark_parting(axes, rows, tokens_per_epoch, repeated_share)
        _labels(axes, curves, points, [thin] if thin else [], uniform_loss if in_view else None)
        if title:
            heading = figure.text(0.085, 0.955, on_one_line(title), fontsize=12.5, fontweight="semibold", va="center")
            heading.set(gid="title", parse_math=False)
        png, svg = io.BytesIO(), io.StringIO()
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # a sign that no font here has is a box
            if path_png is not None:
                figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        picture = _hover(axes, svg.getvalue(), curves)
        if path_png is not None:
            write_aside(path_png, png.getvalue())
        if path_svg is not None:
            write_aside(path_svg, picture)
    return picture


def cost_plot(points: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Draw the best loss against its price, or against FLOPs where none is set. Raises InputError without points or for
    another ending than .png and .svg, SystemFailure where the file cannot be written."""
    if not points:
        raise InputError("there is nothing to plot: no published scaling law covers runs this small.")
    ending = Path(path).suffix.lower()
    if ending not in (".png", ".svg"):
        raise InputError(f"cannot draw {path}: give a name that ends in .png or .svg.")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    priced = all(point["price_usd"] is not None for point in points)
    costs = [point["price_usd"] if priced else point["flops"] for point in points]
    losses = [point["loss_nats_per_token"] for point in points]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(costs, losses, color=VALIDATION, marker="o", linewidth=2)
        axes.set_xscale("log")
        axes.set_xlabel("US dollars" if priced else "FLOPs")
        axes.set_ylabel("nats per token")
        axes.set_title("The best loss for the money", loc="left")
        for cost, loss, point in zip(costs, losses, points, strict=True):
            split = f"{format_count(point['parameters'])}, {format_count(point['tokens'])} tokens"
            axes.annotate(split, (cost, loss), xytext=(6, 6), textcoords="offset points", fontsize=9)
        axes.margins(x=0.15, y=0.15)
        picture = io.BytesIO()
        figure.savefig(picture, format=ending[1:], dpi=150)
    write_aside(Path(path), picture.getvalue())


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Mean over the `reach` neighbours on each side; over fewer near the start, where a curve falls steeply.

    >>> smooth([9.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 3.0, 1.0], 1)
    [9.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.6666666666666665, 2.0, 2.0]
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    smoothed = []
    for i in range(len(values)):
        near = min(reach, i // 5)
        end = min(i + near + 1, len(values))
        smoothed.append((sums[end] - sums[i - near]) / (end - i + near))
    return smoothed


def min_max(xs: Sequence[float], ys: Sequence[float], buckets: int) -> tuple[list[float], list[float]]:
    """At most two points for each bucket, its lowest and its highest in their order: no spike is lost, none is made.

    >>> min_max([0, 1, 2, 3, 4, 5], [1, 9, 2, 3, 3, 0], 2)
    ([0, 1, 3, 5], [1, 9, 3, 0])
    """
    if len(xs) <= 2 * buckets:
        return list(xs), list(ys)
    kept: list[int] = []
    for bucket in range(buckets):
        span = range(bucket * len(xs) // buckets, (bucket + 1) * len(xs) // buckets)
        kept += sorted({min(span, key=ys.__getitem__), max(span, key=ys.__getitem__)})
    return [xs[i] for i in kept], [ys[i] for i in kept]


def _range(losses: list[float], points: list[Evaluation], uniform_loss: float | None) -> tuple[float, float]:
    """What the vertical axis spans: all validation losses, all training losses but the highest hundredth (spikes)."""
    usual = sorted(losses)[: max(1, math.ceil(0.99 * len(losses)))]
    shown = [*usual, *losses[:1], *(point.validation_loss for point in points)]
    low, high = min(shown), max(shown)
    if uniform_loss is not None and high * 0.85 < uniform_loss < high * 1.15:
        high = max(high, uniform_loss)
    margin = max((high - low) * 0.07, 0.02)
    return max(0.0, low - 1.6 * margin), high + margin


def _frame(axes: Any, end: float, tokens_per_epoch: int) -> None:
    """Axes without a box: tokens below, epochs above, loss left, the same loss as perplexity right."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if axes.get_ylim()[1] > _HUGE:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.set_xlabel("training tokens (faint: the loss of each batch)")
    axes.tick_params(length=3, pad=4)
    axes.tick_params(axis="y", length=0)
    low, high = axes.get_ylim()
    above, right = axes.twiny(), axes.twinx()
    for other in (above, right):
        other.spines[:].set_visible(False)
        other.tick_params(length=0, pad=4)
        other.set_zorder(-1)
    above.set_xlim(0, end / tokens_per_epoch)
    above.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    right.set_ylim(low, high)
    values: Sequence[float] = _spread(
        [value for value in _PERPLEXITIES if low <= math.log(value) <= high], (high - low) / 14
    )
    if len(values) < 2 and high <= BEYOND_COUNTING:  # a narrow view between two round numbers
        inner = MaxNLocator(5).tick_values(math.exp(low), math.exp(high))
        values = [value for value in inner if math.exp(low) <= value <= math.exp(high)]
    right.yaxis.set_major_locator(FixedLocator([math.log(value) for value in values]))
    right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{math.exp(value):,.4g}" if value < 9 else f"{math.exp(value):,.0f}")
    )
    small = {"color": MUTED, "transform": axes.transAxes, "va": "bottom"}
    axes.text(-0.075, 1.085, "loss, nats per token", ha="left", **small)
    axes.text(0.5, 1.085, "epochs", ha="center", **small)
    axes.text(1.075, 1.085, "perplexity", ha="right", **small)


def _loss_text(loss: float) -> str:
    return f"{loss:.2f}" if loss < _HUGE else format_count(loss)


def _spread(values: list[int], apart: float) -> list[int]:
    """Of ascending values, those whose logarithms are at least `apart`, powers of ten first."""
    kept: list[int] = []
    for value in sorted(values, key=lambda value: (not str(value).startswith("1"), value)):
        if all(abs(math.log(value / other)) >= apart for other in kept):
            kept.append(value)
    return sorted(kept)


def _curves(tokens: list[int], losses: list[float], points: list[Evaluation]) -> list[_Curve]:
    """Validation on the probe; training on the probe where it has seen the training text, else batches, smoothed."""
    curves = []
    if points:
        validation = [(point.tokens, point.validation_loss) for point in points]
        curves.append(_Curve("probe validation", VALIDATION, 2.2, validation))
    training = [(point.tokens, point.train_loss) for point in points if point.train_loss is not None]
    if len(training) > 1:
        curves.append(_Curve("probe training", TRAINING, 1.7, training))
    elif losses:
        smoothed = list(zip(tokens, smooth(losses, len(losses) // 50), strict=True))
        curves.append(_Curve("batches, smoothed", TRAINING, 1.7, smoothed))
    return curves


def _draw_curves(axes: Any, curves: list[_Curve]) -> None:
    """A probe is known only where it was evaluated: its evaluations are points, joined by a thin line. What lies before
    training is joined with nothing: how the loss came down from there was not measured."""
    for name, colour, width, points in curves:
        probe, shown = name.startswith("probe"), points[:: max(1, len(points) // 500)]
        apart = [point for point in shown if probe and point[0] == 0 and len(shown) > 1]
        joined = shown[len(apart) :]
        style = {"color": colour, "zorder": 2 + width, "clip_on": colour != VALIDATION}
        axes.plot(*zip(*joined, strict=True), linewidth=0.6 * width if probe else width, **style)
        if probe:
            size = 2.2 * width if len(points) <= 40 else 1.1 * width
            axes.plot(*zip(*joined, strict=True), "o", markersize=size, markeredgewidth=0, **style)
        if apart:
            axes.plot(*zip(*apart, strict=True), "o", markersize=5, markerfacecolor=PAPER, **style)


def _labels(axes: Any, curves: list[_Curve], points: list[Evaluation], faint: list[Any], uniform: float | None) -> None:
    """Name and last value at the right end of each curve, the lowest validation loss, and the loss before training."""
    labels = [Label(f"{curve.name} {_loss_text(curve.points[-1][1])}", *curve.points[-1], curve.colour, True)
              for curve in sorted(curves, key=lambda curve: -curve.points[-1][1])]  # fmt: skip
    best = min(points, key=lambda point: point.validation_loss, default=None)
    if best is not None and len(points) > 1:
        axes.plot(
            [best.tokens], [best.validation_loss], "o", markersize=7, markerfacecolor=PAPER, markeredgewidth=2,
            markeredgecolor=VALIDATION, zorder=6, clip_on=False,
        )  # fmt: skip
        if best is not points[-1]:
            text = f"lowest {_loss_text(best.validation_loss)}"
            labels.append(Label(text, best.tokens, best.validation_loss, VALIDATION))
        if points[0].tokens == 0:
            labels.append(Label("before training", 0, points[0].validation_loss, MUTED, farthest=60))
    low, high = axes.get_xlim()
    lines: list[Any] = [curve.points for curve in curves]
    if uniform is not None:
        lines.append([(low, uniform), (high, uniform)])
        labels.append(Label("uniform guessing", (low + high) / 2, uniform, MUTED))
    place(axes, labels, lines, faint)


def _hover(axes: Any, svg: str, curves: list[_Curve]) -> str:
    """The picture with the values of its evaluations, which show where one points at them, without a script."""
    height = 72 * axes.figure.get_figheight()
    spots = []
    for curve in curves:
        for tokens, loss in curve.points if curve.name.startswith("probe") else []:
            x, y = axes.transData.transform((tokens, loss))
            value = f"{curve.name}: {loss:.4f} nats per token, perplexity {perplexity_text(loss)}, at {tokens:,} tokens"
            spots.append(f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="6" fill="none" pointer-events="all">'
                         f"<title>{value}</title></circle>")  # fmt: skip
    return svg.replace("</svg>", f'<g class="hover">{"".join(spots)}</g>\n</svg>')


def _mark_parting(axes: Any, rows: Rows, tokens_per_epoch: int, repeated_share: float) -> None:
    """The stretch between two evaluations in which validation loss leaves training loss for good."""
    curves = read_curves(rows, tokens_per_epoch=tokens_per_epoch, repeated_share=repeated_share)
    if curves is not None and curves.gap.opened is not None:
        spent = {point.step: point.tokens for point in evaluations(rows)}  # what was given up is on the axis
        before, at = (replace(point, tokens=spent[point.step]) for point in curves.gap.opened)
        axes.axvspan(before.tokens, at.tokens, color=GRID, alpha=0.6, linewidth=0, zorder=0)
        side = "right" if at.tokens > 0.8 * axes.get_xlim()[1] else "left"
        style = {"color": MUTED, "va": "top", "ha": side, "transform": axes.get_xaxis_transform()}
        axes.text(at.tokens, 0.985, "the gap widens", **style)
