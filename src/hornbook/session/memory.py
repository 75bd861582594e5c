"""`hornbook.memorize`: what has a model learned by heart, against a held-out control?"""

from __future__ import annotations

from typing import Any

import msgspec

from hornbook.data.shards import Part
from hornbook.evaluation.memorization import memorization
from hornbook.facts.by_heart import readings
from hornbook.facts.errors import InputError
from hornbook.facts.settings import from_table
from hornbook.report.memory import memory_page
from hornbook.session.decisions import tokens_read
from hornbook.session.models import Opened, open_model
from hornbook.session.scores import own_text
from hornbook.session.start import tokenizer_of
from hornbook.session.texts import prepared_text
from hornbook.text.canaries import CANARIES, planted_canaries


def memorize(
    model: str, *, train: str | None = None, heldout: str | None = None, reference: str | None = None,
    step: int | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure what `model` knows of `train` by heart, against `heldout`; of a run, its own two sides.

    `reference` is a model with the same tokenizer, trained alike, that has read neither text. Returns what `--json`
    prints. Of a run, the numbers and the page are written to its reports as well. Raises InputError when only one of
    the texts is given, or none for a model that is not a run, and when the reference has another tokenizer.
    """
    opened = open_model(model, step=step)
    if (train is None) != (heldout is None):
        raise InputError("give both --train and --heldout: what was learned is measured against what was not.")
    beside = None if reference is None else open_model(reference)
    if beside is not None and beside.tokenizer.fingerprint != opened.tokenizer.fingerprint:
        raise InputError(f"{beside.name} has another tokenizer than {opened.name}: give a reference with the same one.")
    times, repeated = None, 0.0
    if train is not None and heldout is not None:
        sides, names = (_whole(opened, train), _whole(opened, heldout)), (train, heldout)
    elif opened.run is not None:
        prepared = own_text(opened)
        sides, names = (prepared.train, prepared.validation), ("its training text", "its validation text")
        if prepared.validation.num_tokens < 2:
            raise InputError(f"{opened.name} has no validation side: give --train and --heldout.")
        repeated = prepared.checkup.get("repeated_share", 0.0)
        times = readings(tokens_read(opened.run.rows(), opened.step or 0) / prepared.train.num_tokens, repeated)
    else:
        raise InputError(f"{opened.name} is not a run: give the texts with --train and --heldout.")
    canaries = None
    if opened.run is not None and train is None:
        opened.run.check(CANARIES)
        canaries = planted_canaries(opened.run.folder)
    found = memorization(
        opened.model, *sides, opened.tokenizer, canaries=canaries, reference=None if beside is None else beside.model,
        readings=times, repeated_share=repeated, seed=seed,
    ).to_dict()  # fmt: skip
    result = found | {"model": opened.name, "step": opened.step, "train_text": names[0], "heldout_text": names[1]}
    if opened.run is not None:
        result["report"] = str(opened.run.write_report("memorization.html", memory_page(result)))
        opened.run.write_report("memorization.json", msgspec.json.format(msgspec.json.encode(result), indent=2))
    return result


def _whole(opened: Opened, path: str) -> Part:
    """All of a text, in the ids of the model."""
    settings = {"paths": [path], "tokenizer": tokenizer_of(opened), "split": "none"}
    return prepared_text(from_table({"text": settings}, source="settings").text).train
