"""The box that a terminal shows while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hornbook.facts.printing import printable
from hornbook.facts.units import format_count, perplexity_text

_3, _2, _SHORT = "{:.3f}".format, "{:.2f}".format, "{:.3g}".format
CELLS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("batch loss", "train_loss_nats_per_token", _3),
    ("train loss", "probe_train_loss_nats_per_token", _3),
    ("validation loss", "probe_validation_loss_nats_per_token", _3),
    ("validation perplexity", "probe_validation_loss_nats_per_token", perplexity_text),
    ("validation bits per byte", "probe_validation_bits_per_byte", _3),
    ("gap, bits per byte", "probe_generalization_gap_bits_per_byte", "{:+.3f}".format),
    ("copied from the text", "copied_share", "{:.0%}".format),
    ("tokens seen", "tokens", format_count),
    ("epochs", "epoch", _2),
    ("learning rate", "learning_rate", "{:.2e}".format),
    ("gradient norm", "gradient_norm", _3),
    ("tokens/s", "tokens_per_second", format_count),
    ("MFU (PaLM)", "mfu", "{:.1%}".format),
    ("final-loss forecast", "forecast_loss_nats_per_token", _3),
    ("hours", "gpu_hours", _SHORT),
    ("energy, kWh", "energy_kwh", _SHORT),
    ("price, USD", "price_usd", _SHORT),
)


def panel(row: Mapping[str, Any], sample: str, *, step: int, total: int, time_left: str) -> Panel:
    """The latest numbers of a run and what it wrote last; what is unknown is left out."""
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True)
    bar = ProgressBar(total=max(1, total), completed=step)
    head.add_row(Text.assemble("step ", (f"{step:,}", "bold"), f" of {total:,}"), bar, time_left)
    numbers = {**row, **row.get("cost", {})}
    cells = [(label, form(numbers[key])) for label, key, form in CELLS if numbers.get(key) is not None]
    table = Table.grid(padding=(0, 3))
    for style in ("dim", "", "dim", ""):
        table.add_column(no_wrap=True, style=style)
    for i in range(0, len(cells), 2):
        table.add_row(*(text for cell in cells[i : i + 2] for text in cell))
    parts: list[Any] = [head, Text(), table]
    if sample:
        written = Text(printable(sample.strip()[:600]), style="italic")
        parts += [Text(), Text("the model writes:", style="dim"), written]
    return Panel(Group(*parts), title="hornbook", title_align="left", border_style="dim")
