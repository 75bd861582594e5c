"""`hornbook plot`: the curves of several runs in one picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.facts.errors import InputError
from hornbook.facts.printing import print, print_json

if TYPE_CHECKING:
    from hornbook.facts.tables import Result

AXES = ("tokens", "step", "seconds", "epoch")
METRIC = "probe_validation_loss_nats_per_token"


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, groups of them, or latest")
    parser.add_argument("--out", metavar="FILE", required=True, help="the picture: a name in .png, .svg or .pdf")
    parser.add_argument("--x", choices=AXES, default="tokens", help="what the runs are drawn against (default: tokens)")
    parser.add_argument(
        "--metric", default=METRIC, metavar="NAME", help=f"a number of docs/metrics.md (default: {METRIC})"
    )


def command(arguments: argparse.Namespace) -> None:
    result = plot(*arguments.runs, out=arguments.out, x=arguments.x, metric=arguments.metric)
    if arguments.json:
        print_json(result)
    else:
        print(f"drawn: {result['out']}")


def plot(*runs: str | Path, out: str | Path, x: str = "tokens", metric: str = METRIC) -> Result:
    """Draw a recorded number of several runs in one picture, each run named at its curve.

    >>> hornbook.plot("runs/a", "runs/b", out="both.svg", x="epoch")  # doctest: +SKIP

    `x`: tokens, step, seconds or epoch; `metric`: any number of docs/metrics.md that the runs have recorded. The ending
    of `out` says whether it is a PNG, SVG or PDF. Evaluations are points, since nothing is known between them. Returns
    `out` and the `runs`. Raises InputError where a run, the number or the ending is unknown, SystemFailure where the
    file cannot be written.
    """
    from hornbook.facts.metrics import metric as known
    from hornbook.facts.tables import Result
    from hornbook.records.history import history
    from hornbook.records.listing import distinct_names, resolved, runs_in
    from hornbook.reporting.overlay import overlay

    if not runs:
        raise InputError("there is nothing to draw: name a run.")
    if x not in AXES:
        raise InputError(f"--x is {x}, but must be one of {', '.join(AXES)}.")
    known(metric)
    folders = [Path(member) for run in runs for member in runs_in(resolved(run)) or [str(resolved(run))]]
    curves = []
    for folder, name in zip(folders, distinct_names(folders), strict=True):
        tables = history(folder)
        kind = next((kind for kind in ("evaluation", "step") if metric in tables[kind] and x in tables[kind]), None)
        points = [] if kind is None else list(zip(tables[kind][x], tables[kind][metric], strict=True))
        points = [(at, value) for at, value in points if at is not None and isinstance(value, int | float)]
        if not points:
            raise InputError(f"{folder} has recorded no {metric}.")
        curves.append((name, points, kind == "evaluation"))
    overlay(curves, Path(out), x=x, metric=known(metric))
    return Result({"out": str(out), "runs": [str(folder) for folder in folders]})
