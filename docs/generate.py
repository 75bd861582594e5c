"""Writes docs/settings.md and docs/metrics.md from the facts they describe: python docs/generate.py"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hornbook.cli import build_parser
from hornbook.facts.metrics import METRICS
from hornbook.facts.settings import Settings, fields

HERE = Path(__file__).parent
OFF = ("separator", "early_stop", "price")  # None means: not done. Every other None is chosen automatically.
MADE = "<!-- Made by docs/generate.py. Do not edit. -->\n"


def settings_page() -> str:
    """Every setting, a table for each section."""
    sections = {field.name: field.type for field in msgspec.inspect.type_info(Settings).fields}
    flags = _flags()
    lines = [
        MADE, "# Settings\n",
        "A recipe is a TOML file of these, and so is the `settings.toml` of every run. On the command line each is "
        "`--section.name VALUE`. *Automatic* means chosen from the text, the machine and the time; what was chosen is "
        "printed and stands in `settings.toml`.",
    ]  # fmt: skip
    for name, struct in sections.items():
        lines += [f"\n## [{name}]\n", f"{struct.cls.__doc__}\n", "| setting | value | default | what it is |"]
        lines.append("|---|---|---|---|")
        kinds = {field.name: field.type for field in struct.fields}
        for field in (field for field in fields() if field.name.startswith(f"{name}.")):
            key = field.name.partition(".")[2]
            default = "automatic" if field.optional and key not in OFF else _value(field.default)
            short = "".join(f", `{flag}`" for flag in flags.get(field.name, []) if "." not in flag)
            lines.append(f"| `{key}`{short} | {_kind(kinds[key])} | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Every recorded or printed number."""
    lines = [
        MADE, "# Metrics\n",
        "Every number that Hornbook records or prints, by the name it has in `metrics.jsonl`, in reports and in "
        "`--json`. A number with a 95 % interval has it beside it as `<name>_interval_95`.\n",
        "| name | unit | better | what it is |", "|---|---|---|---|",
    ]  # fmt: skip
    for metric in METRICS.values():
        lines.append(f"| `{metric.name}` | {metric.unit or '-'} | {metric.better or '-'} | {metric.sentence} |")
    return "\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page}


def _flags() -> dict[str, list[str]]:
    """Setting -> its flags of `hornbook train`."""
    commands = next(action for action in build_parser()._actions if action.dest == "command").choices
    flags: dict[str, list[str]] = {}
    for action in commands["train"]._actions:
        flags.setdefault(action.dest, []).extend(action.option_strings)
    return flags


def _kind(kind: msgspec.inspect.Type) -> str:
    """A setting's type for people."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _kind(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return _kind(next(each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)))
    if isinstance(kind, msgspec.inspect.LiteralType):
        return "one of " + ", ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, msgspec.inspect.ListType):
        return "list of texts"
    if isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        name = "integer" if isinstance(kind, msgspec.inspect.IntType) else "number"
        limits = (("≥", kind.ge), (">", kind.gt), ("≤", kind.le), ("<", kind.lt))
        bounds = [f"{sign} {limit:,}" for sign, limit in limits if limit is not None and limit < 2**53]
        return name + (" " if bounds else "") + ", ".join(bounds)
    return "true or false" if isinstance(kind, msgspec.inspect.BoolType) else "text"


def _value(value: object) -> str:
    return "none" if value in (None, []) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
