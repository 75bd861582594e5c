"""`hornbook train --seeds 3`: one recipe from several seeds, on one prepared text, in one group folder.

    group.json        what was asked for, and the summary of each seed that is finished
    seed-0/ seed-1/   the runs

Where no length was given, the first seed finds it and decides where its learning rate decays; the others have its
settings and its decisions, so that they differ in nothing but the seed. What is in group.json is not trained again: the
same `--out` goes on with the rest.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from hornbook.engine.launch import RESUME
from hornbook.facts.errors import InputError, Interrupted, SystemFailure
from hornbook.facts.io import pretty, write_aside
from hornbook.facts.settings import LENGTHS, Settings, from_table
from hornbook.facts.tables import Result
from hornbook.facts.units import parse_duration
from hornbook.planning.choose import given_length
from hornbook.records.run import GROUP, Run, default_out, is_run
from hornbook.reporting.live import View
from hornbook.setup.text import prepared_text, stem

FIRST = 0.9  # of its share of the time, for the first seed: the others have its steps, however long they take
SUMMARIZED = ("bits_per_byte", "validation_loss_nats_per_token")
Train = Callable[..., Result]


class Group(msgspec.Struct):
    """What group.json holds."""

    request: dict[str, Any]
    prepared: str  # the key of the text
    steps: int | None = None
    runs: dict[str, dict[str, Any]] = {}  # seed -> summary


def by_seeds(
    train: Train, request: Mapping[str, Any], count: int, *, out: Path | None, from_: str | None, view: View
) -> Result:
    """Train `count` seeds from that of the request on, and return their summaries with the spread among them."""
    wanted = from_table(request, source="settings")
    if count < 2:
        raise InputError(f"--seeds {count}: give 2 or more; one run needs no --seeds.")
    if "RANK" in os.environ:
        raise InputError("--seeds trains one run after the other: under torchrun, start a command for each --seed.")
    folder = out if out is not None else default_out(stem(wanted.text.paths))
    first, budget = wanted.train.seed, wanted.train.budget
    seeds = range(first, first + count)
    runs = group_of_runs(
        train, request, seeds, folder=folder, whole=folder, from_=from_, view=view,
        seconds=None if budget is None else parse_duration(budget, "the budget"),
    )  # fmt: skip
    return Result(run=str(folder), runs=runs, **in_total(runs))


def group_of_runs(
    train: Train, request: Mapping[str, Any], seeds: Sequence[int], *, folder: Path, whole: Path, from_: str | None,
    view: View, seconds: float | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The summaries of one recipe from each of `seeds`, in `folder`; `seconds` for those that are not finished yet.
    `whole` is the folder of the command, which goes on with all of it.

    Raises InputError where the folder holds something else, or a group that was begun with other settings or text.
    """
    begin, wanted = time.monotonic(), from_table(request, source="settings")
    group = opened(folder, request, wanted)
    left = [seed for seed in seeds if str(seed) not in group.runs]
    for seed in left:
        changes = {name: value for name, value in _dotted(request).items() if name != "train.budget"}
        run, more = folder / f"seed-{seed}", {"out": folder / f"seed-{seed}", "from_": from_}
        if group.steps is None and seconds is not None:
            share = (seconds - (time.monotonic() - begin)) / len(left) * (FIRST if len(seeds) > 1 else 1.0)
            changes["train.budget"] = f"{max(1.0, share):.0f}s"
        if group.runs and not is_run(run) and (seconds is not None or given_length(wanted) is None):
            from hornbook.setup.replay import replay

            first = Run.open(folder / f"seed-{next(iter(group.runs))}")
            with TemporaryDirectory(dir=folder, prefix=".") as aside:  # there with all decisions, or not at all
                replay(first, Path(aside) / "run", changes={"train.seed": seed})
                (Path(aside) / "run").rename(run)
        if is_run(run):  # a run knows its length; a budget is no part of what it is
            changes = {name: value for name, value in changes.items() if name not in LENGTHS_DOTTED}
        view.note(f"seed {seed} ({seeds.index(seed) + 1} of {len(seeds)})")
        try:
            own = View(quiet=view.console.quiet, verbose=view.verbose)
            summary = train(view=own, **more, **changes | {"train.seed": seed})
        except (Interrupted, SystemFailure) as error:
            done = f"{len(group.runs)} of {len(seeds)} seeds are finished"
            go_on = f"the same command with --out {shlex.quote(str(whole))} goes on"
            if isinstance(error, Interrupted):
                raise Interrupted(f"{done} and everything is saved: {go_on}", error.signal_number) from None
            happened, resume, _ = str(error).partition(RESUME)
            if not resume:
                raise
            raise SystemFailure(f"{happened}; {done}: {go_on}.") from None
        group.runs[str(seed)] = dict(summary)
        if group.steps is None:
            group.steps = summary["step"]
        write_aside(folder / GROUP, pretty(group))
    return [group.runs[str(seed)] for seed in seeds]


LENGTHS_DOTTED = {*(f"train.{name}" for name in LENGTHS), "train.budget"}


def opened(folder: Path, request: Mapping[str, Any], wanted: Settings) -> Group:
    """The group of a folder, begun where there is none."""
    asked = {name: value for name, value in _dotted(request).items() if name not in ("train.seed", "train.budget")}
    key = prepared_text(wanted.text).key
    if not (folder / GROUP).is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and is not a group of runs: give --out a fresh folder.")
        folder.mkdir(parents=True, exist_ok=True)
        group = Group(asked, key)
        write_aside(folder / GROUP, pretty(group))
        return group
    try:
        group = msgspec.json.decode((folder / GROUP).read_bytes(), type=Group)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InputError(f"{folder / GROUP} is damaged: put back a copy of it, or give --out a fresh folder.") from None
    names = asked.keys() | group.request.keys()
    changed = sorted(name for name in names if asked.get(name) != group.request.get(name))
    if changed:
        raise InputError(f"{folder} was begun with another {', '.join(changed)}: give --out a fresh folder.")
    if key != group.prepared:
        raise InputError(f"the text has changed since {folder} was begun: give --out a fresh folder.")
    return group


def _dotted(request: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, values in request.items() for name, value in values.items()}


def in_total(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over runs of one recipe, how they differ, and what comparing recipes would see with so many of each."""
    from hornbook.evaluation.groups import smallest_difference, spread

    total: dict[str, Any] = {"wall_seconds": sum(run["wall_seconds"] for run in runs)}
    for name in SUMMARIZED:
        values = [run[name] for run in runs if run.get(name) is not None]
        if values and len(values) == len(runs):
            total |= {name: sum(values) / len(values), f"{name}_of_runs": values}
            if len(values) > 1:
                total[f"{name}_standard_deviation"] = spread(values).deviation
    if "bits_per_byte_standard_deviation" in total:
        deviation = total["bits_per_byte_standard_deviation"]
        seen = smallest_difference([deviation, deviation], None)
        total["smallest_difference_seen"] = seen
        total["words"] = [
            f"{len(runs)} seeds: {total['bits_per_byte']:.4f} bits per byte on average, with a standard deviation of "
            f"{deviation:.4f} between seeds.",
            f"Against another recipe as noisy, 3 runs of each would show a difference of {seen['3']:.4f} on this text, "
            f"10 of each one of {seen['10']:.4f}: hornbook compare A... --vs B...",
        ]
    return total
