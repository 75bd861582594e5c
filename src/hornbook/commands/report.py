"""`hornbook report`: the page of a run at any moment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.facts.printing import print, print_json

if TYPE_CHECKING:
    from hornbook.facts.tables import Result


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, or latest")
    parser.add_argument("--out", metavar="FILE", help="write the page to this file (default: the reports of the run)")


def command(arguments: argparse.Namespace) -> None:
    result = report(arguments.run, out=arguments.out)
    if arguments.json:
        print_json(result)
    else:
        print(f"{result['verdict']}\nreport: {result['report']}")


def report(run: str | Path, *, out: str | Path | None = None) -> Result:
    """Write the page of a run, also of one that goes on, was interrupted, or is of an older version.

    >>> hornbook.report("runs/first")["verdict"]  # doctest: +SKIP
    'Healthy: Probe validation loss fell from 5.55 (perplexity 257) to 3.88 (perplexity 48.2).'

    Reads only the run folder and disturbs no training. Writes report.html, loss.png and loss.svg into the run's
    reports, or the page alone to `out`. Returns `report` (where), `verdict` with its `tag` (good, warning, bad),
    `state` (running, interrupted, unfinished, or why it ended) and `step`. Raises InputError where there is no
    such run or a file of it is damaged, SystemFailure where the page cannot be written.
    """
    from hornbook.facts.tables import Result
    from hornbook.records.listing import resolved
    from hornbook.records.run import Run
    from hornbook.reporting.report import write_pages

    return Result(write_pages(Run.open(resolved(run)), None if out is None else Path(out)))
