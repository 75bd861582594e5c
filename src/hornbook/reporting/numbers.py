"""`hornbook train --verbose`: what is recorded of a run besides the numbers that its box shows, a line at each look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hornbook.facts.metrics import METRICS
from hornbook.facts.units import format_count, format_duration, format_usd

_IN_THE_BOX = {
    "step", "epoch", "tokens_per_second", "train_loss_nats_per_token", "probe_train_loss_nats_per_token",
    "probe_validation_loss_nats_per_token",
}  # fmt: skip
_FORMS: dict[str, Callable[[float], str]] = {
    "seconds": format_duration, "wall_seconds": format_duration, "mfu": "{:.1%}".format, "price_usd": format_usd,
    "copied_share": "{:.1%}".format,
}  # fmt: skip


def other_numbers(row: Mapping[str, Any]) -> str:
    """The numbers of METRICS in the newest rows of a run and in its cost, in the order of METRICS.

    >>> other_numbers({"step": 8, "seconds": 75.0, "learning_rate": 0.003, "mfu": None, "cost": {"price_usd": 1.5}})
    'seconds 1 min 15 s · learning rate 0.003 · price $1.50'
    """
    numbers, written = dict(row) | (row.get("cost") or {}), []
    for name in METRICS:
        value, form = numbers.get(name), _FORMS.get(name, _plain)
        if name in _IN_THE_BOX or not isinstance(value, int | float):
            continue
        low, high = numbers.get(f"{name}_interval_90") or (None, None)
        beside = "" if low is None or high is None else f" (90 % {form(low)} to {form(high)})"
        written.append(
            f"{name.removesuffix('_nats_per_token').removesuffix('_usd').replace('_', ' ')} {form(value)}{beside}"
        )
    return " · ".join(written)


def _plain(value: float) -> str:
    return format_count(value) if abs(value) >= 1000 else f"{value:.4g}"
