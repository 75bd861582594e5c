"""Batches of a part: batch = f(seed, step) and nothing else, so that resuming needs no state but the step."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hornbook.data.packing import IGNORE, epoch_windows, num_windows, window_span
from hornbook.data.shards import TokenStream
from hornbook.facts.errors import InputError
from hornbook.facts.units import counted

Rows = slice | NDArray[np.int64]  # of a batch


class Batches:
    """The endless sequence of batches of a part; each epoch has its own offset and order.

    Row r of step k is window number k * batch + r of that sequence, so a batch may span two epochs (or more, where the
    text is tiny), and ranks or microbatches that take rows of it see the same windows however it is cut.

    Raises InputError when the part has fewer than two tokens: then there is nothing to predict.
    """

    def __init__(self, part: TokenStream, *, context: int, batch: int, seed: int, shift: bool = True) -> None:
        """`shift`: whether each epoch cuts the text at other places; if not, every epoch has the same windows."""
        for name, value in (("context", context), ("batch", batch)):
            if value < 1:
                raise InputError(f"the {name} is {value}, but it must be at least 1")
        if part.num_tokens < 2:
            raise InputError(
                f"the text has {counted(part.num_tokens, 'token')}, but at least 2 are needed to predict one from "
                "another; give a longer text"
            )
        self.part, self.context, self.batch_size, self.seed, self.shift = part, context, batch, seed, shift
        self.tokens_per_epoch = part.num_tokens
        self.windows_per_epoch = num_windows(part.num_tokens, context)
        self.pack: Callable[..., tuple[NDArray[np.int32], int]] | None = None  # by `pack_documents`
        # A batch touches one epoch or two neighbours, except where an epoch is shorter than a batch and cheap to draw.
        self._windows = lru_cache(maxsize=2)(self._draw_windows)

    def _draw_windows(self, epoch: int) -> tuple[int, NDArray[np.int64]]:
        offset, order = epoch_windows(self.tokens_per_epoch, self.context, self.seed, epoch)
        return (offset if self.shift else 0), order

    def epoch(self, step: int) -> float:
        """How many epochs lie before `step`, by windows."""
        return step * self.batch_size / self.windows_per_epoch

    def spans(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start in the stream and number of targets of each row of the batch: two arrays (batch,)."""
        epochs, places = np.divmod(step * self.batch_size + np.arange(self.batch_size), self.windows_per_epoch)
        starts, lengths = np.empty_like(places), np.empty_like(places)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            offset, order = self._windows(int(epoch))
            starts[rows], lengths[rows] = window_span(self.tokens_per_epoch, self.context, offset, order[places[rows]])
        return starts, lengths

    def batch(self, step: int, rows: Rows = slice(None)) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and targets of a step, int64 (batch, context), or of some of its rows; targets beyond the end of the
        epoch are IGNORE."""
        starts, lengths = (column[rows] for column in self.spans(step))
        tokens = self.part.take(starts, self.context + 1)
        targets = np.where(np.arange(self.context) < lengths[:, None], tokens[:, 1:], IGNORE)
        return np.ascontiguousarray(tokens[:, :-1]), targets

    def documents(self, step: int, rows: Rows = slice(None)) -> NDArray[np.int32]:
        """The index of the document of each input of a step, int32 (batch, context), or of some of its rows.

        For attention that must not cross documents. Of a part with one document it is 0 everywhere, across the end of
        the stream too.
        """
        return self.part.document_ids(self.spans(step)[0][rows], self.context)
