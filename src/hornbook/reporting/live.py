"""What a person sees while a run goes on: a live view on a terminal, plain lines elsewhere. All on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from hornbook.facts.printing import printable
from hornbook.facts.units import format_count, format_duration, format_usd, perplexity_text
from hornbook.reporting.console import console

PLAIN_SECONDS = 15.0  # between two lines when nothing else is said
SEEN = (
    "probe_train_loss_nats_per_token", "probe_validation_loss_nats_per_token", "probe_validation_bits_per_byte",
    "probe_generalization_gap_bits_per_byte", "copied_share",
)  # fmt: skip


class View:
    """Shows rows of the run as they are recorded. Knows the records, nothing of how they came about."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = console(stderr=True, quiet=quiet)
        self.live: Any = None
        self.total, self.latest, self.sample = 0, {}, ""  # type: int, dict[str, Any], str
        self.first, self.last_line = 0, 0.0
        self.marks: list[tuple[int, float]] = []  # (step, when) of the first step and of the evaluations after it
        self.planned_end: float | None = None  # of the last step, by time.monotonic()

    def note(self, sentence: str) -> None:
        """One line that stays."""
        self.console.print(sentence)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for work that counts (done, total), drawn only on a terminal and only when there is enough to do."""
        if not self.console.is_terminal or self.console.quiet:
            yield lambda done, total: None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def begin(self, *, first: int, total: int) -> None:
        """Training starts: a live view on a terminal."""
        self.first, self.total = first, total
        if self.console.is_terminal and not self.console.quiet:
            from rich.live import Live

            self.live = Live(console=self.console, refresh_per_second=4, get_renderable=self._panel, transient=True)
            self.live.start()

    def expect(self, end: float) -> None:
        """The last step is planned for so late, by time.monotonic(). What making the plan took is no step's time."""
        self.planned_end = end
        if self.marks:
            self.marks = [(self.latest["step"], time.monotonic())]

    def row(self, row: dict[str, Any]) -> None:
        """A step or an evaluation was recorded."""
        if row["event"] == "evaluation":  # what this look did not see is not shown as an earlier one saw it
            self.latest = {key: value for key, value in self.latest.items() if key not in SEEN}
        self.latest |= row
        evaluated = row["event"] == "evaluation"
        if row["step"] > self.first and (evaluated or not self.marks):
            self.marks.append((row["step"], time.monotonic()))
        due = time.monotonic() - self.last_line > PLAIN_SECONDS
        if self.live is None and (evaluated or due):
            self.last_line = time.monotonic()
            self.note(self._line())

    def show_sample(self, text: str) -> None:
        self.sample = text
        if self.live is None:
            one_line = " ".join(text.split())
            self.note(f"  sample: {one_line[:160]}")

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _eta(self) -> str:
        """Time until the last step: as planned until a tenth of the steps has shown its own pace; then also from the
        fastest to the slowest pace between two evaluations so far."""
        step, now = self.latest.get("step", self.first), time.monotonic()
        (since, begin), left = (self.marks or [(step, now)])[0], self.total - step
        if left < 1:
            return ""
        if self.planned_end is not None and step - since < self.total / 10:
            return f"{format_duration(max(0.0, self.planned_end - now))} left"
        if step == since:
            return ""
        rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(self.marks) if b[0] > a[0]]
        each = (now - begin) / (step - since)
        if len(rates) < 2:
            return f"{format_duration(each * left)} left"
        low, high = min(*rates, 0.97 * each) * left, max(*rates, 1.03 * each) * left
        return f"{format_duration(each * left)} left ({format_duration(low)} to {format_duration(high)})"

    def _line(self) -> str:
        """Of an evaluation the losses of the probes, which can be compared; of a step that of its batch."""
        now = self.latest
        parts = [f"step {now['step']:,}/{self.total:,}", f"epoch {now['epoch']:.2f}"]
        if now["event"] == "step":
            parts.append(f"batch loss {now['train_loss_nats_per_token']:.3f}")
        else:
            if (loss := now.get("probe_train_loss_nats_per_token")) is not None:
                parts.append(f"train loss {loss:.3f}")
            if (loss := now.get("probe_validation_loss_nats_per_token")) is not None:
                parts.append(f"validation loss {loss:.3f} (perplexity {perplexity_text(loss)})")
            if now.get("copied_share"):
                parts.append(f"{now['copied_share']:.0%} copied")
        if "tokens_per_second" in now:
            parts.append(f"{format_count(now['tokens_per_second'])} tokens/s")
        if now.get("mfu") is not None:
            parts.append(f"MFU {now['mfu']:.0%}")
        if "price_usd" in now.get("cost", {}):
            parts.append(format_usd(now["cost"]["price_usd"]))
        return " · ".join(part for part in [*parts, self._eta()] if part)

    def _panel(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self.latest
        step = now.get("step", self.first)
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True)
        bar = ProgressBar(total=max(1, self.total), completed=step)
        head.add_row(Text.assemble("step ", (f"{step:,}", "bold"), f" of {self.total:,}"), bar, self._eta())
        table = Table.grid(padding=(0, 3))
        for style in ("dim", "", "dim", ""):
            table.add_column(no_wrap=True, style=style)
        cells = list(_cells(now))
        for i in range(0, len(cells), 2):
            table.add_row(*(cell for pair in cells[i : i + 2] for cell in pair))
        parts: list[Any] = [head, Text(), table]
        if self.sample:
            parts += [
                Text(),
                Text("the model writes:", style="dim"),
                Text(printable(self.sample.strip()[:600]), style="italic"),
            ]
        return Panel(Group(*parts), title="hornbook", title_align="left", border_style="dim")


def _cells(now: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of what is known, in reading order."""
    cells = []

    def add(label: str, key: str, form: str = "{:.3f}") -> None:
        if now.get(key) is not None:
            cells.append((label, form.format(now[key])))

    add("batch loss", "train_loss_nats_per_token")
    add("train loss", "probe_train_loss_nats_per_token")
    add("validation loss", "probe_validation_loss_nats_per_token")
    if (loss := now.get("probe_validation_loss_nats_per_token")) is not None:
        cells.append(("validation perplexity", perplexity_text(loss)))
    add("validation bits per byte", "probe_validation_bits_per_byte")
    add("gap, bits per byte", "probe_generalization_gap_bits_per_byte", "{:+.3f}")
    add("copied from the text", "copied_share", "{:.0%}")
    if "tokens" in now:
        cells.append(("tokens seen", format_count(now["tokens"])))
    add("epochs", "epoch", "{:.2f}")
    add("learning rate", "learning_rate", "{:.2e}")
    add("gradient norm", "gradient_norm")
    if "tokens_per_second" in now:
        cells.append(("tokens/s", format_count(now["tokens_per_second"])))
    add("MFU (PaLM)", "mfu", "{:.1%}")
    add("forecast of the end", "forecast_loss_nats_per_token")
    for label, key in (("hours", "gpu_hours"), ("energy, kWh", "energy_kwh"), ("price, USD", "price_usd")):
        if key in now.get("cost", {}):
            cells.append((label, f"{now['cost'][key]:.3g}"))
    return cells
