"""`hornbook.memorize`: what has a model learned by heart, against a held-out control?"""

from __future__ import annotations

from hornbook.data.shards import Part
from hornbook.evaluation.memorization import Memorization, memorization
from hornbook.facts.errors import InputError
from hornbook.facts.settings import from_table, read_table
from hornbook.session.models import Opened, open_model
from hornbook.session.start import tokenizer_of
from hornbook.session.texts import prepared_text


def memorize(
    model: str, *, train: str | None = None, heldout: str | None = None, step: int | None = None, seed: int = 0
) -> Memorization:
    """Measure what `model` knows of `train` by heart, against `heldout`; of a run, its own two sides.

    Raises InputError when only one of the texts is given, or none for a model that is not a run.
    """
    opened = open_model(model, step=step)
    if (train is None) != (heldout is None):
        raise InputError("give both --train and --heldout: what was learned is measured against what was not.")
    if train is not None and heldout is not None:
        sides = _whole(opened, train), _whole(opened, heldout)
    elif opened.run is not None:
        text = from_table(read_table(opened.run.folder / "settings.toml"), source="settings.toml").text
        prepared = prepared_text(text)
        sides = prepared.train, prepared.validation
        if prepared.validation.num_tokens < 2:
            raise InputError(f"{opened.name} has no validation side: give --train and --heldout.")
    else:
        raise InputError(f"{opened.name} is not a run: give the texts with --train and --heldout.")
    return memorization(opened.model, *sides, opened.tokenizer, seed=seed)


def _whole(opened: Opened, path: str) -> Part:
    """All of a text, in the ids of the model."""
    settings = {"paths": [path], "tokenizer": tokenizer_of(opened), "split": "none"}
    return prepared_text(from_table({"text": settings}, source="settings").text).train
