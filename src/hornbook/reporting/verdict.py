"""How a run stands, in one word, one tag and one sentence, from what is concluded elsewhere: nothing is judged here.

Of several conclusions the most serious one speaks; what only describes, such as the level of the loss, speaks last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from hornbook.reporting.words import Finding

Tag = Literal["good", "warning", "bad"]

# Conclusions by their id in facts/conclusions.toml, the most serious first.
_SERIOUS: tuple[tuple[str, Tag, str], ...] = (
    ("made_worse", "bad", "Worse than before"),
    ("by_heart", "bad", "Memorized"),
    ("worse_than_uniform", "bad", "Worse than guessing"),
    ("unstable", "bad", "Unstable"),
    ("not_best_used", "warning", "Trained too long"),
    ("apart", "warning", "The gap has opened"),
    ("gap_leaked", "warning", "Validation text leaked"),
    ("not_finite", "warning", "Unstable"),
    ("turned", "warning", "Past its best"),
    ("rising", "warning", "Getting worse"),
    ("above_baseline", "warning", "Behind n-gram counts"),
    ("texts_differ", "warning", "Texts differ"),
    ("few_looks", "warning", "Too early to tell"),
)
_SAID_BY = {"not_best_used": "turned"}  # whose sentence says what went wrong; its own says what to do
_ON_THE_WAY = ("running", "interrupted", "unfinished")
_FALLING = ("still_falling", "final_loss", "level")  # what a sound run says of itself


def tag_of(conclusion: str) -> Tag | None:
    """What a conclusion means by itself, by its id; None where it only describes."""
    return next((tag for name, tag, _ in _SERIOUS if name == conclusion), None)


class Verdict(NamedTuple):
    tag: Tag
    name: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


def of_run(
    findings: Sequence[Finding], *, state: str, step: int, steps: int | None, diverged: bool = False,
    diverging: bool = False, memorized: Mapping[str, Any] | None = None,
) -> Verdict:  # fmt: skip
    """The verdict on a run. `state`: "running", "interrupted", "unfinished" or a reason for which it has ended;
    `diverged`: its last losses were not finite, `diverging`: a health check said so; `memorized`: what `hornbook
    memorize` wrote of it."""
    said = {finding.id: finding.sentence for finding in reversed(findings)}
    if said.keys() & {"chosen_apart", "chosen_on_this_text"}:  # the best weights are used: what came later is no harm
        said = {name: sentence for name, sentence in said.items() if name not in ("turned", "rising", "apart")}
    if "still_falling" in said:  # whatever else it learns, it still learns what holds of new text
        said.pop("apart", None)
    one = Verdict("warning", "Too early to tell", "Nothing has been evaluated yet.")
    if diverged:
        one = Verdict("bad", "Diverged", "The loss is no longer a finite number: this model cannot be used.")
    elif memorized is not None and memorized.get("by_heart") is True:
        one = of_memorization(memorized)
    elif (serious := next((row for row in _SERIOUS if row[0] in said), None)) is not None:
        name = "Diverged" if diverging and serious[1] == "bad" else serious[2]
        one = Verdict(serious[1], name, said[_SAID_BY.get(serious[0], serious[0])])
    elif (sound := next((name for name in _FALLING if name in said), None)) is not None:
        level = said.get("level", "") if sound == "still_falling" else ""
        ended = state not in _ON_THE_WAY
        sentence = f"{level} {said[sound]}".strip() if ended or not level else level
        one = Verdict("good", "Healthy", sentence)
        if diverging:
            one = Verdict("warning", "Unstable", f"A health check found that the training diverges. {sentence}")
    if state not in _ON_THE_WAY:
        return one
    name = f"{'Going on, at' if state == 'running' else 'Interrupted at'} step {step:,}"
    name += f" of {steps:,}" if steps is not None else ""
    tag: Tag = "warning" if one.tag == "good" and state != "running" else one.tag
    return Verdict(tag, name, one.sentence if one.tag == "good" else str(one))


def of_memorization(result: Mapping[str, Any]) -> Verdict:
    """What `hornbook memorize` concluded, its first words being the name."""
    verdict = str(result["verdict"])
    name, colon, sentence = verdict.partition(": ")
    tag: Tag = "bad" if result["by_heart"] else "good" if result["learned_enough"] else "warning"
    if not colon or len(name) > 60:
        return Verdict(tag, "Memorized" if result["by_heart"] else "Memorization", verdict)
    return Verdict(tag, name, sentence[:1].upper() + sentence[1:])


def has_diverged(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last update was skipped, or the last evaluation gave no number."""
    steps = [row for row in rows if row.get("event") == "step"]
    looks = [row["probe_validation_loss_nats_per_token"] for row in rows
             if row.get("event") == "evaluation" and "probe_validation_loss_nats_per_token" in row]  # fmt: skip
    lost = bool(looks) and (looks[-1] is None or not math.isfinite(looks[-1]))
    return lost or bool(steps and steps[-1].get("gradient_norm", 0.0) is None)
