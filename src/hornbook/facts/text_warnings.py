"""Warnings beside a loss: its text leaked into the training text, or the tokenizer loses some of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAKED = 0.01  # of a text that stands in the training text; 24 novels have under 0.02 % in each other
MOSTLY_LEAKED = 0.1  # from here on a loss is that of text that was trained on
POOR_FIT = 0.75  # of the bytes a token has in its own text: the same text takes a third more tokens
LEAK_NUMBERS = ("leaked_share", "leaked_share_with_changes", "validation_leaked")


def leaked_in_words(numbers: Mapping[str, Any]) -> str:
    """
    >>> leaked_in_words({"leaked_share": 0.597, "leaked_share_with_changes": 0.689})
    '59.7% of the validation text (by words) is also in the training text (68.9% with changed words in between)'
    """
    exact, whole = (f"{numbers[name]:.1%}" for name in LEAK_NUMBERS[:2])
    changed = "" if exact == whole else f" ({whole} with changed words in between)"
    return f"{exact} of the validation text (by words) is also in the training text{changed}"


def leak_warning(numbers: Mapping[str, Any]) -> str | None:
    """What is said beside the loss of a validation text that leaked; None where it did not or that is unknown.

    >>> leak_warning({"leaked_share": 0.0, "leaked_share_with_changes": 0.0, "validation_leaked": False})
    """
    if not numbers.get("validation_leaked"):
        return None
    return f"{leaked_in_words(numbers)}: its loss and interval are not those of unseen text"


def loss_of(numbers: Mapping[str, Any]) -> str:
    """Of which text a run's final loss is, by LEAK_NUMBERS.

    >>> loss_of({"validation_leaked": True}), loss_of({})
    ('of its validation text, part of which is in its training text', 'of the text it has not seen')
    """
    leaked = numbers.get("validation_leaked")
    return "of its validation text, part of which is in its training text" if leaked else "of the text it has not seen"


def lost_warning(numbers: Mapping[str, Any]) -> str | None:
    """What is said beside numbers whose `lost_share` is above 0; None where nothing is lost.

    >>> lost_warning({"lost_share": 0.25})
    'the tokenizer loses 25% of the bytes of this text, so its bits per byte cannot be compared with others'
    >>> lost_warning({})
    """
    share = 100 * (numbers.get("lost_share") or 0.0)
    if not share:
        return None
    beside = "its bits per byte cannot be compared with others"
    return f"the tokenizer loses {share:.2g}% of the bytes of this text, so {beside}"


def tokenizer_fit(bytes_per_token: float, own: float | None) -> tuple[str, str | None]:
    """How well the tokenizer of given weights fits a new text, and a warning where that is badly. `own`: the bytes per
    token of the text that it was made for, None where that is unknown.

    >>> tokenizer_fit(4.0, 4.2)
    ('the tokenizer has 4.00 bytes per token in this text, 4.20 in its own', None)
    >>> tokenizer_fit(2.1, 4.2)[1].partition(", so")[0]
    'the tokenizer fits this text badly: it takes 2.0 times the tokens of one that fits'
    """
    sentence = f"the tokenizer has {bytes_per_token:.2f} bytes per token in this text"
    if own is None:
        return sentence, None
    warning = (
        f"the tokenizer fits this text badly: it takes {own / bytes_per_token:.1f} times the tokens of one that fits, "
        "so a context holds less; without --from a new one is made"
    )
    return f"{sentence}, {own:.2f} in its own", warning if bytes_per_token < POOR_FIT * own else None
