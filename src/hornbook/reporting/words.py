"""What a run says of itself, in sentences that claim no more than its curves show.

A lowest point is said to lie between two evaluations, and the loss on all of the validation text is never mixed with
the probe's. docs/conclusions.md has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hornbook.facts.by_heart import ByHeart, by_heart
from hornbook.facts.looks import WORTH_SAYING_NATS, Evaluation, mean_of_windows, noise_of, worse
from hornbook.facts.text_warnings import MOSTLY_LEAKED
from hornbook.facts.units import counted, perplexity_text
from hornbook.reporting.changes import Change, fall_at_end, is_apart
from hornbook.reporting.curves import Curves, Rows, read_curves

TOGETHER_NATS = 0.1  # a gap that has grown by less for sure is none to speak of
# `surprise_ratio`: 1.1 is reached by 61 % of 105 pairs of prose, verse, speech and code, and by 1.4 % of 220 pairs
# of passages of one text.
TEXTS_DIFFER, SURELY_DIFFER, FIRST_GAP_NATS = 1.1, 1.6, 0.2
SHOWN_BATCHES = 3  # in which numbers went wrong, the last ones
NOTICED_REPEATS = 0.02  # share of a text that stands in it again, from which on it is said


class Finding(NamedTuple):
    """A sentence that concludes something, and its id in `facts.conclusions`."""

    id: str
    sentence: str


class _Text(NamedTuple):
    """What is known of the text besides the curves: see `conclusions`."""

    repeated_share: float
    leaked_share: float
    surprise_ratio: float | None


def conclusions(
    rows: Rows, *, tokens_per_epoch: int, counting: Mapping[str, float] | None = None, used_step: int | None = None,
    final_loss: float | None = None, repeated_share: float = 0.0, leaked_share: float = 0.0,
    surprise_ratio: float | None = None, outside_probe: bool = False,
) -> list[Finding]:  # fmt: skip
    """What the curves say, the most important first. Empty when there is no evaluation.

    `final_loss`: on all of the validation text, or on what lies `outside_probe`, with the weights of `used_step`, those
    that the run is used with.
    `counting`: the losses of the n-gram baselines on the same text, by name, "uniform" among them. All in nats per
    token. `repeated_share`: see `read_curves`. `leaked_share`: of the validation text that stands in the training text.
    `surprise_ratio`: see `evaluation.baselines`; from 1.1 on the two texts may be of different kinds.
    """
    curves = read_curves(rows, tokens_per_epoch=tokens_per_epoch, repeated_share=repeated_share)
    if curves is None:
        return []
    findings = [
        _final(curves, final_loss, used_step, outside_probe), _level(curves), _shape(curves), _used(curves, used_step),
    ]  # fmt: skip
    decisions = [row["sentence"] for row in rows if row.get("event") == "decision" and not row.get("as_planned")]
    findings += [Finding("decision", sentence[0].upper() + sentence[1:]) for sentence in decisions]
    findings += _gap(curves, _Text(repeated_share, leaked_share, surprise_ratio))
    findings += _against_baselines(final_loss, counting or {})
    lost = sum(row.get("event") == "step" and row.get("train_loss_nats_per_token", 0) is None for row in rows)
    if lost:
        findings.append(Finding("not_finite", f"At {counted(lost, 'step')} the training loss was not finite."))
    shown = [row for row in rows if row.get("event") == "warning" and row.get("windows")]
    findings += [Finding("batch_text", f"Step {row['step']:,}: {row['sentence']}.") for row in shown[-SHOWN_BATCHES:]]
    return [finding for finding in findings if finding is not None]


def only_memorizing(rows: Rows, tokens_per_epoch: int, *, repeated_share: float = 0.0) -> str | None:
    """One sentence where what is still learned does not generalize to the validation text; None where nothing shows
    that."""
    curves = read_curves(rows, tokens_per_epoch=tokens_per_epoch, repeated_share=repeated_share)
    if curves is None or not (curves.repeated and curves.turned_upward):
        return None
    train, before = curves.train_loss(curves.last), curves.train_loss(curves.best)
    if train is None or before is None or before - train <= WORTH_SAYING_NATS:
        return None
    return (
        f"probe validation loss was lowest {_around_best(curves)} and has risen since, while training loss falls: what "
        "is learned now does not generalize to the validation text (--train.early_stop 2 stops such a run)."
    )


def _final(curves: Curves, loss: float | None, used_step: int | None, outside_probe: bool) -> Finding | None:
    if loss is None:
        return None
    where = "the validation text outside the probe" if outside_probe else "all of the validation text"
    other = "" if used_step in (None, curves.last.step) else f", with the weights of step {used_step:,}"
    sentence = f"Loss on {where} is {loss:.2f} nats per token (perplexity {perplexity_text(loss)}){other}."
    return Finding("final_loss", sentence)


def _level(curves: Curves) -> Finding:
    first, last = curves.first.validation_loss, curves.last.validation_loss
    ends = f"{last:.2f} (perplexity {perplexity_text(last)})"
    if curves.first.step == curves.last.step:
        return Finding("level", f"Probe validation loss is {ends}; it was measured only once.")
    train, risen = curves.train_loss(curves.last), worse(curves.last, curves.first, noise_of(curves.points) or 0.0)
    if risen and (train or 0) > (curves.first.train_loss or first):
        sentence = f"Training made the model worse: probe validation loss rose from {first:.2f} to {ends}."
        return Finding("made_worse", sentence)
    verb, begins = "fell" if last < first else "rose", f"{first:.2f} (perplexity {perplexity_text(first)})"
    return Finding("level", f"Probe validation loss {verb} from {begins} to {ends}.")


def _shape(curves: Curves) -> Finding | None:
    best, last, fall = curves.best, curves.last, fall_at_end(curves.points)
    if curves.turned_upward:
        turn = (
            f"It was lowest ({best.validation_loss:.2f}) {_around_best(curves)} and has risen by "
            f"{last.validation_loss - best.validation_loss:.2f} nats since"
        )
        train, before = curves.train_loss(last), curves.train_loss(best)
        if train is None or before is None:
            return Finding("turned", f"{turn}.")
        if before - train <= WORTH_SAYING_NATS:
            return Finding(
                "unstable", f"{turn}, but training loss did not fall meanwhile: look for a training instability."
            )
        return Finding(
            "turned",
            f"{turn}, while training loss kept falling from {before:.2f} to {train:.2f}: what was learned since "
            "does not generalize to the validation text.",
        )
    if fall is None:
        if curves.first.step == last.step:
            return None
        return Finding("few_looks", "There are too few evaluations to see a trend.")
    if fall.is_rise:  # of what fell
        fell = _learning_rate_fell(curves.rows)
        also = ", while the learning rate decayed: whether a longer run would end lower is unknown" * fell
        sentence = f"It was still falling at the end, by {fall.nats:.2f} nats over the last quarter{also}."
        return Finding("still_falling", sentence)
    if Change(-fall.nats, fall.half).is_rise:
        return Finding("rising", f"It rose by {-fall.nats:.2f} nats over the last quarter.")
    if abs(fall.nats) + fall.half <= 2 * WORTH_SAYING_NATS:
        return Finding("flat", "It hardly changed over the last quarter.")
    noise = f"{-fall.nats:+.2f} ± {fall.half:.2f} nats"
    return Finding("no_trend", f"Over the last quarter there is no trend beyond the noise ({noise}).")


def _used(curves: Curves, step: int | None) -> Finding | None:
    best = curves.best.step
    if step is None or step <= best or not curves.turned_upward:
        return None
    return Finding(
        "not_best_used",
        f"The run is evaluated and used with the weights of step {step:,}. Those with the lowest probe loss, of step "
        f"{best:,}, are kept too (--step {best}): --checkpoint.best true uses them, and --train.early_stop 2 stops "
        "soon after them.",
    )


def _gap(curves: Curves, text: _Text) -> list[Finding]:
    train, ratio = curves.train_loss(curves.last), text.surprise_ratio
    if train is None:
        return []
    if not curves.repeated:
        once = f"The run saw its text {'at most' if curves.epochs <= 1 else 'about'} once"
        return [Finding("read_once", f"{once}, so nothing can have been memorized through repetition.")]
    gap = f"the gap of {curves.last.validation_loss - train:.2f} nats to training loss says nothing about memorization."
    if text.leaked_share >= MOSTLY_LEAKED:
        leaked = f"{text.leaked_share:.0%} of the validation text is also in the training text"
        return [Finding("gap_leaked", f"{leaked}: {gap}")]
    if ratio is not None and _differ(ratio, curves.gap.first):
        differs = f"differs in kind from the training text (its token bigrams are {ratio - 1:.0%} more surprising)"
        return [Finding("texts_differ", f"The validation text {differs}: {gap}")]
    moved = _moved(curves, train, text)
    if moved is None:
        return []
    if curves.gap.opened is None or moved.id not in ("by_heart", "apart"):
        return [moved]
    span = _span(*curves.gap.opened, curves.tokens_per_epoch)
    return [moved, Finding("parted", f"The gap widens beyond the noise {span}.")]


def _moved(curves: Curves, train: float, text: _Text) -> Finding | None:
    """Whether the two losses of a text that was seen again moved apart."""
    validation, growth = curves.last.validation_loss, curves.gap.growth
    after = f"after {curves.epochs:.1f} epochs"
    if text.repeated_share >= NOTICED_REPEATS:
        after += f" ({text.repeated_share:.0%} of the text is repeated in it: seen about {curves.readings:.0f} times)"
    verdict = _by_heart(curves, train, texts_differ=None if text.surprise_ratio is None else False)
    if verdict.holds:
        return Finding(
            "by_heart",
            f"The model has probably memorized training text: {after}, its loss on the probe is {train:.2f} nats per "
            f"token of the training text and {validation:.2f} of the validation text. Not measured: "
            f"{verdict.lacking} (measured by hornbook memorize).",
        )
    if growth is None:
        return None
    if is_apart(growth):
        return Finding(
            "apart",
            f"On the probe, training loss ended at {train:.2f}, {validation - train:.2f} nats below validation loss, "
            f"{after}: part of what was learned does not generalize to the validation text.",
        )
    if growth.nats + growth.half <= TOGETHER_NATS:
        return Finding(
            "together",
            f"The gap between training ({train:.2f}) and validation loss ({validation:.2f}) on the probe has not grown "
            f"since the first pass, {after}: no sign of memorization.",
        )
    return Finding(
        "apart_unknown",
        f"The noise of the probe hides whether training and validation loss move apart: {after}, the gap has grown "
        f"by {growth.nats:.2f} ± {growth.half:.2f} nats.",
    )


def _differ(surprise_ratio: float, first_gap: float | None) -> bool:
    """Whether the two texts are of different kinds: by counts, and by the gap that was there before anything was read
    twice. Of a few pages a model has learned too little by then, and counts of pairs vary: they must be clear."""
    has_gap = first_gap is not None and first_gap >= FIRST_GAP_NATS
    return surprise_ratio >= (TEXTS_DIFFER if has_gap else SURELY_DIFFER)


def _by_heart(curves: Curves, train: float, *, texts_differ: bool | None) -> ByHeart:
    """By the one rule, with what a run knows: the two losses on the probe, and how far chance reaches in them."""
    new, old = mean_of_windows(curves.best.windows), mean_of_windows(curves.last.train_windows)
    low = None if new is None or old is None or new[0] <= new[1] else 1 - (old[0] + old[1]) / (new[0] - new[1])
    return by_heart(
        train_loss=train, new_loss=curves.best.validation_loss, readings=curves.readings, share_low=low,
        texts_differ=texts_differ,
    )  # fmt: skip


def _against_baselines(final_loss: float | None, counting: Mapping[str, float]) -> list[Finding]:
    """The loss on all of the validation text beside the n-gram baselines on the same text. Being below them proves
    nothing about order or grammar: smoothing costs a baseline more than a model of the same counts."""
    if not counting or final_loss is None:
        return []
    findings, final = [], f"The final loss of {final_loss:.2f} is"
    if final_loss > counting["uniform"] + WORTH_SAYING_NATS:
        guessing = f"worse than uniform guessing ({counting['uniform']:.2f}): the model is confidently wrong"
        findings.append(Finding("worse_than_uniform", f"{final} {guessing}."))
    name = min(counting, key=lambda baseline: counting[baseline])
    below = counting[name] - final_loss
    best = f"the best n-gram baseline on the same text ({name}, {counting[name]:.2f})"
    if below > WORTH_SAYING_NATS:
        compared = Finding("below_baseline", f"{final} below {best}.")
    elif below < -WORTH_SAYING_NATS:
        todo = "train longer while the loss falls, and give it more text once it no longer does"
        compared = Finding(
            "above_baseline",
            f"{final} above {best}: n-gram counts predict the text better, as is usual after a short training; {todo}.",
        )
    else:
        compared = Finding("equals_baseline", f"{final} about equal to {best}.")
    return [*findings, compared]


def _around_best(curves: Curves) -> str:
    before, after = curves.beside_best
    return _span(before or curves.best, after or curves.best, curves.tokens_per_epoch)


def _span(before: Evaluation, after: Evaluation, tokens_per_epoch: int) -> str:
    epochs = [f"{point.tokens / tokens_per_epoch:.1f}" for point in (before, after)]
    return f"between step {before.step:,} and step {after.step:,} (epochs {epochs[0]} to {epochs[1]})"


def _learning_rate_fell(rows: Rows) -> bool:
    """Whether it fell by more than a tenth over the last quarter of the steps."""
    rates = [rate for row in rows if row.get("event") == "step" and (rate := row.get("learning_rate")) is not None]
    return bool(rates) and rates[-1] < 0.9 * max(rates[-max(1, len(rates) // 4) :])
