"""Hornbook teaches a language model to read your text, and tells the truth about it.

Each command is a function of the same name here. They are resolved when first used: `import hornbook` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "train": "hornbook.commands.train",
    "prepare": "hornbook.commands.prepare",
    "evaluate": "hornbook.commands.evaluate",
    "generate": "hornbook.commands.generate",
    "inspect": "hornbook.commands.inspect",
    "compare": "hornbook.commands.compare",
    "export": "hornbook.commands.export",
    "memorize": "hornbook.commands.memorize",
    "plan": "hornbook.commands.plan",
    "sweep": "hornbook.commands.sweep",
    "prove": "hornbook.commands.prove",
    "runs": "hornbook.records.listing",
    "report": "hornbook.commands.report",
    "plot": "hornbook.commands.plot",
    "history": "hornbook.records.history",
    "dashboard": "hornbook.web.dashboard",
    "serve": "hornbook.web.serve",
    "open_model": "hornbook.setup.model",
    "Decoder": "hornbook.model.decoder",
    "GPTShape": "hornbook.facts.shape",
    "Settings": "hornbook.facts.settings",
    "Surprise": "hornbook.likelihood",
    "InputError": "hornbook.facts.errors",
    "SystemFailure": "hornbook.facts.errors",
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
