"""`hornbook prepare`: documents -> tokenizer -> shards, with a report on the data."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.commands.options import add_settings, add_texts, text_settings
from hornbook.facts.capacity import REPETITION_SENTENCE, memorization_estimate
from hornbook.facts.errors import InputError
from hornbook.facts.printing import print_json
from hornbook.facts.settings import Settings, from_table, overridden
from hornbook.facts.tables import Result
from hornbook.facts.units import parse_count

if TYPE_CHECKING:
    from hornbook.data.shards import Prepared
    from hornbook.setup.text import Progress


def flags(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "files, folders or globs; none: the built-in corpus")
    parser.add_argument("--out", metavar="FOLDER", help="the prepared folder")
    parser.add_argument(
        "--parameters", "--size", metavar="N", help="model size for the memorization outlook, such as 124M"
    )
    add_settings(parser, lambda name: name.startswith("text."))


def command(arguments: argparse.Namespace) -> None:
    from hornbook.reporting.live import View

    with View().progress("preparing") as progress:
        result = prepare(
            *arguments.texts, out=arguments.out, parameters=arguments.parameters, progress=progress,
            **text_settings(arguments),
        )  # fmt: skip
    if arguments.json:
        print_json(result)
    else:
        from hornbook.reporting.prepared import print_prepared

        print_prepared(result)


def prepare(
    *texts: str, out: str | Path | None = None, parameters: str | None = None, progress: Progress | None = None,
    **settings: Any,
) -> Result:  # fmt: skip
    """Prepare `texts` and return the data report, as `hornbook prepare --json` prints it.

    `settings` are those of the section [text]: tokenizer, split, field, separator, errors, dedup, canaries. The outlook
    is for a model of so many `parameters` ("124M"), or of the size that training would choose for so much text. Raises
    InputError for bad input, SystemFailure when the disk is full.
    """
    from hornbook.setup.text import prepared_text

    changes = {f"text.{name.removeprefix('text.')}": value for name, value in settings.items()}
    wanted = from_table(overridden({"text": {"paths": list(texts)}}, changes), source="settings").text
    prepared = prepared_text(wanted, out=Path(out) if out is not None else None, progress=progress)
    expected = _outlook(prepared, parameters)
    report = {"prepared": str(prepared.folder)} | prepared.manifest
    return Result(report | ({} if expected is None else {"outlook": expected}))


def _outlook(prepared: Prepared, parameters: str | None) -> dict[str, Any] | None:
    """What to expect of training on this text; None where it is too short to choose a size for."""
    from hornbook.planning.choose import Machine, choose
    from hornbook.planning.workload import corpus_stats

    data = corpus_stats(prepared)
    if parameters is not None:
        size = int(parse_count(parameters, "--parameters"))
    else:
        try:
            size = choose(Settings(), data, Machine(True, math.inf)).shape.parameters
        except InputError:
            return None
    again = prepared.readings_per_epoch or 1.0
    expected = memorization_estimate(data.num_tokens, data.num_bytes, size, readings_per_epoch=again)
    return {"num_parameters": size, "sentences": [expected.sentence, REPETITION_SENTENCE]} | {
        name: getattr(expected, name) for name in ("data_bits", "capacity_bits", "fill", "by_heart_epochs", "expect")
    }
