"""`hornbook runs`."""

from __future__ import annotations

import argparse

from hornbook.facts.printing import print_json


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="where runs lie (default: runs)")


def command(arguments: argparse.Namespace) -> None:
    from hornbook.records.listing import runs

    found = runs(arguments.folder)
    if arguments.json:
        print_json({"runs": found})
    else:
        from hornbook.reporting.terminal import print_runs

        print_runs(found)
