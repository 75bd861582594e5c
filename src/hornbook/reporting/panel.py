"""The box that a terminal shows while a run goes on: five numbers, the curve so far, and what the model wrote last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hornbook.facts.printing import on_one_line
from hornbook.facts.units import format_count

if TYPE_CHECKING:
    from hornbook.reporting.live import View

_SIGNS = " ▁▂▃▄▅▆▇█"
_CURVE_LINES = 4
_SAMPLE_CHARACTERS = 240


def live_panel(view: View) -> Live:
    """The box of what `view` knows, drawn anew four times a second until it is stopped."""
    live = Live(console=view.console, refresh_per_second=4, get_renderable=partial(panel_of, view), transient=True)
    live.start()
    return live


def panel_of(view: View) -> Panel:
    """The box as of now. Narrower than the terminal: the ^C that a terminal writes behind it must not begin a line."""
    return panel(view.latest, view.sample, step=view.latest.get("step", view.first), total=view.total,
                 time_left=view.time_left(), losses=view.losses, width=view.console.width - 3)  # fmt: skip


def panel(
    row: Mapping[str, Any], sample: str, *, step: int, total: int, time_left: str,
    losses: Sequence[tuple[int, float]] = (), width: int | None = None,
) -> Panel:  # fmt: skip
    """The latest numbers of a run, its `losses` ((step, loss of the batch), in order) as a curve, and what it wrote
    last; what is unknown is left out."""
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True)
    bar = ProgressBar(total=max(1, total), completed=step)
    head.add_row(Text.assemble("step ", (f"{step:,}", "bold"), f" of {total:,}"), bar, time_left.partition(" (")[0])
    numbers = Text("   ").join(
        Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in first_numbers(row)
    )
    parts: list[Any] = [head, numbers]
    if len(losses) > 1:
        parts.append(Text(curve(losses, 60)))
    if sample:
        parts.append(Text.assemble(("it writes: ", "dim"), (shortened(sample), "italic")))
    return Panel(Group(*parts), title="hornbook", title_align="left", border_style="dim", width=width)


def first_numbers(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of the numbers that matter, of those that are known."""
    train = row.get("probe_train_loss_nats_per_token", row.get("train_loss_nats_per_token"))
    validation = row.get("probe_validation_loss_nats_per_token")
    cells = [
        ("loss", None if train is None else f"{train:.3f}"),
        ("validation", None if validation is None else f"{validation:.3f}"),
        ("tokens/s", format_count(row["tokens_per_second"]) if row.get("tokens_per_second") else None),
        ("epoch", f"{row['epoch']:.2f}" if row.get("epoch") is not None else None),
    ]
    return [(name, value) for name, value in cells if value is not None]


def shortened(sample: str) -> str:
    """The beginning of a sample on one line."""
    return on_one_line(" ".join(sample.strip().replace("\n", " ↵ ").split())[:_SAMPLE_CHARACTERS])


def curve(losses: Sequence[tuple[int, float]], width: int, lines: int = _CURVE_LINES) -> str:
    """The curve in characters, `width` columns of means, with its highest and lowest value at the left.

    >>> print(curve([(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)], 4, 2))
    4.00 █▃
    1.00 ██▆▁
    """
    first, last = losses[0][0], losses[-1][0]
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, loss in losses:
        columns[min(width - 1, (step - first) * width // max(1, last - first + 1))].append(loss)
    means = [sum(column) / len(column) if column else None for column in columns]
    known = [mean for mean in means if mean is not None]
    low, high = min(known), max(known)
    for at, mean in enumerate(means):
        means[at] = means[at - 1] if mean is None else mean
    heights = [1 + round(((mean or low) - low) / (high - low or 1.0) * (8 * lines - 1)) for mean in means]
    rows = ["".join(_SIGNS[min(8, max(0, height - 8 * line))] for height in heights) for line in reversed(range(lines))]
    labels = [f"{high:.2f}", *[""] * (lines - 2), f"{low:.2f}"]
    room = max(map(len, labels))
    return "\n".join(f"{label:>{room}} {row}".rstrip() for label, row in zip(labels, rows, strict=True))
