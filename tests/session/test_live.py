"""What is shown of a run under way is what its rows say, each as of now."""

from typing import Any

import pytest

from hornbook.session.live import View


def step(number: int, **more: Any) -> dict[str, Any]:
    known = {"event": "step", "step": number, "tokens": 100 * number, "epoch": number / 10, "tokens_per_second": 1e3}
    return known | {"train_loss_nats_per_token": 3.0, "mfu": 0.5} | more


def evaluation(number: int, **more: Any) -> dict[str, Any]:
    known = {"event": "evaluation", "step": number, "tokens": 100 * number, "epoch": number / 10}
    return known | {"probe_train_loss_nats_per_token": 2.0, "validation_loss_nats_per_token": 2.5} | more


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
