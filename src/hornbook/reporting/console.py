"""Consoles that take strings as they are: no markup, no emoji codes, no control sequences in them is obeyed."""

from __future__ import annotations

from typing import Any

from hornbook.facts.printing import printable


def console(*, stderr: bool = False, quiet: bool = False) -> Any:
    """A rich console. What is to have colours is given as rich.text.Text, of what is `printable`."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options | {"markup": False, "emoji": False})

    return PlainConsole(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=True)
