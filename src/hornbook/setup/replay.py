"""A run made again: the settings of another and its decisions, so that nothing is left to decide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hornbook.engine.device import device
from hornbook.facts.settings import from_table, overridden, parse_table, to_toml
from hornbook.records.environment import environment as make_environment
from hornbook.records.run import Run
from hornbook.training.deciding import sentence
from hornbook.training.decisions import Decision, decisions_of, last_step


def replay(run: Run, folder: Path, *, steps: int | None = None, changes: Mapping[str, Any] | None = None) -> int:
    """Make a run of the same settings and decisions in `folder`, which has yet to begin and decides nothing else, ends
    after `steps`, or with `run`, and returns its last step. `changes` are settings: such as change no weights, or the
    seed."""
    table = parse_table(run.settings_toml, run.folder / "settings.toml")
    settings = from_table(overridden(table, changes or {}), source=str(run.folder))
    settings.train.early_stop = None  # it is among the decisions
    made = decisions_of(run.rows())
    last = last_step(settings, made) if steps is None else min(steps, last_step(settings, made))
    made = [decision for decision in made if decision.step < last]
    if last < last_step(settings, made):
        made.append(Decision(decision="stop", step=last, from_step=last))
    environment = run.environment
    request = {section: dict(values) for section, values in environment["request"].items() if section != "train"}
    request["train"] = {"steps": settings.train.steps}  # a length that is given leaves nothing to decide
    now = make_environment(threads=settings.train.threads or 1, device=device().type)
    copy = Run.create(folder, to_toml(settings), environment | now | {"request": request})
    for decision in made:
        copy.log({"event": "decision", "sentence": sentence(decision)} | msgspec.to_builtins(decision))
    return last
