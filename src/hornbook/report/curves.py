"""What the two loss curves of a run say, in sentences that claim no more than the curves show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hornbook.facts.looks import Evaluation
from hornbook.facts.quantities import perplexity_text

Rows = Sequence[Mapping[str, Any]]

# A change below this is not worth a sentence: 0.02 nats is 2 % of perplexity, whatever the text and the tokenizer.
WORTH_SAYING_NATS = 0.02
# Few evaluations of a steep curve look noisier than they are: a move of this size is none of chance, whatever they say.
SURELY_NATS = 2.0
# Up to here hardly any of the text was read twice: the last step of one epoch may reach into the next.
READ_ONCE_EPOCHS = 1.05
PARTED = "from there on validation loss stays clearly further above training loss than at the start"


@dataclass(frozen=True)
class Curves:
    """The curves in numbers. Losses in nats per token, None where unknown.

    parted: from where on validation loss stays clearly further above training loss than at the start; None in the
    first epoch, where that says only that the two texts differ. noise: standard deviation of an evaluation around its
    neighbours; gap_noise: that of the gap. fall: by how much a straight line through the last quarter falls, and its
    standard error. steady: each of the last five evaluations is below the one before. repeated:
    more than a few tokens were read twice. above_best: by how much both of the last two evaluations lie above the best
    one before them; 0 where it is one of them. by_heart, turned_upward: see `read_curves`.
    """

    first: Evaluation
    best: Evaluation
    last: Evaluation
    noise: float | None
    gap_noise: float | None
    fall: tuple[float, float] | None
    steady: bool
    parted: Evaluation | None
    train_at_best: float | None
    train_loss: float | None
    epochs: float
    repeated: bool
    above_best: float
    turned_upward: bool
    by_heart: bool


def evaluations(rows: Rows) -> list[Evaluation]:
    """Evaluations in order of step; of two at one step (before and after a resume) the later one counts."""
    by_step = {
        row["step"]: Evaluation(
            step=row["step"],
            tokens=row["tokens"],
            validation_loss=row["probe_validation_loss_nats_per_token"],
            train_loss=row.get("probe_train_loss_nats_per_token"),
            gap=row.get("probe_generalization_gap_bits_per_byte"),
            copied=row.get("copied_share"),
            windows=tuple(row.get("probe_validation_window_nats", ())),
            train_windows=tuple(row.get("probe_train_window_nats", ())),
        )
        for row in rows
        if row.get("event") == "evaluation" and row.get("probe_validation_loss_nats_per_token") is not None
    }
    return [by_step[step] for step in sorted(by_step)]


def train_losses(rows: Rows) -> tuple[list[int], list[float]]:
    """Tokens seen and training loss of each step; a step whose loss was not finite is left out."""
    key = "train_loss_nats_per_token"
    steps = [row for row in rows if row.get("event") == "step" and row.get(key) is not None]
    return [row["tokens"] for row in steps], [row[key] for row in steps]


def read_curves(rows: Rows, *, tokens_per_epoch: int) -> Curves | None:
    """Judge the curves; None without an evaluation.

    turned_upward: the last two evaluations, both after the best one, lie above it by more than 0.02 nats and more than
    five times the noise: a flat curve that only wavers is called so in about one run of a hundred.
    by_heart: the text was seen more than once, and either validation turned upward and the training loss ends at half
    of it or less, or the training loss ends under 1 nat and more than 1 nat below it.
    """
    points = evaluations(rows)
    if not points:
        return None
    best, last = min(points, key=lambda point: point.validation_loss), points[-1]
    noise, gaps = _noise(points, [point.validation_loss for point in points]), _gaps(points)
    after = [point for point in points[-2:] if point.step > best.step]
    above = min(point.validation_loss for point in after) - best.validation_loss if len(after) == 2 else 0.0
    turned = noise is not None and above > max(WORTH_SAYING_NATS, min(5 * noise, SURELY_NATS))
    train = _train_loss(rows, last, points)
    epochs = max((row["tokens"] for row in rows if "tokens" in row), default=0) / tokens_per_epoch
    repeated = epochs > READ_ONCE_EPOCHS
    by_heart = False
    if train is not None and repeated:
        gap = last.validation_loss - train
        by_heart = (turned and train <= last.validation_loss / 2) or (train < 1 < gap)
    return Curves(
        first=points[0],
        best=best,
        last=last,
        noise=noise,
        gap_noise=_noise(points, gaps) if gaps else None,
        fall=_fall(points, noise),
        steady=len(points) >= 5 and all(b.validation_loss < a.validation_loss for a, b in pairwise(points[-5:])),
        parted=_parting(points) if repeated else None,
        train_at_best=_train_loss(rows, best, points),
        train_loss=train,
        epochs=epochs,
        repeated=repeated,
        above_best=above,
        turned_upward=turned,
        by_heart=by_heart,
    )


def curves_in_words(
    rows: Rows, *, tokens_per_epoch: int, counting: Mapping[str, float] | None = None, used_step: int | None = None
) -> list[str]:
    """What the curves say, the most important first. Empty when there is no evaluation.

    `counting`: validation losses of models that only count, by name, "uniform" among them, in nats per token.
    `used_step`: whose weights the run is scored and used with.
    """
    curves = read_curves(rows, tokens_per_epoch=tokens_per_epoch)
    if curves is None:
        return []
    said = [
        _level(curves), _shape(curves, tokens_per_epoch), _used(curves, used_step), _gap(curves, tokens_per_epoch),
        _against_counting(curves, counting or {}),
    ]  # fmt: skip
    lost = sum(row.get("event") == "step" and row.get("train_loss_nats_per_token", 0) is None for row in rows)
    if lost:
        said.append(f"At {lost:,} step{'s' * (lost > 1)} the training loss was not a finite number.")
    return [sentence for sentence in said if sentence]


def only_memorizing(rows: Rows, tokens_per_epoch: int) -> str | None:
    """One sentence where what is still learned holds for the training text only; None where nothing shows that."""
    curves = read_curves(rows, tokens_per_epoch=tokens_per_epoch)
    if curves is None or not (curves.turned_upward and curves.repeated):
        return None
    train, before = curves.train_loss, curves.train_at_best
    if train is None or before is None or before - train <= WORTH_SAYING_NATS:
        return None
    return (
        f"validation loss was lowest {_when(curves.best, tokens_per_epoch)} and rises while training loss falls: "
        "further epochs only memorize (--train.early_stop 2 stops such a run)."
    )


def _level(curves: Curves) -> str:
    first, last = curves.first.validation_loss, curves.last.validation_loss
    ends = f"{last:.2f} nats per token (perplexity {perplexity_text(last)})"
    if curves.first.step == curves.last.step:
        return f"Validation loss is {ends}; it was measured once."
    if last > first and (curves.train_loss or 0) > (curves.first.train_loss or first):
        return f"Training made the model worse: validation loss rose from {first:.2f} to {ends}."
    verb = "fell" if last < first else "rose"
    return f"Validation loss {verb} from {first:.2f} (perplexity {perplexity_text(first)}) to {ends}."


def _shape(curves: Curves, tokens_per_epoch: int) -> str:
    best, last = curves.best, curves.last
    if curves.turned_upward:
        rise = last.validation_loss - best.validation_loss
        turn = (
            f"It was lowest, {best.validation_loss:.2f}, {_when(best, tokens_per_epoch)}, and has risen by {rise:.2f}"
        )
        train, before = curves.train_loss, curves.train_at_best
        if train is None or before is None:
            return f"{turn} nats since."
        if before - train > WORTH_SAYING_NATS:
            only = ": what the model still learned was true of the training text only" if curves.repeated else ""
            return f"{turn} nats since, while training loss went on falling from {before:.2f} to {train:.2f}{only}."
        return f"{turn} nats since, but training loss did not fall meanwhile: look for an unstable step."
    if curves.fall is None:
        return "" if curves.first.step == last.step else "There are too few evaluations to say how the curve bends."
    fall, error = curves.fall
    if fall > WORTH_SAYING_NATS and (curves.steady or fall > 3 * error):
        tail = f"by {fall:.2f} nats over the last quarter"
        return f"It was still falling at the end, {tail}: a longer run would probably end lower."
    if abs(fall) + 2 * error <= 2 * WORTH_SAYING_NATS:
        return "It hardly moved over the last quarter: more of the same training would bring little."
    return "Over the last quarter it moved no more than it wavers from one evaluation to the next."


def _used(curves: Curves, step: int | None) -> str:
    """Whose weights are used, where others were better by more than three evaluations' noise."""
    best, noise = curves.best, SURELY_NATS if curves.noise is None else curves.noise
    clear = max(WORTH_SAYING_NATS, min(3 * noise, SURELY_NATS))
    if step is None or step <= best.step or best.step == curves.first.step or curves.above_best <= clear:
        return ""
    return (
        f"The run is scored and used with the weights of step {step:,}, its last, not with those of step {best.step:,} "
        f"with the lowest validation loss ({best.validation_loss:.2f}): next time --checkpoint.best true keeps and "
        "uses the best, and --train.early_stop 2 ends soon after it."
    )


def _gap(curves: Curves, tokens_per_epoch: int) -> str:
    train, validation = curves.train_loss, curves.last.validation_loss
    if train is None:
        return ""
    gap = validation - train
    if not curves.repeated:
        once = f"The run read its text {'at most' if curves.epochs <= 1 else 'about'} once, so nothing can have been"
        apart = f": that training loss ends {gap:.2f} nats below validation loss means that the two texts differ"
        return f"{once} learned by heart through repetition{apart if gap > _clear(curves.gap_noise) else ''}."
    seen = f"{curves.epochs:.1f} times"
    parting = (
        "" if curves.parted is None else f"The two curves part {_when(curves.parted, tokens_per_epoch)}: {PARTED}. "
    )
    if curves.by_heart:
        return (
            f"The model is learning the text by heart: having read it {seen}, it is surprised by {train:.2f} nats per "
            f"token of it, and by {validation:.2f} per token of text it has not read. "
            f"{parting}More text, fewer epochs or dropout would help."
        )
    # Two texts differ in difficulty even for a model that has learned nothing: that difference is no sign of anything.
    start = 0.0 if curves.first.train_loss is None else curves.first.validation_loss - curves.first.train_loss
    if gap - start <= _clear(curves.gap_noise):
        together = f"Training loss ({train:.2f}) and validation loss have not clearly moved apart"
        return f"{together} after reading the text {seen}: no sign of learning by heart."
    return (
        f"Training loss ended at {train:.2f}, {gap:.2f} nats below validation loss, after reading the text {seen}: "
        f"part of what was learned holds for the training text only. {parting}".rstrip()
    )


def _against_counting(curves: Curves, counting: Mapping[str, float]) -> str:
    if not counting:
        return ""
    best, last = (point.validation_loss for point in (curves.best, curves.last))
    name = min(counting, key=lambda each: counting[each])
    table = f"the best of the models that only count (the {name}'s {counting[name]:.2f} nats)"
    if best < counting[name] - WORTH_SAYING_NATS:
        short = f"At its best ({best:.2f} nats) it was below {table}, at the end it is not."
    else:
        short = f"It did not get below {table}: nothing shows yet that it learned more than short sequences of tokens."
    if last < counting[name] - WORTH_SAYING_NATS:
        return f"It ends below {table}: the model has learned more than short sequences of tokens."
    if last > counting["uniform"] + WORTH_SAYING_NATS:
        guess = f"It ends worse than a blind guess among all tokens ({counting['uniform']:.2f} nats)"
        return f"{guess}: the model is surer of wrong tokens than it may be. {short}"
    return short


def _when(point: Evaluation, tokens_per_epoch: int) -> str:
    return f"at step {point.step:,} (epoch {point.tokens / tokens_per_epoch:.1f})"


def _clear(noise: float | None) -> float:
    """A difference of four noisy losses beyond chance, in nats: six is three of theirs."""
    return max(2 * WORTH_SAYING_NATS, min(6 * (noise or 0), SURELY_NATS))


def _gaps(points: list[Evaluation]) -> list[float]:
    """Validation loss above the training probe's; empty where one is unknown."""
    gaps = [point.validation_loss - point.train_loss for point in points if point.train_loss is not None]
    return gaps if len(gaps) == len(points) else []


def _parting(points: list[Evaluation]) -> Evaluation | None:
    """The first evaluation from which on the gap is clearly above the first one's; None where it is not at the end."""
    gaps = _gaps(points)
    if not gaps:
        return None
    clear = _clear(_noise(points, gaps))
    apart = [gap - gaps[0] > clear for gap in gaps]
    return points[len(apart) - apart[::-1].index(False)] if apart[-1] else None


def _noise(points: list[Evaluation], values: Sequence[float]) -> float | None:
    """Standard deviation of one of `values`, from how far each lies off the line between its neighbours, over the
    logarithm of the tokens; None under 4 evaluations.

    Taken from the later half, where a curve bends least; what it still bends counts as noise, on the safe side. The
    factor makes up for few residuals: with three of them a lucky draw is often half of the truth.
    """
    if len(points) < 4:
        return None
    late = [(math.log1p(point.tokens), value) for point, value in zip(points, values, strict=True)]
    if len(late) > 4:
        late = late[1:]  # the fall from fresh weights is no noise
    late, squares = late[-max(5, len(late) // 2) :], []
    for (before, low), (at, value), (after, high) in zip(late, late[1:], late[2:], strict=False):
        weight = (at - before) / (after - before)
        squares.append((value - low * (1 - weight) - high * weight) ** 2 / (1 + weight**2 + (1 - weight) ** 2))
    return math.sqrt(math.fsum(squares) / len(squares)) * (1 + 3 / len(squares))


def _fall(points: list[Evaluation], noise: float | None) -> tuple[float, float] | None:
    """Fall of the least-squares line over the last quarter (three evaluations at least), and its standard error."""
    if noise is None:
        return None
    start = points[-1].tokens - (points[-1].tokens - points[0].tokens) / 4
    late = points[-max(3, sum(point.tokens >= start for point in points)) :]
    mean = math.fsum(point.tokens for point in late) / len(late)
    spread = math.fsum((point.tokens - mean) ** 2 for point in late)
    slope = math.fsum((point.tokens - mean) * point.validation_loss for point in late) / spread
    span = late[-1].tokens - late[0].tokens
    return -slope * span, noise * span / math.sqrt(spread)


def _train_loss(rows: Rows, point: Evaluation, points: list[Evaluation]) -> float | None:
    """The probe's training loss at an evaluation; without a probe, the mean of the steps around it (5 % of the run)."""
    if point.train_loss is not None:
        return point.train_loss
    tokens, losses = train_losses(rows)
    reach = (points[-1].tokens - points[0].tokens) / 20
    near = [loss for seen, loss in zip(tokens, losses, strict=True) if abs(seen - point.tokens) <= reach]
    return math.fsum(near) / len(near) if near else None
