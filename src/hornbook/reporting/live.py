"""What a person sees while a run goes on: a live view on a terminal, on stderr, or in a notebook; else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Self

from hornbook.facts.printing import console
from hornbook.facts.units import format_count, format_duration, format_usd, perplexity_text

MOST_LOSSES = 2000  # that the curve in the terminal is made of
PLAIN_SECONDS = 15.0  # between two lines when nothing else is said
MEASURED = (
    "probe_train_loss_nats_per_token", "probe_validation_loss_nats_per_token", "probe_validation_bits_per_byte",
    "probe_generalization_gap_bits_per_byte", "copied_share",
)  # fmt: skip


class View:
    """Shows rows of the run as they are recorded. Knows the records, nothing of how they came about."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.console, self.verbose = console(stderr=True, quiet=quiet), verbose
        self.console.soft_wrap = not self.console.is_terminal  # a box of longer lines than it counts would leave some
        self.live = self.cell = None  # type: Any  # the box of a terminal; of a notebook, also when it is still
        self.total, self.latest, self.sample = 0, {}, ""  # type: int, dict[str, Any], str
        self.first, self.last_line = 0, 0.0
        self.marks: list[tuple[int, float]] = []  # (step, when) of the first step and of the evaluations after it
        self.losses: list[tuple[int, float]] = []  # (step, loss of the batch), thinned
        self.looks: list[tuple[int, float]] = []  # (step, validation loss on the probe)
        self.planned_end: float | None = None  # of the last step, by time.monotonic()

    def note(self, sentence: str) -> None:
        """A sentence that stays; on a terminal its lines end between words."""
        self.console.print(sentence)

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for work that counts (done, total), drawn only on a terminal and only when there is enough to do."""
        if not self.console.is_terminal or self.console.quiet:
            yield lambda done, total: None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def begin(self, *, first: int, total: int) -> None:
        """Training starts: a live view on a terminal or in a notebook."""
        self.first, self.total = first, total
        if "IPython" in sys.modules and not self.console.quiet:
            from hornbook.reporting.notebook import cell_of

            self.live = self.cell = cell_of(self)
        if self.live is None and self.console.is_terminal and not self.console.quiet:
            from hornbook.reporting.panel import live_panel

            self.live = live_panel(self)

    def expect(self, end: float) -> None:
        """The last step is planned for so late, by time.monotonic(). What making the plan took is no step's time."""
        self.planned_end = end
        if self.marks:
            self.marks = [(self.latest["step"], time.monotonic())]

    def row(self, row: dict[str, Any]) -> None:
        """A step or an evaluation was recorded."""
        evaluated = row["event"] == "evaluation"
        if evaluated:  # what this one did not measure is not shown as an earlier one measured it
            self.latest = {key: value for key, value in self.latest.items() if key not in MEASURED}
        self.latest |= row
        points, side = (self.looks, "probe_validation") if evaluated else (self.losses, "train")
        if (loss := row.get(f"{side}_loss_nats_per_token")) is not None:
            points.append((row["step"], loss))
        if len(points) > MOST_LOSSES:
            del points[1:-1:2]
        if row["step"] > self.first and (evaluated or not self.marks):
            self.marks.append((row["step"], time.monotonic()))
        due = time.monotonic() - self.last_line > PLAIN_SECONDS
        if self.live is None and (evaluated or due):
            self.last_line = time.monotonic()
            self.note(self.line())
        elif self.live is self.cell is not None:
            self.cell.refresh()
        if evaluated and self.verbose:
            from hornbook.reporting.numbers import other_numbers

            self.note(f"  step {row['step']:,}: {other_numbers(self.latest)}")

    def show_sample(self, text: str) -> None:
        self.sample = text
        if self.live is None:
            self.note(f"  sample: {' '.join(text.strip().replace(chr(10), ' ↵ ').split())[:160]}")

    def end(self) -> None:
        if self.live is not None:
            live, self.live = self.live, None
            live.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def time_left(self) -> str:
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
        mean = (now - begin) / (step - since)
        if len(rates) < 2:
            return f"{format_duration(mean * left)} left"
        low, high = min(*rates, 0.97 * mean) * left, max(*rates, 1.03 * mean) * left
        return f"{format_duration(mean * left)} left ({format_duration(low)} to {format_duration(high)})"

    def line(self) -> str:
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
        return " · ".join(part for part in [*parts, self.time_left()] if part)
