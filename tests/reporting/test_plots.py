"""The plot's files open as what they are, its axes tell the truth, and thinning loses no spike."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hornbook.facts.errors import InputError
from hornbook.reporting.labels import Label, place
from hornbook.reporting.plots import loss_plot, min_max, smooth


def _rows(steps: int = 60, every: int = 10) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(steps + 1):
        loss = 4 + 4 * math.exp(-step / 10)
        if step:
            rows.append({"event": "step", "step": step, "tokens": 1000 * step, "train_loss_nats_per_token": loss - 0.3})
        if step % every == 0:
            values = {"step": step, "tokens": 1000 * step, "probe_validation_loss_nats_per_token": loss + step / 100}
            rows.append({"event": "evaluation", **values})
    return rows


def _texts(svg: str) -> list[tuple[str, float, float]]:
    root = ElementTree.fromstring(svg)
    texts = root.iter("{http://www.w3.org/2000/svg}text")
    return [("".join(text.itertext()), float(text.get("x", "nan")), float(text.get("y", "nan"))) for text in texts]


def _draw(rows: list[dict[str, Any]], **more: Any) -> str:
    options: dict[str, Any] = {"path_png": None, "path_svg": None, "tokens_per_epoch": 15_000, **more}
    return loss_plot(rows, **options)


def test_both_files_are_written_and_the_same_run_gives_the_same_svg(tmp_path: Path) -> None:
    svg = _draw(_rows(), path_png=tmp_path / "loss.png", path_svg=tmp_path / "loss.svg", title="A & B <c>")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (tmp_path / "loss.svg").read_text() == svg == _draw(_rows(), title="A & B <c>")
    assert "A & B <c>" in [text for text, _, _ in _texts(svg)]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["loss.png", "loss.svg"]


def test_the_right_axis_is_the_exponential_of_the_left() -> None:
    texts = _texts(_draw(_rows(), uniform_loss=math.log(4096)))
    left = [(float(text), y) for text, x, y in texts if x < 60 and 60 < y < 305 and re.fullmatch(r"\d\.?\d*", text)]
    right = [
        (math.log(float(text.replace(",", ""))), y)
        for text, x, y in texts
        if x > 550 and 60 < y < 320 and re.fullmatch(r"[\d,]+", text)
    ]
    assert len(left) >= 4
    assert len(right) >= 4
    (low, bottom), (high, top) = left[0], left[-1]
    slope = (top - bottom) / (high - low)
    for loss, y in right:
        assert y == pytest.approx(bottom + slope * (loss - low), abs=0.05)


def test_epochs_stand_above_their_tokens() -> None:
    texts = _texts(_draw(_rows()))
    below = {text: x for text, x, y in texts if y > 300}
    above = {text: x for text, x, y in texts if y < 60}
    assert above["2"] == pytest.approx(below["30K"], abs=0.05)


def test_the_lowest_validation_loss_is_named_unless_it_is_the_last() -> None:
    best = min(row["probe_validation_loss_nats_per_token"] for row in _rows() if row["event"] == "evaluation")
    assert f"lowest {best:.2f}" in [text for text, _, _ in _texts(_draw(_rows()))]
    assert not any(text.startswith("lowest") for text, _, _ in _texts(_draw(_rows(20))))


def test_the_uniform_line_is_drawn_only_in_view() -> None:
    assert "uniform guessing" in _draw(_rows(), uniform_loss=8.3)
    assert "uniform guessing" not in _draw(_rows(), uniform_loss=30.0)
    assert "uniform guessing" not in _draw(_rows())


def test_runs_that_have_just_begun_are_drawn_and_empty_ones_refused() -> None:
    for rows in (_rows(0), _rows(1), _rows(3, 100)[1:], [row for row in _rows() if row["event"] == "evaluation"]):
        assert "<svg" in _draw(rows)
    with pytest.raises(InputError, match="no losses to draw"):
        _draw([{"event": "step", "step": 1, "tokens": 1, "train_loss_nats_per_token": None}])


@pytest.mark.parametrize("loss", [29.0, 60.0, 800.0, 5e7, 3e32])
def test_the_losses_of_a_run_that_diverged_are_drawn_whatever_their_size(loss: float) -> None:
    rows = [{"event": "evaluation", "step": i, "tokens": 1000 * i, "probe_validation_loss_nats_per_token": value}
            for i, value in enumerate((5.95, loss / 1.1, loss))]  # fmt: skip
    rows += [{"event": "step", "step": 2, "tokens": 2000, "train_loss_nats_per_token": loss}]
    for shown in (rows, rows[1:]):  # with a healthy start, and without one
        texts = _texts(_draw(shown, uniform_loss=5.95))
        names = {text.split()[0]: y for text, _, y in texts if text.startswith(("probe validation ", "batches, "))}
        assert abs(names["probe"] - names["batches,"]) > 9, "the names lie over each other"
    if loss == 5e7:
        assert {"50M", "probe validation 50M", "lowest 5.95"} <= {text for text, _, _ in _texts(_draw(rows))}


def test_a_curve_is_named_by_what_it_is_and_has_the_value_of_the_table() -> None:
    """Smoothed batches are not the probe's training loss: where the probe has one, that is drawn and named."""
    rows = _rows()
    assert any(text.startswith("batches, smoothed ") for text, _, _ in _texts(_draw(rows)))
    for row in rows:
        if row["event"] == "evaluation":
            row["probe_train_loss_nats_per_token"] = 2.2831 + (row["step"] < 60)
    texts = [text for text, _, _ in _texts(_draw(rows))]
    assert "probe training 2.28" in texts
    assert not any(text.startswith("batches") for text in texts)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 20))
def test_thinning_keeps_the_extremes_and_makes_nothing_up(ys: list[float], buckets: int) -> None:
    xs = list(range(len(ys)))
    thin_xs, thin_ys = min_max(xs, ys, buckets)
    assert len(thin_xs) <= 2 * buckets
    assert (min(thin_ys), max(thin_ys)) == (min(ys), max(ys))
    assert thin_xs == sorted(set(thin_xs))
    assert all(ys[int(x)] == y for x, y in zip(thin_xs, thin_ys, strict=True))


@given(st.lists(st.floats(0, 100), max_size=100), st.integers(0, 20))
def test_smoothing_stays_between_the_extremes(values: list[float], reach: int) -> None:
    smoothed = smooth(values, reach)
    assert len(smoothed) == len(values)
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for value in smoothed)


def test_smoothing_keeps_a_straight_line_straight_away_from_the_end() -> None:
    line = [100 - 0.5 * i for i in range(200)]
    assert smooth(line, 8)[:190] == pytest.approx(line[:190])


def test_a_name_stays_off_its_line_whatever_the_resolution_of_the_file() -> None:
    figure = Figure(figsize=(4, 3), dpi=72)
    axes = figure.add_subplot()
    xs = np.linspace(0, 10, 500)
    ys = np.exp(-xs)
    axes.plot(xs, ys)
    place(axes, [Label("name of the run", xs[-1], ys[-1], "#000000")], [np.stack([xs, ys], axis=1)])
    (note,) = axes.texts
    for dpi in (72, 200):
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).draw()
        box = note.get_window_extent()
        assert not any(box.contains(x, y) for x, y in axes.transData.transform(np.stack([xs, ys], axis=1)))
