"""`hornbook.memorize`: what has a model memorized, measured against held-out text?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hornbook.commands.options import check_inputs, value
from hornbook.facts.by_heart import readings
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.printing import print_json
from hornbook.facts.settings import check_seed, from_table
from hornbook.facts.tables import Result
from hornbook.text.canaries import CANARIES, planted_canaries

if TYPE_CHECKING:
    from hornbook.data.shards import TokenStream
    from hornbook.setup.model import LoadedModel


def flags(parser: argparse.ArgumentParser) -> None:
    from hornbook.facts.settings import Seed

    parser.add_argument("model", metavar="MODEL", help="a run, or any model with --train and --heldout")
    parser.add_argument("--train", metavar="TEXT", help="what it was trained on (default: a run's own)")
    parser.add_argument(
        "--heldout", metavar="TEXT", help="text of the same kind that it has not seen (default: a run's own)"
    )
    parser.add_argument("--reference", metavar="MODEL", help="a model trained the same way, on neither text")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--seed", type=value(Seed), default=0, metavar="N", help="seed of the samples")
    parser.add_argument("--html", metavar="FILE", help="also write the page here (a run keeps it in its reports)")


def command(arguments: argparse.Namespace) -> None:
    check_inputs(arguments.model)
    result = memorize(
        arguments.model, train=arguments.train, heldout=arguments.heldout, reference=arguments.reference,
        step=arguments.step, seed=arguments.seed,
    )  # fmt: skip
    if arguments.json:
        print_json(result)
    else:
        from hornbook.reporting.terminal import print_memorization

        print_memorization(result)
    sys.stdout.flush()  # what was computed is shown, whatever becomes of the pages
    if arguments.html is not None:
        from hornbook.facts.io import write_aside
        from hornbook.reporting.memorization import memory_page

        write_aside(Path(arguments.html), memory_page(result))
    if "report_problem" in result:
        raise SystemFailure(result["report_problem"])


def memorize(
    model: str, *, train: str | None = None, heldout: str | None = None, reference: str | None = None,
    step: int | None = None, seed: int = 0,
) -> Result:  # fmt: skip
    """Measure what `model` has memorized of `train`, against `heldout`; of a run, a text that is not named is its own.

    `reference` is a model with the same tokenizer, trained the same way, on neither text. Returns what `--json`
    prints. Of a run, the numbers and the page are written to its reports as well; where that fails, `report` is None
    and `report_problem` says why. Raises InputError when a text is missing for a model that is not a run, and when the
    reference has another tokenizer.
    """
    from hornbook.evaluation.memorization import memorization
    from hornbook.reporting.memorization import memory_page
    from hornbook.reporting.report import links_of
    from hornbook.setup.model import open_model
    from hornbook.setup.scoring import own_text
    from hornbook.training.deciding import tokens_read

    check_seed(seed)
    opened = open_model(model, step=step)
    if opened.run is None and (train is None or heldout is None):
        raise InputError(
            f"{opened.name} is not a run: give the texts with --train and --heldout; memorization is measured "
            "against held-out text."
        )
    beside = None if reference is None else open_model(reference)
    if beside is not None and beside.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(f"{beside.name} has another tokenizer than {opened.name}: give a reference with the same one.")
    times, repeated, canaries = None, 0.0, None
    sides = [None if path is None else _whole(opened, path) for path in (train, heldout)]
    if opened.run is not None and None in sides:
        prepared = own_text(opened)
        if heldout is None and prepared.validation.num_tokens < 2:
            raise InputError(f"{opened.name} has no validation split: give a text with --heldout.")
        if train is None:
            repeated = prepared.checkup.get("repeated_share", 0.0)
            times = readings(tokens_read(opened.run.rows(), opened.step or 0) / prepared.train.num_tokens, repeated)
            opened.run.check(CANARIES)
            canaries = planted_canaries(opened.run.folder)
        sides = [side or own for side, own in zip(sides, (prepared.train, prepared.validation), strict=True)]
    learned, unseen = (side for side in sides if side is not None)
    result = memorization(
        opened.model, learned, unseen, opened.tokenizer, canaries=canaries,
        reference=None if beside is None else beside.model, readings=times, repeated_share=repeated, seed=seed,
    ).to_dict()  # fmt: skip
    result |= {"model": opened.name, "step": opened.step, "train_text": train or "its training text",
               "heldout_text": heldout or "its validation text"}  # fmt: skip
    if opened.run is not None:
        try:
            own = links_of(opened.run)
            links = own + [("Memorization", "memorization.html")] * (("Memorization", "memorization.html") not in own)
            result["report"] = str(opened.run.write_report("memorization.html", memory_page(result, links)))
            opened.run.write_report("memorization.json", msgspec.json.format(msgspec.json.encode(result), indent=2))
        except OSError as error:
            result |= {"report": None, "report_problem": f"no report was written: {error}."}
    return Result(result)


def _whole(opened: LoadedModel, path: str) -> TokenStream:
    """All of a text, in the ids of the model."""
    from hornbook.setup.model import tokenizer_of
    from hornbook.setup.text import prepared_text

    settings = {"paths": [path], "tokenizer": tokenizer_of(opened), "split": "none"}
    part = prepared_text(from_table({"text": settings}, source="settings").text).train
    for shard in part.shards:
        opened.tokenizer.check_ids(shard, opened.model.shape.vocabulary)
    return part
