"""Hornbook teaches a language model to read your text, and tells the truth about it.

Each command is a function of the same name here. They are resolved when first used: `import hornbook` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "train": "hornbook.session.job",
    "prepare": "hornbook.session.texts",
    "evaluate": "hornbook.session.scores",
    "generate": "hornbook.session.writing",
    "inspect": "hornbook.session.looking",
    "compare": "hornbook.session.comparing",
    "export": "hornbook.session.exporting",
    "memorize": "hornbook.session.memory",
    "plan": "hornbook.session.costs",
    "sweep": "hornbook.session.sweep",
    "open_model": "hornbook.session.models",
    "Decoder": "hornbook.model.decoder",
    "GPTShape": "hornbook.facts.shape",
    "Settings": "hornbook.facts.settings",
    "Surprise": "hornbook.likelihood",
    "InputError": "hornbook.facts.errors",
    "WorldError": "hornbook.facts.errors",
}

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'hornbook' has no attribute '{name}'")
    from hornbook.facts.threads import let_waiting_threads_sleep

    let_waiting_threads_sleep()
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
