"""The log of a run as columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hornbook.records.listing import resolved
from hornbook.records.run import Row, Run


def history(run: str | Path) -> dict[str, dict[str, list[Any]]]:
    """Return what a run has recorded: a table for each kind of event, `step`, `evaluation`, `decision`, `sample`,
    `checkpoint` and whatever else there is (`warning`, `resume`, `end`), as {column: values}, ready for pandas and
    polars.

    >>> tables = hornbook.history("runs/first")  # doctest: +SKIP
    >>> pandas.DataFrame(tables["step"]).plot(x="tokens", y="train_loss_nats_per_token")  # doctest: +SKIP

    The columns of a table are equally long and have the names and units of docs/metrics.md; a number that a row lacks
    is None. Rows that a resume has replaced are left out. Raises InputError where there is no such run or its log is
    damaged.
    """
    opened = Run.open(resolved(run))
    kinds: dict[str, list[Row]] = {name: [] for name in ("step", "evaluation", "decision", "sample", "checkpoint")}
    for row in opened.rows():
        kinds.setdefault(row["event"], []).append(row)
    kinds["sample"] = opened.samples()
    return {name: _columns(rows) for name, rows in kinds.items()}


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    """
    >>> _columns([{"event": "step", "step": 1}, {"event": "step", "step": 2, "mfu": 0.5}])
    {'step': [1, 2], 'mfu': [None, 0.5]}
    """
    names = dict.fromkeys(name for row in rows for name in row if name != "event")
    return {name: [row.get(name) for row in rows] for name in names}
