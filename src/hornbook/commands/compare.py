"""`hornbook.compare`: two models on the same text, and whether the difference could be chance."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hornbook.commands.options import MODEL, add_settings, check_inputs, is_reading, text_settings, value
from hornbook.facts.errors import InputError
from hornbook.facts.printing import print_json
from hornbook.facts.tables import Result

if TYPE_CHECKING:
    from hornbook.setup.model import LoadedModel
    from hornbook.setup.text import Progress


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help=MODEL)
    parser.add_argument("b", metavar="B", help=MODEL)
    parser.add_argument(
        "--on", nargs="+", default=[], metavar="TEXT", help="text (default: the runs' validation split)"
    )
    parser.add_argument("--step-a", type=value(int), metavar="N", help="the checkpoint of A at this step")
    parser.add_argument("--step-b", type=value(int), metavar="N", help="the checkpoint of B at this step")
    add_settings(parser, is_reading)


def command(arguments: argparse.Namespace) -> None:
    check_inputs(arguments.a, arguments.b, texts=arguments.on, settings=text_settings(arguments))
    from hornbook.reporting.live import View

    with View().progress("scoring") as progress:
        result = compare(
            arguments.a, arguments.b, arguments.on, step_a=arguments.step_a, step_b=arguments.step_b,
            progress=progress, **text_settings(arguments),
        )  # fmt: skip
    if arguments.json:
        print_json(result)
    else:
        from hornbook.reporting.terminal import print_comparison

        print_comparison(result)


def compare(
    a: str | LoadedModel, b: str | LoadedModel, on: str | Sequence[str] = (), *, step_a: int | None = None,
    step_b: int | None = None, progress: Progress | None = None, **text_settings: Any,
) -> Result:  # fmt: skip
    """Score the texts `on` with both and return their difference, as `hornbook compare --json` prints it.

    Of two runs without a text: their validation split, where it is the same. `text_settings` are field, separator and
    errors of the section [text]. Raises InputError when the scored text differs.
    """
    from hornbook.evaluation.comparison import compare as compare_reports
    from hornbook.evaluation.corpus import lost_share
    from hornbook.setup.evaluate_options import trained_on_share
    from hornbook.setup.model import open_model, settings_of
    from hornbook.setup.scoring import documents_for, score_documents, training_text

    texts = (on,) if isinstance(on, str) else tuple(on)
    pairs = ((a, step_a), (b, step_b))
    models = [open_model(model, step=step) if isinstance(model, str) else model for model, step in pairs]
    for opened in models:
        if not texts and opened.run is None:
            raise InputError(
                f"name a text with --on: {opened.name} is not a run, so it has no validation split of its own."
            )
    scored = [documents_for(opened, texts, text_settings) for opened in models]
    a_side, b_side = ([(document.name, document.sha256) for document in documents] for documents, _ in scored)
    if not texts and a_side != b_side:
        raise InputError(
            f"the validation texts of {models[0].name} and {models[1].name} differ: name a text with --on."
        )
    reports = [score_documents(opened, *text, progress=progress) for opened, text in zip(models, scored, strict=True)]
    result = compare_reports(*reports)
    for side, opened, (documents, _) in zip("ab", models, scored, strict=True):
        result[side]["step"] = opened.step
        if lost := lost_share(documents):
            result[side]["lost_share"] = lost
        if opened.run is None or not opened.step:
            continue
        trained_on = training_text(opened)
        if texts:
            result[side]["trained_on_share"] = trained_on_share(trained_on, documents)
        elif trained_on is not None:
            best = bool(settings_of(opened.run).checkpoint.best)
            result[side] |= trained_on.leak | {"chosen_on_this_text": best}
    return Result(text=scored[0][1], **result, differing_settings=differing_settings(*models))


def differing_settings(a: LoadedModel, b: LoadedModel) -> dict[str, list[Any]] | None:
    """Settings of two runs that are not the same, by their dotted name: [of a, of b]. None where one is not a run."""
    if a.run is None or b.run is None:
        return None
    one, other = (_flat_settings(opened) for opened in (a, b))
    return {name: [one.get(name), other.get(name)] for name in one | other if one.get(name) != other.get(name)}


def _flat_settings(opened: LoadedModel) -> dict[str, Any]:
    """The settings of a run by their dotted names, and the step of the checkpoint."""
    from hornbook.setup.model import settings_of

    assert opened.run is not None
    table = msgspec.to_builtins(settings_of(opened.run))
    settings = {f"{section}.{name}": value for section, values in table.items() for name, value in values.items()}
    return settings | {"step": opened.step}
