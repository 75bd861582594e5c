"""`hornbook.sweep`: a ladder of small runs on one text, the scaling law they tell, and what it says of a larger run."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from hornbook.facts.errors import InputError
from hornbook.facts.quantities import format_count, parse_count, parse_duration
from hornbook.facts.settings import from_table, overridden
from hornbook.facts.shape import GPTShape
from hornbook.planning.choose import LADDER, Machine
from hornbook.planning.ladder import Point, fit
from hornbook.session.job import train
from hornbook.session.live import View
from hornbook.session.meter import this_device
from hornbook.session.models import device
from hornbook.session.texts import prepared_text

SIZES = 4
RUN_SECONDS = 12.0  # of each run besides its steps: evaluations, samples, scores, its report
SHORTER = ((0, 2), (0, 4), (1, 2))  # which size is also trained on which part of the tokens
CONTEXT, BATCH = 128, 16
FEW_STEPS, MOST_TIMES = 200, 2.0  # from where on the law is said to be in doubt


def sweep(
    *texts: str, budget: str = "10m", size: str | None = None, tokens: str | None = None,
    out: str | Path = "sweep", view: View | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train a ladder of sizes on `texts` within `budget`, fit the law, and say what `size` on `tokens` would reach.

    `changes` are settings by their dotted names, for all runs. By default `size` is four times the largest of the
    ladder, on its tokens. Raises InputError for bad input.
    """
    view = view or View(quiet=True)
    of_text = {name: value for name, value in changes.items() if name.startswith("text.")}
    wanted = from_table(overridden({}, {"text.paths": list(texts)} | of_text), source="settings")
    prepared = prepared_text(wanted.text)
    vocabulary, available = prepared.tokenizer.vocabulary, prepared.train.num_tokens
    shapes = [
        GPTShape(family="qwen3", layers=layers, width=width, heads=max(1, width // 32), context=CONTEXT,
                 vocabulary=vocabulary)
        for width, layers in LADDER[:SIZES]
    ]  # fmt: skip
    left = parse_duration(budget, "the budget") - RUN_SECONDS * (SIZES + len(SHORTER))
    if left <= 0:
        raise InputError(f"a sweep of {SIZES + len(SHORTER)} runs needs more than {budget}: give it a few minutes.")
    cost = sum(s.flops_per_token() for s in shapes) + sum(shapes[i].flops_per_token() / part for i, part in SHORTER)
    longest = int(left * Machine.of(this_device(device())).flops_per_second / cost)
    longest = min(longest, 4 * available)  # beyond four epochs repetition, not size, decides
    jobs = [(i, part) for part in (4, 2, 1) for i in range(SIZES) if part == 1 or (i, part) in SHORTER]
    others = {name: value for name, value in changes.items() if name not in of_text}
    points, rows = list[Point](), list[dict[str, Any]]()
    begin = time.monotonic()
    for i, part in jobs:
        shape = shapes[i]
        steps = max(10, longest // part // (BATCH * CONTEXT))
        settings: dict[str, Any] = {
            "model.layers": shape.layers, "model.width": shape.width, "model.heads": shape.heads,
            "model.context": CONTEXT, "train.batch": BATCH, "train.steps": steps,
        }  # fmt: skip
        summary = train(
            str(prepared.folder), out=Path(out) / f"{shape.parameters}-{steps}", view=View(quiet=True),
            **others, **settings,
        )  # fmt: skip
        loss = summary["validation_loss_nats_per_token"]
        points.append(Point(summary["num_parameters"], summary["tokens"], loss))
        rows.append({key: summary[key] for key in ("run", "num_parameters", "tokens", "bits_per_byte", "wall_seconds")})
        rows[-1]["validation_loss_nats_per_token"] = loss
        view.note(f"{summary['num_parameters']:,} parameters, {summary['tokens']:,} tokens: {loss:.4f} nats per token")
    law = fit(points)
    asked = parse_count(size, "--size") if size else 4 * points[-1].parameters
    length = parse_count(tokens, "--tokens") if tokens else points[-1].tokens
    low, central, high = law.at(asked, length)
    per_byte = rows[-1]["bits_per_byte"] / rows[-1]["validation_loss_nats_per_token"]
    result = {
        "runs": rows, "wall_seconds": time.monotonic() - begin, "num_parameters": asked, "tokens": length,
        "loss_nats_per_token": central, "loss_nats_per_token_interval_90": (low, min(high, math.log(vocabulary))),
        "bits_per_byte": central * per_byte, "bits_per_byte_interval_90": (low * per_byte, high * per_byte),
        "warnings": _doubts(points[-1].tokens, length),
    }  # fmt: skip
    for name in ("alpha", "beta"):
        least, middle, most = law.exponent(name)
        result |= {name: middle, f"{name}_interval_90": (least, most)}
    return result


def _doubts(longest: float, length: int) -> list[str]:
    """Why the law may miss by more than its range, as sentences: a held-back run on 4.8 times the tokens of a ladder
    of at most 61 steps came 0.41 bits per byte lower than said."""
    steps, found = round(longest / (BATCH * CONTEXT)), []
    if steps < FEW_STEPS:
        found.append(
            f"the longest runs had {steps} steps, in which loss falls faster than later: give a longer budget."
        )
    if length > MOST_TIMES * longest:
        found.append(
            f"{format_count(length)} tokens are {length / longest:.1f} times those of the longest runs: the range "
            "holds for the ladder's length, not for so many more."
        )
    return found
