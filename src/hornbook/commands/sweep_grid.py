"""`hornbook sweep --grid optimizer.name=muon,adamw --grid train.seed=0,1,2`: every combination of settings, each from
every seed, within a budget.

    grid.html                 the page
    optimizer.name=muon/      a group of runs, as `hornbook train --seeds` makes it; one for each combination

Each combination has the same time, or the length that was given; its seeds have the same number of steps. What is
finished is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from hornbook.commands.options import value
from hornbook.commands.train_seeds import LENGTHS_DOTTED, group_of_runs, in_total, opened
from hornbook.evaluation.groups import best_of
from hornbook.facts.errors import InputError
from hornbook.facts.io import write_aside
from hornbook.facts.names import by_dotted_names
from hornbook.facts.settings import from_table, names, overridden
from hornbook.facts.tables import Result
from hornbook.facts.units import counted, format_count
from hornbook.records.result import Report
from hornbook.records.run import EVALUATION, Run
from hornbook.reporting.groups import grid_page
from hornbook.reporting.live import View

Grid = Mapping[str, Sequence[Any]]
NOT_IN_A_GRID = ("text.paths", "text.split", "train.budget")
SEED = "train.seed"


def read_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """
    >>> read_grid(["optimizer.name=muon,adamw", "seed=0,1"])
    {'optimizer.name': ['muon', 'adamw'], 'train.seed': [0, 1]}
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        given, equals, values = word.partition("=")
        if not equals or not all(values.split(",")):
            raise InputError(f"--grid {word}: write name=value,value, such as --grid optimizer.name=muon,adamw.")
        (name,) = by_dotted_names({given.replace("-", "_"): None}, names())
        field = names().get(name)
        if field is None or name in NOT_IN_A_GRID or get_origin(field.type) is list or name in grid:
            why = "it is given twice" if name in grid else "a grid has no such setting (all: docs/settings.md)"
            raise InputError(f"--grid {word}: {why}.")
        try:
            grid[name] = [value(field.type)(text) for text in values.split(",")]
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--grid {word}: {error}.") from None
    return grid


def by_grid(
    train: Callable[..., Result], texts: Sequence[str], grid: Grid, changes: Mapping[str, Any], *,
    seconds: float | None, out: Path, view: View,
) -> Result:  # fmt: skip
    """Train every combination of the grid, and return its groups, the best first told from the second.

    `seconds`: for all runs that are not finished yet. Raises InputError for bad input.
    """
    begin = time.monotonic()
    both = sorted(grid.keys() & changes.keys())
    if both:
        raise InputError(f"{both[0]} is in the grid and given as well: leave one out.")
    seeds = grid.get(SEED, [changes.get(SEED, 0)])
    axes = {name: values for name, values in grid.items() if name != SEED}
    for name, values in grid.items():
        if len(set(values)) < len(values):
            raise InputError(f"the grid has a value of {name} twice.")
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    fixed = {name: given for name, given in changes.items() if name != SEED} | {"text.paths": list(texts)}
    requests = [overridden({}, fixed | cell | {SEED: seeds[0]}) for cell in cells]
    left = [  # all are looked at before the first is trained, so that what is wrong is said at once
        index for index, (cell, request) in enumerate(zip(cells, requests, strict=True))
        if any(str(seed) not in opened(out / folder_of(cell), request, from_table(request, source="the grid")).runs
               for seed in seeds)
    ]  # fmt: skip
    groups = []
    for index, (cell, request) in enumerate(zip(cells, requests, strict=True)):
        remaining = None if seconds is None else seconds - (time.monotonic() - begin)
        share = None if remaining is None else max(1.0, remaining) / max(1, sum(other >= index for other in left))
        view.note(f"{name_of(cell)} ({index + 1} of {len(cells)})")
        runs = group_of_runs(
            train, request, seeds, folder=out / folder_of(cell), whole=out, from_=None, view=View(quiet=True),
            seconds=share,
        )  # fmt: skip
        group = {"name": name_of(cell), "settings": cell, "runs": runs, **in_total(runs)}
        if "bits_per_byte" not in group:
            raise InputError(f"{out / folder_of(cell)} has no bits per byte: give a text with a validation side.")
        view.note(f"  {group['bits_per_byte']:.4f} bits per byte, mean of {counted(len(runs), 'run')}")
        groups.append(group)
    result = {
        "title": out.name, "text": ", ".join(texts) or "the built-in corpus", "groups": groups, **_best(groups),
        "wall_seconds": time.monotonic() - begin, "warnings": _warnings(groups), "page": str(out / "grid.html"),
    }  # fmt: skip
    write_aside(out / "grid.html", grid_page(result))
    return Result(result)


def name_of(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={given}" for name, given in cell.items()) or "one recipe"


def folder_of(cell: Mapping[str, Any]) -> str:
    """A name that every file system takes.

    >>> folder_of({"optimizer.name": "muon", "text.tokenizer": "bpe:512"})
    'optimizer.name=muon+text.tokenizer=bpe-512'
    """
    return "+".join(re.sub(r"[^\w.=-]+", "-", f"{name}={given}") for name, given in cell.items()) or "seeds"


def is_length_given(changes: Mapping[str, Any], grid: Grid) -> bool:
    return bool((changes.keys() | grid.keys()) & LENGTHS_DOTTED)


def _best(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best of the groups, and its lead over the second where there are several seeds of both."""
    order = sorted(groups, key=lambda group: group["bits_per_byte"])
    best: dict[str, Any] = {"best": order[0]["name"], "lead": None}
    if len(groups) == 1:
        return best | {"verdict": groups[0]["words"][0] if groups[0].get("words") else "One run is no comparison."}
    verdict = (
        f"{order[0]['name']} has the lowest bits per byte of {len(groups)}: a selection, and with one run of each it "
        "may be chance: add --grid train.seed=0,1,2."
    )
    if len(order[0]["runs"]) > 1:
        try:
            return best_of({group["name"]: [_report(run) for run in group["runs"]] for group in groups})
        except InputError as error:
            verdict = f"{order[0]['name']} has the lowest bits per byte of {len(groups)}, without an interval: {error}"
    return best | {"verdict": verdict}


def _report(run: Mapping[str, Any]) -> Report:
    return Report.from_json(Run.open(run["run"]).read(EVALUATION))


def _warnings(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    lengths = sorted({run["tokens"] for group in groups for run in group["runs"]})
    if lengths and lengths[-1] > 1.02 * lengths[0]:
        return [
            f"the recipes had from {format_count(lengths[0])} to {format_count(lengths[-1])} training tokens: what is "
            "compared is how far they get in a time, and a machine that is busy at times decides it too; --steps gives "
            "all the same length."
        ]
    return []
