"""The two kinds of failure that a person sees, and how a sentence names the nearest valid word."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable


class InputError(ValueError):
    """What a person gave is wrong. The message is one sentence; the command line prints it and exits with 2."""


class SystemFailure(RuntimeError):
    """The world failed (disk full, out of memory). The message is one sentence; the command line exits with 1."""


class Interrupted(Exception):
    """A signal ended the work after everything was saved. The command line exits with 128 + the signal's number."""

    def __init__(self, sentence: str, signal_number: int) -> None:
        super().__init__(sentence)
        self.signal_number = signal_number


def in_words(error: Exception) -> str | None:
    """The sentence of a failure of the system or of memory; None for any other error, which is a fault of the program.

    >>> in_words(OSError(28, "No space left on device")), in_words(RuntimeError("shapes differ"))
    ('cannot continue: [Errno 28] No space left on device.', None)
    """
    is_short = any(words in str(error) for words in ("t allocate memory", "out of memory"))  # PyTorch has no own class
    if isinstance(error, MemoryError) or (is_short and isinstance(error, OSError | RuntimeError)):
        return "out of memory: try a smaller --model.width, --model.context or --train.microbatch."
    return f"cannot continue: {error}." if isinstance(error, OSError) else None


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """Return ' (did you mean "x"?)' for the nearest allowed word, or '' when none is near.

    >>> suggestion("--leraning-rate", ["--learning-rate", "--layers"])
    ' (did you mean "--learning-rate"?)'
    >>> suggestion("zzz", ["layers"])
    ''
    """
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""


def as_json(value: object) -> str:
    """A value as JSON writes it, on one line and not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
