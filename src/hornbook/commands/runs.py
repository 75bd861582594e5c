"""`hornbook runs`."""

from __future__ import annotations

import argparse

from hornbook.facts.printing import print_json


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="the folder (default: runs)")


def command(arguments: argparse.Namespace) -> None:
    from hornbook.records.listing import runs

    listing = runs(arguments.folder)
    if arguments.json:
        print_json({"runs": listing})
    else:
        from hornbook.reporting.terminal import print_runs

        print_runs(listing)
