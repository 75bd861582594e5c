"""What is shown of a run under way is what its rows say, each as of now."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hornbook.reporting.live import View
from hornbook.reporting.notebook import cell_html


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


def test_verbose_adds_what_else_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    view = View(verbose=True)
    view.begin(first=0, total=10)
    more: dict[str, Any] = {"learning_rate": 0.003, "gradient_norm": 1234.5, "cost": {"price_usd": 2.5}}
    rows = [step(1, **more), evaluation(1, forecast_loss_nats_per_token=2.25)]
    *_, line, numbers = said(view, rows, capsys)
    assert line.startswith("step 1/10")
    assert numbers.startswith("  step 1: ")
    for number in ("learning rate 0.003", "gradient norm 1.23K", "mfu 50.0%", "price $2.50", "forecast loss 2.25"):
        assert number in numbers.split(": ")[1].split(" · ")
    assert "validation loss" not in numbers, "the line before it has that"


def test_a_cell_of_a_notebook_takes_what_a_model_writes_as_text() -> None:
    losses = [(number, 5.0 - number / 100) for number in range(1, 301)]
    cell = cell_html(evaluation(300), "<script>alert(1)</script>\nand", step=300, total=1000, time_left="5 min left",
                     losses=[*losses, (301, float("nan"))], looks=[(0, 5.5), (300, 2.5)])  # fmt: skip
    assert "<script" not in cell
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ↵ and" in cell
    assert "time left <b>5 min</b>" in cell
    assert "nan" not in cell
    batches, looks = re.findall(r'<polyline points="([^"]+)"', cell)
    assert len(batches.split()) < len(losses) < 2 * len(batches.split())
    assert len(looks.split()) == 2


def test_nothing_of_a_notebook_is_imported_outside_one(tmp_path: Path) -> None:
    program = (
        "import sys; from hornbook.reporting.live import View\n"
        "with View() as view: view.begin(first=0, total=1)\n"
        "print([name for name in sys.modules if name in ('IPython', 'hornbook.reporting.notebook')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"
