"""Pages by templates: one HTML file each, no script, no address of anything outside, and text that stays text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from hornbook.facts.printing import printable
from hornbook.facts.units import probability_text

PAGES = {"Report": "report.html", "Evaluation": "evaluation.html", "Memorization": "memorization.html",
         "Inspection": "inspection.html"}  # fmt: skip
ALIKE = 3  # so many neighbouring rows that differ in nothing but their name become one


def page(template: str, **values: Any) -> str:
    """A template filled in. Values are text, whatever is in them; what HTML cannot hold becomes a visible sign.

    `title`, `eyebrow`, `facts` (texts below the title), `links` ((name, file) of the run's other pages).
    """
    return _environment().get_template(template).render(this=template, **values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("hornbook.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else "" if value is None else printable(value),
    )  # fmt: skip
    assert made.loader is not None
    style = Markup(made.loader.get_source(made, "page.css")[0])
    made.globals |= {"style": style, "lines": lines, "visible": visible, "one_line": one_line,
                     "token_facts": token_facts, "probability": probability_text}  # fmt: skip
    return made


def shown_as(text: object) -> str:
    """Text as HTML that shows it: no mark-up gets through.

    >>> shown_as('</pre><b title="x">' + chr(0))
    '&lt;/pre&gt;&lt;b title=&#34;x&#34;&gt;␀'
    """
    return str(escape(printable(text)))


def lines(text: object) -> Iterator[tuple[str, str]]:
    """The lines of a text, each with the marks of the line ends after it: several in a row are one.

    >>> list(lines("a\\n\\n\\nb"))
    [('a', '↵↵↵'), ('b', '')]
    """
    parts = re.split(r"(\n+)", printable(text))
    return zip(parts[::2], ["↵" * len(ends) for ends in parts[1::2]] + [""], strict=True)


def visible(text: object) -> str:
    """Blanks at the ends and tabs as signs."""
    return re.sub(r"^ +| +$", lambda spaces: "␣" * len(spaces[0]), str(text)).replace("\t", "⇥")


def one_line(text: object) -> str:
    return str(text).replace("\n", "↵")


def token_facts(item: Any) -> list[tuple[str, str]]:
    """Everything about a token, shown where it is pointed at or tapped."""
    facts = [("surprise", f"{item['nats']:.3f} nats")]
    if item.get("entropy_nats") is not None:
        facts.append(("expected", f"{item['entropy_nats']:.3f} nats"))
    facts += [("probability", probability_text(item["probability"])), ("rank", f"{item['rank']:,g}")]
    facts.append(("id", str(item["id"])))
    if item.get("own_logit_gradient") is not None:
        facts.append(("d loss / d logit", f"{item['own_logit_gradient']:+.2e}"))
    return facts


def collapsed(rows: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    """Neighbouring rows that are all alike but for their first cell as one, from ALIKE of them on.

    >>> collapsed([["8", "0"], ["16", "0"], ["32", "0"], ["64", "1"]])
    [['8 to 32', '0'], ['64', '1']]
    """
    kept: list[Sequence[str]] = []
    for rest, group in groupby(rows, key=lambda row: tuple(row[1:])):
        alike = list(group)
        kept += [[f"{alike[0][0]} to {alike[-1][0]}", *rest]] if len(alike) >= ALIKE and rest else alike
    return kept
