"""What a notebook shows while a run goes on: one place in the output of its cell, written anew as the run goes on."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.reporting.panel import first_numbers, shortened
from hornbook.reporting.plots import TRAINING, VALIDATION

if TYPE_CHECKING:
    from hornbook.reporting.live import View

BETWEEN_SECONDS = 0.5  # two pictures
_COLUMNS, _WIDTH, _HEIGHT, _LEFT, _BOTTOM = 240, 640, 200, 44, 20  # means of the batches; pixels

Points = Sequence[tuple[int, float]]


def cell_of(view: View) -> Cell | None:
    """A cell that shows what `view` knows; None where no kernel shows what this process displays."""
    from IPython import get_ipython

    return Cell(view) if getattr(get_ipython(), "kernel", None) is not None else None


class Cell:
    def __init__(self, view: View) -> None:
        from IPython.display import display

        self.view, self.shown = view, time.monotonic()
        self.handle = display(self._bundle(), raw=True, display_id=True)

    def refresh(self) -> None:
        if time.monotonic() - self.shown > BETWEEN_SECONDS:
            self.stop()

    def stop(self) -> None:
        """Show how things stand, however soon after the last time."""
        self.handle.update(self._bundle(), raw=True)
        self.shown = time.monotonic()

    def show_picture(self, svg: Path) -> None:
        """The curve of the report takes the place of the one that moved."""
        self.handle.update({"image/svg+xml": svg.read_text(encoding="utf-8"), "text/plain": str(svg)}, raw=True)

    def _bundle(self) -> dict[str, str]:
        """As HTML and, for a front end that shows none, as a line."""
        view = self.view
        step = view.latest.get("step", view.first)
        page = cell_html(view.latest, view.sample, step=step, total=view.total, time_left=view.time_left(),
                         losses=view.losses, looks=view.looks)  # fmt: skip
        return {"text/html": page, "text/plain": view.line() if view.latest else f"step {step:,}/{view.total:,}"}


def cell_html(
    row: Mapping[str, Any], sample: str, *, step: int, total: int, time_left: str, losses: Points, looks: Points,
) -> str:  # fmt: skip
    """The latest numbers of a run, and its `losses` of batches and `looks` ((step, loss on the probe)) as a curve."""
    numbers = [("step", f"{step:,} of {total:,}"), *first_numbers(row), ("time left", time_left.removesuffix(" left"))]
    texts = " &nbsp; ".join(f"{name} <b>{html.escape(value)}</b>" for name, value in numbers if value)
    parts = [f'<progress value="{step}" max="{max(1, total)}" style="width:100%" aria-label="steps"></progress>', texts]
    if curve := _curve(losses, looks, total):
        parts.append(curve)
    if sample:
        parts.append(f"it writes: <i>{html.escape(shortened(sample))}</i>")
    return f'<div style="max-width:{_WIDTH}px">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _curve(losses: Points, looks: Points, total: int) -> str:
    """Both losses over all steps that are planned, so that what is left of them is seen too."""
    known = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    batches = [known[i * len(known) // _COLUMNS : (i + 1) * len(known) // _COLUMNS] for i in range(_COLUMNS)]
    means = [
        (sum(step for step, _ in some) / len(some), sum(loss for _, loss in some) / len(some))
        for some in (batches if len(known) > _COLUMNS else [[point] for point in known])
    ]
    looks = [(step, loss) for step, loss in looks if math.isfinite(loss)]
    if len(means) + len(looks) < 2:
        return ""
    values = [loss for _, loss in [*means, *looks]]
    low, high = min(values), max(values)

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 6) * min(1.0, step / max(1, total))

    def y(loss: float) -> float:
        return 8 + (_HEIGHT - _BOTTOM - 8) * (high - loss) / (high - low or 1.0)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)

    small = 'font-size="12" fill="currentColor" font-family="sans-serif"'
    lines = [
        f'<path d="M{_LEFT} {y(loss):.1f}H{_WIDTH}" stroke="currentColor" opacity="0.2"/>'
        f'<text x="{_LEFT - 6}" y="{y(loss) + 4:.1f}" text-anchor="end" {small}>{loss:.2f}</text>'
        for loss in (low, (low + high) / 2, high)
    ]
    line = 'fill="none" stroke-width="1.8" stroke'
    lines.append(f'<polyline points="{path(means)}" {line}="{TRAINING}"/>')
    lines.append(f'<polyline points="{path(looks)}" {line}="{VALIDATION}"/>')
    lines += [f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3.2" fill="{VALIDATION}"/>' for step, loss in looks]
    label = f"loss of {len(known)} batches, down to {low:.2f} nats per token"
    names = f'<tspan fill="{TRAINING}">━</tspan> batches &#160; <tspan fill="{VALIDATION}">●</tspan> validation'
    lines.append(f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 4}" text-anchor="end" {small}>{names}, nats per token</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" aria-label="{label}">{"".join(lines)}</svg>'
