"""The names by which a setting is read: its own, what other trainers call it, and what it was called before."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.printing import print


class Field(msgspec.Struct, frozen=True):
    """One setting as the command line, Python and the documentation need it."""

    name: str  # dotted
    type: Any  # without None
    optional: bool
    default: Any
    description: str
    unit: str
    aliases: tuple[str, ...]
    was: str

    @property
    def key(self) -> str:
        return self.name.partition(".")[2]


def read_names(fields: Iterable[Field]) -> dict[str, Field]:
    """Every name -> its setting: the dotted one, the last part of that where no other setting has it, and the rest."""
    fields = tuple(fields)
    keys = Counter(field.key for field in fields)
    names = {}
    for field in fields:
        for name in filter(None, (field.key, *field.aliases, field.was)):
            names[f"{field.name.partition('.')[0]}.{name}"] = field
            if keys[name] <= (name == field.key):
                names[name] = field
    return names


def note_if_renamed(given: str, field: Field, source: str = "") -> None:
    """Say on stderr what a setting is called now, where `given` is what it was called before."""
    name = given.removeprefix("--").replace("-", "_")
    if field.was and name.rpartition(".")[2] == field.was:
        print(f"hornbook: {source}{given} is now {'--' * given.startswith('--')}{field.name}.", file=sys.stderr)


def by_dotted_names(changes: Mapping[str, Any], names: Mapping[str, Field]) -> dict[str, Any]:
    """Settings by any name -> by their dotted ones; a dotted name that is not known stays. Raises InputError for
    another that is not, with the nearest, and for two names of one setting."""
    dotted: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in names and "." not in name:
            from hornbook.facts.elsewhere import ELSEWHERE

            elsewhere = re.sub(r"--([\w.-]+)", lambda flag: flag[1].replace("-", "_"), ELSEWHERE.get(name, ""))
            why = f": {elsewhere}" if elsewhere else suggestion(name, names)
            raise InputError(f'there is no setting "{name}"{why}.')
        now = names[name].name if name in names else name
        if now in dotted:
            raise InputError(f"{now} is given under two names, of which {name} is one.")
        if name in names:
            note_if_renamed(name, names[name])
        dotted[now] = value
    return dotted


def by_present_names(
    table: Mapping[str, Any], names: Mapping[str, Field], *, source: str, note: bool = False
) -> dict[str, Any]:
    """Nested tables with the present name for each other one. `note` says so of one of before."""
    present = dict(table)
    for section, values in table.items():
        if isinstance(values, Mapping):
            present[section] = {}
            for key, value in values.items():
                field = names.get(f"{section}.{key}")
                now = key if field is None else field.key
                if now in present[section] or (now != key and now in values):
                    raise InputError(f"{source}: {section}.{key} is {section}.{now}, which is given too.")
                if note and field is not None:
                    note_if_renamed(f"{section}.{key}", field, f"{source}: ")
                present[section][now] = value
    return present
