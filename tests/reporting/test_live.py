"""What is shown of a run under way is what its rows say, each as of now."""

import time
from typing import Any

import pytest

from hornbook.reporting.live import View


def step(number: int, **more: Any) -> dict[str, Any]:
    known = {"event": "step", "step": number, "tokens": 100 * number, "epoch": number / 10, "tokens_per_second": 1e3}
    return known | {"train_loss_nats_per_token": 3.0, "mfu": 0.5} | more


def evaluation(number: int, **more: Any) -> dict[str, Any]:
    known = {"event": "evaluation", "step": number, "tokens": 100 * number, "epoch": number / 10}
    return known | {"probe_train_loss_nats_per_token": 2.0, "probe_validation_loss_nats_per_token": 2.5} | more


def said(view: View, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    for row in rows:
        view.row(row)
    return capsys.readouterr().err.splitlines()


def test_a_share_of_the_peak_that_is_not_known_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    view.begin(first=0, total=10)
    first, second = said(view, [step(1), step(2, mfu=None), evaluation(2)], capsys)
    assert "MFU 50%" in first
    assert "MFU" not in second
    assert "1K tokens/s" in second


def test_a_batch_and_a_probe_are_told_apart_and_step_0_is_step_0(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    view.begin(first=0, total=10)
    start, end = said(view, [evaluation(0, probe_validation_loss_nats_per_token=5.0), step(1), evaluation(1)], capsys)
    assert start.startswith("step 0/10 · epoch 0.00 · train loss 2.000 · validation loss 5.000 (perplexity 148)")
    assert end.startswith("step 1/10 · epoch 0.10 · train loss 2.000 · validation loss 2.500 (perplexity 12.2)")
    view.last_line = -1e9  # a line is due
    (between,) = said(view, [step(2)], capsys)
    assert between.startswith("step 2/10 · epoch 0.20 · batch loss 3.000 · 1K tokens/s")


def test_what_is_left_is_what_was_planned_until_a_tenth_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    view = View()
    view.begin(first=0, total=100)
    (start,) = said(view, [evaluation(0)], capsys)
    assert "left" not in start, "nothing is known yet"
    said(view, [step(1)], capsys)
    view.expect(time.monotonic() + 5430)
    assert all(line.endswith("· 1 h 30 min left") for line in said(view, [evaluation(2), evaluation(9)], capsys))
    (later,) = said(view, [evaluation(11)], capsys)
    assert "left" in later
    assert "min left" not in later, "these steps took no time at all"
