"""Writes docs/settings.md, docs/metrics.md, docs/conclusions.md, the published runs of docs/cost.md and the
stub of the package:
python docs/generate.py"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

import hornbook
from hornbook.commands.options import is_reading
from hornbook.facts.accelerators import lookup
from hornbook.facts.conclusions import conclusions
from hornbook.facts.metrics import METRICS
from hornbook.facts.names import Field
from hornbook.facts.settings import OFF, Settings, fields, names
from hornbook.facts.units import format_count
from hornbook.planning.budget import implied_utilisation

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks"))
from conclusions import bound  # noqa: E402
from utilisation import RUNS, run_flops, utilisation  # noqa: E402

MADE = "<!-- Made by docs/generate.py. Do not edit. -->\n"


def settings_page() -> str:
    """Every setting, a table for each section."""
    sections = {field.name: field.type for field in msgspec.inspect.type_info(Settings).fields}
    lines = [
        MADE, "# Settings\n",
        "A recipe is a TOML file of these, and so is the `settings.toml` of every run. On the command line each is "
        "`--section.name VALUE`, in Python `**{\"section.name\": value}`; where no other setting has its name, "
        "`--name VALUE` and `name=value` are read too, and so are the names in the last column, by which other "
        "trainers call it. Hyphens are underscores. A switch is `--name` and `--no-name`. *Automatic* means chosen "
        "from the text, the machine and the time; what was chosen is printed and stands in `settings.toml`.",
    ]  # fmt: skip
    for name, struct in sections.items():
        lines += [
            f"\n## [{name}]\n",
            f"{struct.cls.__doc__}\n",
            "| setting | value | default | what it is | also read |",
        ]
        lines.append("|---|---|---|---|---|")
        kinds = {field.name: field.type for field in struct.fields}
        for field in (field for field in fields() if field.name.startswith(f"{name}.")):
            default = "automatic" if field.optional and field.name not in OFF else _value(field.default)
            also = ", ".join(f"`{alias}`" for alias in field.aliases)
            also += f"{', ' * bool(also)}`{field.was}` (its name before)" if field.was else ""
            alone = "" if field.key in names() else f" (`{field.name}`)"
            unit = f" ({field.unit})" if field.unit else ""
            value = f"{_kind(kinds[field.key])}{unit}"
            lines.append(f"| `{field.key}`{alone} | {value} | {default} | {field.description} | {also} |")
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
        share = utilisation(accelerator, without_family=run.family)
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
    measured: dict[str, list[str]] = {}
    above: list[str] = []
    for path in sorted((HERE.parent / "benchmarks" / "results" / "conclusions").glob("*.json")):
        for name, rates in json.loads(path.read_text(encoding="utf-8")).get("rates", {}).items():
            for rate in rates:
                share = rate["wrong"] / max(1, rate["tried"])
                allowed = None if rate.get("beside") else _allowed(name, rate["what"])  # beside what is claimed
                is_above = allowed is not None and share > allowed
                row = f"| {rate['what']} | {rate['wrong']:,} of {rate['tried']:,} | {share:.1%} "
                row += f"| {bound(rate['wrong'], rate['tried'])[1]:.1%}{', **above what is allowed**' * is_above} |"
                measured.setdefault(name, []).append(row)
                if is_above:
                    above.append(f"[{name}](#{name.replace(' ', '-')}): {rate['what']}, {share:.1%} of {allowed:.1%}")
    lines = [
        MADE, "# Conclusions\n",
        "Every sentence that concludes something, the rule by which it is said, how often it may be wrong, and how "
        "often it was on cases whose answer is known (`python benchmarks/conclusions.py CASE`). The last column is the "
        "upper end of the exact 95 % interval of the rate (Clopper and Pearson 1934): few cases show little, 0 of 5 is "
        "compatible with half of all. Where draws are counted in thousands they are of the same few texts or runs, of "
        "which the interval says nothing.\n",
        "Measured above what is allowed:\n", *(f"- {row}" for row in above),
    ]  # fmt: skip
    for row in conclusions().values():
        limits = [("said wrongly", row.false_at_most), ("missing", row.missing_at_most)]
        rates = ", ".join(f"{what} in at most {rate:.1%}" for what, rate in limits if rate is not None)
        lines += [f"\n## {row.id}\n", f"*{row.says}*\n", f"{row.rule}\n"]
        if not rates and row.id not in measured:
            lines.append("It states what was measured, and has no rate.")
            continue
        lines.append(
            f"Allowed: {rates or 'no rate'}. Measured by `{row.case}`{':' if row.id in measured else ': not yet.'}"
        )
        if row.id in measured:
            lines += ["\n| cases | wrong | rate | at most |", "|---|---|---|---|", *measured[row.id]]
    return "\n".join(lines) + "\n"


MISSING = ("missing", "not said", "not seen", "missed")


def _allowed(name: str, what: str) -> float | None:
    """The rate that a conclusion may have on such cases: of being said wrongly, or of missing."""
    row = conclusions().get(name)
    if row is None:
        return None
    return row.missing_at_most if any(word in what for word in MISSING) else row.false_at_most


WITH_SETTINGS: dict[str, Callable[[str], bool]] = {  # functions that take settings as keywords, and which
    "train": lambda name: True,
    "plan": lambda name: True,
    "sweep": lambda name: name.startswith(("text.", "optimizer.")) or name == "train.seed",
    "prepare": lambda name: name.startswith("text."),
    "evaluate": is_reading,
    "compare": is_reading,
}
INTERNAL = ("view", "started")  # arguments that only the command line gives


def stub() -> str:
    """What an editor shows of `hornbook`: its names, and the settings among the keywords of its functions."""
    imports = {"from typing import Any, Literal", "from collections.abc import Callable, Sequence"}
    functions = []
    for name, place in hornbook._PLACES.items():
        if name in WITH_SETTINGS:
            functions.append(_function(getattr(hornbook, name), imports))
        else:
            imports.add(f"from {place} import {name} as {name}")
    names = "".join(f'    "{name}",\n' for name in hornbook.__all__)
    header = ["# Made by docs/generate.py. Do not edit.", *sorted(imports)]
    return "\n".join([*header, f"\n__version__: str\n__all__ = [\n{names}]\n", *functions])


def _function(function: Callable[..., Any], imports: set[str]) -> str:
    """A function with its settings before **; where its types come from is added to `imports`."""
    signature = inspect.signature(function)
    parameters = {name: arg for name, arg in signature.parameters.items() if name not in INTERNAL}
    settings = [
        inspect.Parameter(field.key, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=_annotation(field))
        for field in fields()
        if WITH_SETTINGS[function.__name__](field.name) and field.key in names() and field.key not in parameters
    ]
    *own, rest = parameters.values()
    shown = signature.replace(parameters=[*own, *(arg for arg in settings if arg.name != "paths"), rest])
    text, places = str(shown).replace("Ellipsis", "..."), _places(function)
    for quoted in {str(arg.annotation) for arg in shown.parameters.values()} | {str(shown.return_annotation)}:
        text = text.replace(f"{quoted!r}", quoted)
        for word in re.findall(r"[A-Za-z]\w+", quoted):
            if word in places and places[word].startswith(("hornbook", "pathlib", "collections.abc")):
                imports.add(f"from {places[word]} import {word}")
    text = text.replace("Progress |", "Callable[[int, int], None] |")
    text = re.sub(r"(?:(?<=^\()|(?<=, ))(?=\*{0,2}\w+: )", "\n    ", text).replace(", \n", ",\n")
    return f"def {function.__name__}{text}:\n" + textwrap.indent(f'"""{inspect.getdoc(function)}\n"""', "    ") + "\n"


def _places(function: Callable[..., Any]) -> dict[str, str]:
    """Where the module of a function imports each name from, for its types alone too."""
    tree = ast.parse(inspect.getsource(sys.modules[function.__module__]))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in froms for alias in node.names}


def _annotation(field: Field) -> str:
    plain = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
    name = plain.__name__ if isinstance(plain, type) and not get_args(plain) else str(plain).replace("typing.", "")
    return name + " | None" * field.optional


PAGES = {
    "settings.md": settings_page,
    "metrics.md": metrics_page,
    "conclusions.md": conclusions_page,
    "cost.md": cost_page,
}


def _kind(kind: msgspec.inspect.Type) -> str:
    """A setting's type for people."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _kind(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return _kind(next(option for option in kind.types if not isinstance(option, msgspec.inspect.NoneType)))
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


STUB = HERE.parent / "src" / "hornbook" / "__init__.pyi"

if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
