"""`hornbook.compare`: two models on the same text, and whether the difference could be chance."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, cast

import msgspec

from hornbook.commands.options import MODEL, add_settings, check_inputs, is_reading, text_settings, value
from hornbook.facts.errors import InputError
from hornbook.facts.printing import print_json
from hornbook.facts.tables import Result

if TYPE_CHECKING:
    from hornbook.setup.model import LoadedModel
    from hornbook.setup.text import Progress


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="A B", help=f"two models; with --vs, the runs of one recipe: {MODEL}"
    )
    parser.add_argument("--vs", nargs="+", default=[], metavar="B", help="the runs of another recipe, or their folder")
    parser.add_argument(
        "--on", nargs="+", default=[], metavar="TEXT", help="text (default: the runs' validation split)"
    )
    parser.add_argument("--step-a", type=value(int), metavar="N", help="the checkpoint of A at this step")
    parser.add_argument("--step-b", type=value(int), metavar="N", help="the checkpoint of B at this step")
    parser.add_argument("--out", metavar="FILE", help="with --vs: a picture of the runs, .png or .svg")
    add_settings(parser, is_reading)


def command(arguments: argparse.Namespace) -> None:
    models, vs, picture = arguments.models, arguments.vs, arguments.out
    if not vs and len(models) != 2:
        raise InputError(f"compare takes two models, not {len(models)}: A B, or with runs of recipes A... --vs B...")
    if vs and (arguments.step_a is not None or arguments.step_b is not None):
        raise InputError("--step-a and --step-b choose checkpoints of two models: name checkpoint folders beside --vs.")
    if picture and not vs:
        raise InputError("--out draws the runs of two recipes: A... --vs B...")
    if picture and not picture.endswith((".png", ".svg")):
        raise InputError(f"cannot draw {picture}: give a name that ends in .png or .svg.")
    group = next((model for model in models if _members([model]) != [model]), None)
    if group is not None and not vs:
        raise InputError(
            f"{group} is a folder of runs: name one of them, or compare recipes by all their runs, as "
            f"hornbook compare {quote(models[0])} --vs {quote(models[1])}."
        )
    a, b = (_members(models), _members(vs)) if vs else (models[:1], models[1:])
    check_inputs(*a, *b, texts=arguments.on, settings=text_settings(arguments))
    from hornbook.reporting.live import View

    with View().progress("scoring") as progress:
        result = compare(
            a if vs else a[0], b if vs else b[0], arguments.on, step_a=arguments.step_a, step_b=arguments.step_b,
            progress=progress, **text_settings(arguments),
        )  # fmt: skip
    if picture:
        from hornbook.facts.io import write_aside
        from hornbook.reporting.groups import runs_plot

        write_aside(Path(picture), runs_plot(_of_runs(result), picture.rpartition(".")[2]))
    if arguments.json:
        print_json(result)
    elif vs:
        from hornbook.reporting.groups import print_recipes

        print_recipes(result)
    else:
        from hornbook.reporting.terminal import print_comparison

        print_comparison(result)


def _members(names: Sequence[str]) -> list[str]:
    """The models named, with its runs for each folder of runs."""
    from hornbook.records.listing import runs_in

    return [run for name in names for run in (runs_in(name) or [name])]


def _of_runs(result: dict[str, Any]) -> dict[str, list[float]]:
    return {side.upper(): result[side]["bits_per_byte_of_runs"] for side in "ab"}


def compare(
    a: str | LoadedModel | Sequence[str], b: str | LoadedModel | Sequence[str], on: str | Sequence[str] = (), *,
    step_a: int | None = None, step_b: int | None = None, progress: Progress | None = None, **text_settings: Any,
) -> Result:  # fmt: skip
    """Score the texts `on` with both and return their difference, as `hornbook compare --json` prints it.

    Of two runs without a text: their validation split, where it is the same. `a` and `b` are models, or lists of two or
    more runs of a recipe each, or of their folders: then the interval covers the chance of seeds too. `text_settings`
    are field, separator and errors of the section [text]. Raises InputError when the scored text differs.
    """
    from hornbook.evaluation.comparison import compare as compare_reports
    from hornbook.evaluation.corpus import lost_share
    from hornbook.setup.evaluate_options import trained_on_share
    from hornbook.setup.model import open_model, settings_of
    from hornbook.setup.scoring import documents_for, score_documents, training_text

    texts = (on,) if isinstance(on, str) else tuple(on)
    if isinstance(a, list | tuple) or isinstance(b, list | tuple):
        sides = [[cast("str", side)] if not isinstance(side, list | tuple) else list(side) for side in (a, b)]
        return _recipes(*sides, texts=texts, progress=progress, text_settings=text_settings)
    pairs = ((cast("str | LoadedModel", a), step_a), (cast("str | LoadedModel", b), step_b))
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
    differing = differing_settings(*models)
    if differing is not None and differing.keys() == {"train.seed"}:
        result["verdict"] += " Only their seeds differ: this is noise between seeds, not of a recipe."
    return Result(text=scored[0][1], **result, differing_settings=differing)


def _recipes(
    a: Sequence[str], b: Sequence[str], *, texts: tuple[str, ...], progress: Progress | None,
    text_settings: dict[str, Any],
) -> Result:  # fmt: skip
    """The difference of two recipes from the runs of each; one model at a time is in memory."""
    from hornbook.evaluation.groups import compare_groups
    from hornbook.setup.model import open_model
    from hornbook.setup.scoring import documents_for, score_documents

    sides, settings, text = [], [], ""
    for names in (_members(a), _members(b)):
        reports, of_runs = [], []
        for name in names:
            opened = open_model(name)
            documents, text = documents_for(opened, texts, text_settings)
            reports.append(score_documents(opened, documents, text, progress=progress))
            of_runs.append(None if opened.run is None else _flat_settings(opened))
        sides.append(reports)
        settings.append(of_runs)
    result = compare_groups(*sides)
    known = [[values for values in side if values is not None] for side in settings]
    complete = all(len(values) == len(side) for values, side in zip(known, settings, strict=True))
    for side, values in zip("ab", known, strict=True):
        result[side]["differing_settings"] = sorted(_varying(values)) if complete else None
    return Result(text=text, **result, differing_settings=_between(*known) if complete else None)


def _varying(of_runs: Sequence[dict[str, Any]]) -> set[str]:
    """What differs among the runs of a side besides their seed."""
    names = {name for values in of_runs for name in values} - {"train.seed"}
    return {name for name in names if any(values.get(name) != of_runs[0].get(name) for values in of_runs)}


def _between(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Settings whose values on one side are not those on the other: [of a, of b], each a list where runs differ."""
    differing = {}
    for name in sorted({name for values in (*a, *b) for name in values} - {"train.seed"}):
        sides = [list({repr(values.get(name)): values.get(name) for values in side}.values()) for side in (a, b)]
        if sorted(map(repr, sides[0])) != sorted(map(repr, sides[1])):
            differing[name] = [side[0] if len(side) == 1 else side for side in sides]
    return differing


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
