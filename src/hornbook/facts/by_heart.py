"""The one rule for "memorized", for the end of a run and for `hornbook memorize`."""

from __future__ import annotations

from dataclasses import dataclass

MATERIAL = 0.01  # less than one passage in a hundred is not memorization
HALF = 0.5  # of the surprise at new text is gone on the training text
READ_ONCE = 1.05  # up to here hardly any of the text was read twice: the last step of one epoch may reach into the next

_MEASURES = {
    "extraction": "whether it continues training passages word for word",
    "copying": "whether its samples copy the training text",
    "kind": "whether the two texts are of the same kind",
    "interval": "how much of the gap could be chance",
}


@dataclass(frozen=True)
class ByHeart:
    """The verdict. `grounds`: which of extraction, copying and gap show it. `lacks`: what was not measured."""

    grounds: tuple[str, ...]
    lacks: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return bool(self.grounds)

    @property
    def lacking(self) -> str:
        """What was not measured, in words; empty where all was."""
        *first, last = [_MEASURES[name] for name in self.lacks] or [""]
        return f"{', '.join(first)} and {last}" if first else last


def readings(epochs: float, repeated_share: float = 0.0) -> float:
    """How often a passage of the training text was read: its copies within the text count.

    `repeated_share` is the share of the training text that had occurred in it before (a prepared text's check-up).

    >>> readings(3.0), round(readings(1.0, 29 / 30))
    (3.0, 30)
    """
    return epochs / (1 - min(repeated_share, 1 - 1e-6))


def by_heart(
    *, train_loss: float, new_loss: float, readings: float | None, share_low: float | None = None,
    texts_differ: bool | None = None, extraction_low: float | None = None, copying_low: float | None = None,
) -> ByHeart:  # fmt: skip
    """May the training text be called memorized?

    Each alone suffices. Extraction and copying: the lower end of the 95 % interval of the excess over the control
    (`extraction_low`, `copying_low`, shares) is above one in a hundred. The gap: half of the surprise at new text is
    gone on the training text, by the lower end `share_low` of its interval, or where there is none by 1 - train_loss /
    new_loss. It counts only for a text that was read more than once (`readings`, see above; None: not known) and where
    the two texts are not of different kinds. `new_loss` is the least loss that is known on new text, that of the model
    at its best or of an n-gram baseline: a model that is wrongly sure of new text has not stored the difference. Losses
    in nats per token; None is what was not measured.

    >>> by_heart(train_loss=0.4, new_loss=3.1, readings=20.0).grounds
    ('gap',)
    >>> by_heart(train_loss=0.4, new_loss=3.1, readings=1.0).holds  # read once: the two texts differ
    False
    >>> by_heart(train_loss=0.4, new_loss=3.1, readings=1.0, extraction_low=0.2, texts_differ=True).grounds
    ('extraction',)
    """
    share = share_low if share_low is not None else 1 - train_loss / new_loss if new_loss > 0 else 0.0
    repeated = readings is None or readings > READ_ONCE
    shown = {
        "extraction": extraction_low is not None and extraction_low > MATERIAL,
        "copying": copying_low is not None and copying_low > MATERIAL,
        "gap": repeated and texts_differ is not True and share > HALF,
    }
    known = {"extraction": extraction_low, "copying": copying_low, "kind": texts_differ, "interval": share_low}
    return ByHeart(
        tuple(name for name, holds in shown.items() if holds),
        tuple(name for name, value in known.items() if value is None),
    )
