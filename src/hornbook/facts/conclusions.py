"""Every sentence that concludes something: its id, its rule, and how often it may be wrong. Each once.

A conclusion is a claim with a rate. `benchmarks/conclusions.py` holds each against cases whose answer is known, and
docs/conclusions.md sets the measured rate beside the one that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conclusion:
    """`false_at_most` is the share of cases in which it may be said although it is not so, `missing_at_most` the share
    of cases in which it may be left unsaid although it is so; None where that is not judged. `case` is the command
    `benchmarks/conclusions.py CASE` that measures both.
    """

    id: str
    says: str
    rule: str
    case: str
    false_at_most: float | None = 0.05
    missing_at_most: float | None = 0.10


_COVERAGE = "benchmarks/conclusions.py coverage"
_LEAKS = "benchmarks/conclusions.py leaks"

_TABLE: tuple[Conclusion, ...] = (
    Conclusion(
        "interval_documents",
        "95 % low to high, about other text of this kind; too narrow where a few documents are unlike the rest (from "
        "30 documents)",
        "At least 5 documents: CR2 with the degrees of freedom of Bell and McCaffrey. Wrong where the value of all "
        "documents of the kind lies outside.",
        _COVERAGE, 0.07, None,
    ),
    Conclusion(
        "interval_pieces",
        "95 % low to high, about this document as a whole if none of it had been read, not about others (from 24 "
        "pieces of 1 document)",
        "At least 8 pieces in all and 2 of each document, each at a random place of its stretch (the default split of "
        "fewer than 50 documents): Student's t within documents. Wrong where the value of the whole lies outside.",
        _COVERAGE, 0.07, None,
    ),
    Conclusion(
        "interval_passage",
        "95 % low to high, about prose that goes on as this passage does, not about other texts; too narrow for code, "
        "manuals, plays and files of many parts",
        "At most 4 documents, contiguous, 2,048 bytes and more: from 16 parts of equal bytes, whose dependence is that "
        "of prose. Wrong where the value of the whole text that the passage is of lies outside.",
        _COVERAGE, 0.07, None,
    ),
    Conclusion(
        "interval_of_unlike_parts",
        "the same intervals where the sentence says that they are too narrow",
        "A passage of plays, joined code or a manual, and documents of which a few are unlike the rest, such as tables "
        "among code: what was scored does not show that it is of this kind.",
        _COVERAGE, None, None,
    ),
    Conclusion(
        "beyond_chance",
        "beyond chance for these two models",
        "The paired interval of the difference, by the same rules, holds no 0; on one passage, of unknown kind, only "
        "where the difference exceeds 2.4 half-widths. Missing is judged on the default split of a long novel.",
        _COVERAGE, 0.07, 0.20,
    ),
    Conclusion(
        "leaked", "... % of the words of the validation text stand in the training text too",
        "Words in sequences of 8 that the training text has, within passages of at least 24 words with at most 16 "
        "others between two such sequences; said where the passages have 0.1 % of the words. The longest passage is "
        "named with its words, those in such sequences, the longest sequence in a row, and the documents that have it.",
        _LEAKS,
    ),
    Conclusion(
        "validation_leaked", "on all of its validation text, which is partly in its training text",
        "These passages have at least 1 % of the words; then no loss is expected in advance, nothing is concluded from "
        "n-gram baselines, and evaluate and compare warn.",
        _LEAKS,
    ),
    Conclusion(
        "duplicates", "... of ... training documents are duplicates of an earlier one (... exact, ... nearly)",
        "Exactly: the same SHA-256. Nearly: the same MinHash in at least half of 128 bins; the share of them, within "
        "0.15 of the share of 4-word sequences in common, is said with \"about\".",
        _LEAKS,
    ),
    Conclusion(
        "copies", "... validation documents are copies of training documents (... exact, ... nearly)",
        "As duplicates are found, across the two sides.", _LEAKS,
    ),
    Conclusion(
        "repeated", "The training text repeats itself: sequences of 8 words stand in it ... times on average",
        "Occurrences over different ones, by a sample of the sequences; said from 1.2 on.", _LEAKS,
    ),
    Conclusion(
        "trained_on", "... % of the bytes of this text stand in the text that the model was trained on",
        "Bytes of the tokens in spans of about 48 bytes that stand together in the training text; said from 1 % on.",
        _LEAKS,
    ),
)  # fmt: skip

CONCLUSIONS: dict[str, Conclusion] = {row.id: row for row in _TABLE}
