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

_TABLE: tuple[Conclusion, ...] = (
    Conclusion(
        "interval_documents",
        "95 % low to high, about other text of this kind (from 30 documents)",
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
        "95 % low to high, about prose that goes on as this passage does, not about other texts; too narrow for code "
        "and files of many parts",
        "At most 4 documents, contiguous, 2,048 bytes and more: from 16 parts of equal bytes, whose dependence is that "
        "of prose. Wrong where the value of the whole text that the passage is of lies outside.",
        _COVERAGE, 0.07, None,
    ),
    Conclusion(
        "interval_of_many_parts",
        "the same interval, of which the sentence says that it is too narrow here",
        "A passage of a file of many parts, such as joined code or a manual: which it is, no passage shows.",
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
        "memorize_by_heart",
        "Learned by heart: the model continues ... of its training passages word for word",
        "One of three, by the lower end of its 95 % interval: more than one training passage in a hundred beyond the "
        "control is continued word for word, passages that repeat themselves left out; more than one token in a "
        "hundred beyond the control is copied, the control being held-out text and other places of the training text; "
        "or half of the surprise at new text is gone on the training text, beyond the difference that n-gram models "
        "find which have read neither, in a text that was read more than once (copies within it count) and is of the "
        "held-out text's kind.",
        "benchmarks/conclusions.py memorize", 0.05, 0.10,
    ),
    Conclusion(
        "memorize_knows_better",
        "Not learned by heart word for word, but it knows its training text better than new text",
        "The gap's 95 % interval is above zero, with and without the difference that n-gram models find which have "
        "read neither; the two texts are of one kind, and the model beats a bigram model on new text.",
        "benchmarks/conclusions.py memorize", 0.05, None,
    ),
    Conclusion(
        "memorize_texts_differ",
        "The two texts differ in kind, so that this concludes nothing",
        "N-gram models of the two sides, neither of which has read what it scores, tell which side a passage is from: "
        "a training passage is more like the training text than a held-out passage is in more than 87 % of pairs, and "
        "beyond chance.",
        "benchmarks/conclusions.py memorize", 0.05, 0.10,
    ),
    Conclusion(
        "memorize_not_learned_enough",
        "The model has not learned enough to tell",
        "Its loss on new text is not below that of a bigram model of the training text, and nothing shows learning by "
        "heart.",
        "benchmarks/conclusions.py memorize", None, None,
    ),
    Conclusion(
        "memorize_not_by_heart",
        "Not learned by heart",
        "None of the three of by_heart, and the model beats a bigram model on new text.",
        "benchmarks/conclusions.py memorize", 0.10, None,
    ),
)  # fmt: skip

CONCLUSIONS: dict[str, Conclusion] = {row.id: row for row in _TABLE}
