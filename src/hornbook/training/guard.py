"""When training goes wrong: gradients that are not finite, and losses that leap."""

from __future__ import annotations

import statistics
from collections import deque

from hornbook.training.step import Update

PATIENCE = 10  # updates in a row without a finite gradient


class Guard:
    """Watches updates. One that was not applied is named; PATIENCE in a row mean that the weights are lost."""

    def __init__(self) -> None:
        self.bad_in_a_row = 0
        self.recent: deque[float] = deque(maxlen=50)

    def watch(self, update: Update) -> str | None:
        """A sentence when something is out of order, else None."""
        if update.gradient_norm is None:
            self.bad_in_a_row += 1
            return "the gradient was not finite: the update was skipped and the weights stayed as they were"
        self.bad_in_a_row = 0
        leap = self._leap(update.loss)
        self.recent.append(update.loss)
        return leap

    @property
    def hopeless(self) -> bool:
        return self.bad_in_a_row >= PATIENCE

    def _leap(self, loss: float) -> str | None:
        """A loss more than 20 median absolute deviations, and 1 nat, above the median of the last 50."""
        if len(self.recent) < 20:
            return None
        middle = statistics.median(self.recent)
        deviation = statistics.median(abs(x - middle) for x in self.recent)
        if loss > middle + max(1.0, 20 * deviation):
            return f"the loss leapt from about {middle:.2f} to {loss:.2f}"
        return None
