"""Runs of recipes side by side: several seeds of one, two recipes, a grid; on the terminal, as a picture, as a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hornbook.facts.printing import on_one_line, print
from hornbook.facts.units import counted, format_duration
from hornbook.reporting.html import page
from hornbook.reporting.pages import inline_svg
from hornbook.reporting.plots import GRID, INK, MUTED, PAPER, STYLE, TRAINING, VALIDATION
from hornbook.reporting.terminal import print_difference, print_table


def print_group(result: Mapping[str, Any]) -> None:
    """The seeds of a recipe, one line each, and how they differ."""
    rows = [
        (run["run"], f"{run['bits_per_byte']:.4f}" if run.get("bits_per_byte") is not None else "-",
         f"bits per byte, {counted(run['step'], 'step')}, {format_duration(run['wall_seconds'])}")
        for run in result["runs"]
    ]  # fmt: skip
    print_table(rows, f"{result['run']}: {counted(len(rows), 'seed')} of one recipe")
    for sentence in result.get("words", []):
        print(sentence)


def print_recipes(result: Mapping[str, Any]) -> None:
    """The verdict on two recipes, what it rests on, and in what they differ."""
    rows = [
        (side.upper(), f"{result[side]['bits_per_byte']:.4f}",
         f"{len(result[side]['models'])} runs, standard deviation {result[side]['standard_deviation']:.4f}")
        for side in ("a", "b")
    ]  # fmt: skip
    print_difference(result, rows)
    if result.get("difference_bits_per_byte_interval_95"):
        print(
            f"Of its half-width, {result['half_width_of_runs']:.4f} is due to runs and "
            f"{result['half_width_of_documents']:.4f} to the text (added as squares)."
        )
    print(seen_in_words(result["smallest_difference_seen"]))
    for side in ("a", "b"):
        if result[side]["differing_settings"]:
            names = ", ".join(result[side]["differing_settings"])
            print(f"warning: the runs of {side.upper()} differ in more than their seed: {names}")
    if result["differing_settings"]:
        print_table([(name, str(a), str(b)) for name, (a, b) in result["differing_settings"].items()], "settings: A, B")


def seen_in_words(seen: Mapping[str, float]) -> str:
    """
    >>> seen_in_words({"2": 0.05, "10": 0.01})
    'So many runs of each would see, in 80 % of cases, a difference of: 2 runs 0.0500, 10 runs 0.0100.'
    """
    sizes = ", ".join(f"{runs} runs {size:.4f}" for runs, size in seen.items())
    return f"So many runs of each would see, in 80 % of cases, a difference of: {sizes}."


def print_grid(result: Mapping[str, Any]) -> None:
    """One line a recipe, the best first, the verdict, and where the page is."""
    rows = [
        (group["name"], f"{group['bits_per_byte']:.4f}", f"bits per byte, {_spread(group)}")
        for group in _in_order(result["groups"])
    ]  # fmt: skip
    print_table(rows, "a grid of settings, the best first")
    for sentence in (*result["warnings"], result["verdict"]):
        print(sentence)
    print(f"page: {result['page']}")


def _spread(group: Mapping[str, Any]) -> str:
    deviation, steps = group.get("bits_per_byte_standard_deviation"), counted(group["runs"][0]["step"], "step")
    if deviation is None:
        return f"1 run of {steps}"
    return f"{len(group['runs'])} runs of {steps}, standard deviation {deviation:.4f}"


def _in_order(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(groups, key=lambda group: group["bits_per_byte"])


def grid_page(result: Mapping[str, Any]) -> str:
    """The page of a grid: its verdict, the picture, a table of groups and one of runs."""
    groups = _in_order(result["groups"])
    svg = runs_plot({group["name"]: group["bits_per_byte_of_runs"] for group in groups}, "svg").decode()
    cells = [
        (group["name"], f"{group['bits_per_byte']:.4f}", _spread(group), format_duration(group["wall_seconds"]))
        for group in groups
    ]
    runs = [
        (run["run"], f"{run['bits_per_byte']:.4f}", f"{run['step']:,}", format_duration(run["wall_seconds"]))
        for group in groups
        for run in group["runs"]
    ]
    return page(
        "grid.html", title=result["title"], eyebrow=f"a grid of settings on {result['text']}",
        sentences=(result["verdict"], *result["warnings"]), groups=cells, runs=runs,
        svg=Markup(inline_svg(svg, "Bits per byte of each run, by recipe")),
    )  # fmt: skip


def runs_plot(groups: Mapping[str, Sequence[float]], ending: str) -> bytes:
    """A picture, "svg" or "png": each run a dot on the line of its recipe, the mean a bar; bits per byte below."""
    import logging

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.2 + 0.45 * len(groups)), facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot(facecolor=PAPER)
        for line, values in enumerate(groups.values()):
            mean = sum(values) / len(values)
            axes.plot(values, [line] * len(values), "o", color=VALIDATION, alpha=0.75, markersize=6, zorder=3)
            axes.plot([mean, mean], [line - 0.28, line + 0.28], color=TRAINING, linewidth=2, zorder=4)
        axes.set_yticks(range(len(groups)), [on_one_line(name) for name in groups], color=INK, parse_math=False)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.grid(axis="x", color=GRID, zorder=0)
        axes.set_xlabel("bits per byte: a dot is a run, a bar the mean of a recipe", color=MUTED)
        axes.margins(x=0.08)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        picture = io.BytesIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if ending == "svg" else {"Software": None}
        figure.savefig(picture, format=ending, dpi=150, metadata=metadata)
    return picture.getvalue()
