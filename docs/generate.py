"""Writes docs/settings.md, docs/metrics.md, docs/conclusions.md and the published runs of docs/cost.md:
python docs/generate.py"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from hornbook.cli import build_parser
from hornbook.facts.accelerators import lookup
from hornbook.facts.conclusions import conclusions
from hornbook.facts.metrics import METRICS
from hornbook.facts.settings import OFF, Settings, fields
from hornbook.facts.units import format_count
from hornbook.planning.budget import implied_utilisation, run_flops, utilisation
from hornbook.planning.published import RUNS

HERE = Path(__file__).parent
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
            default = "automatic" if field.optional and field.name not in OFF else _value(field.default)
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


def cost_page() -> str:
    """The page with its table made anew."""
    before, _, rest = (HERE / "cost.md").read_text(encoding="utf-8").partition("| run | on |")
    return before + "\n".join(published_rows()) + "\n\n" + rest.partition("\n\n")[2]


def published_rows() -> list[str]:
    """The published runs, each predicted from the others: its own family is left out of the fit."""
    rows = [
        "| run | on | parameters | tokens | hours | used | predicted hours (90 %) | factor | inside | source |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in RUNS:
        accelerator = lookup(run.accelerator)[1]
        used = implied_utilisation(run_flops(run), run.accelerator_hours, accelerator) or 1.0
        share = utilisation(accelerator, run.parameters, without_family=run.family)
        assert share is not None  # every published run is in the domain of its own fit
        hours = [run.accelerator_hours * used / part for part in (share.central, share.high, share.low)]
        central, low, high = (f"{float(f'{number:.2g}'):,.10g}" for number in hours)
        rows.append(
            f"| {run.name} | {run.accelerator} | {format_count(run.parameters)} | "
            f"{format_count(run.tokens)} | {run.accelerator_hours:,.10g} | {used:.0%} | {central} ({low} to {high}) | "
            f"{max(used / share.central, share.central / used):.2f} | {'yes' if share.contains(used) else 'no'} | "
            f"{run.source} ({run.hours_are}) |"
        )
    return rows


def conclusions_page() -> str:
    """Every conclusion with its rule, and the measured rates of results/conclusions beside the allowed ones."""
    found: dict[str, list[str]] = {}
    for path in sorted((HERE.parent / "benchmarks" / "results" / "conclusions").glob("*.json")):
        for name, rates in json.loads(path.read_text(encoding="utf-8")).get("rates", {}).items():
            for rate in rates:
                share = rate["wrong"] / max(1, rate["tried"])
                row = f"| {rate['what']} | {rate['wrong']:,} of {rate['tried']:,} | {share:.1%} |"
                found.setdefault(name, []).append(row)
    lines = [
        MADE, "# Conclusions\n",
        "Every sentence that concludes something, the rule by which it is said, how often it may be wrong, and how "
        "often it was on cases whose answer is known (`python benchmarks/conclusions.py CASE`).",
    ]  # fmt: skip
    for row in conclusions().values():
        allowed = [("said wrongly", row.false_at_most), ("missing", row.missing_at_most)]
        rates = ", ".join(f"{what} in at most {rate:.1%}" for what, rate in allowed if rate is not None)
        lines += [f"\n## {row.id}\n", f"*{row.says}*\n", f"{row.rule}\n"]
        if not rates and row.id not in found:
            lines.append("It states what was measured, and has no rate.")
            continue
        lines.append(
            f"Allowed: {rates or 'no rate'}. Measured by `{row.case}`{':' if row.id in found else ': not yet.'}"
        )
        if row.id in found:
            lines += ["\n| cases | wrong | rate |", "|---|---|---|", *found[row.id]]
    return "\n".join(lines) + "\n"


PAGES = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "conclusions.md": conclusions_page,
    "cost.md": cost_page,
}


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
