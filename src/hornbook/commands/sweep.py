"""`hornbook.sweep`: small runs on one text, the scaling law fitted to them, and its prediction for a larger run; or,
with a grid of settings, which recipe is the best."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.commands.options import add_settings, add_texts, given_settings
from hornbook.facts.errors import InputError
from hornbook.facts.names import by_dotted_names
from hornbook.facts.printing import print_json
from hornbook.facts.settings import from_table, names, overridden
from hornbook.facts.tables import Result
from hornbook.facts.units import format_count, parse_count, parse_duration

if TYPE_CHECKING:
    from hornbook.data.shards import Prepared
    from hornbook.planning.workload import ResolvedSettings, StepTimes
    from hornbook.reporting.live import View

BUDGET = "10m"
SIZES = 4
SHORTER = ((0, 2), (0, 4), (1, 2))  # which size is also trained on which part of the steps
LEAST_STEPS = 40  # of the longest runs, so that a quarter of them is a run too
CONTEXT, BATCH = 128, 16
FEW_STEPS, MOST_TIMES, MOST_EPOCHS = 200, 2.0, 4.0  # from where on the law is said to be in doubt


def flags(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "texts as for train; none: the built-in corpus")
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="total wall time of all runs (default: 10m, or the length that a grid is given)",
    )
    parser.add_argument(
        "--grid", action="append", default=[], metavar="NAME=A,B",
        help="train every combination of these settings instead of a ladder of sizes, such as --grid "
        "optimizer.name=muon,adamw --grid train.seed=0,1,2",
    )  # fmt: skip
    parser.add_argument(
        "--size", "--parameters", metavar="N", help="model size to predict (default: 4 times the largest run)"
    )
    parser.add_argument("--tokens", metavar="N", help="training tokens to predict for (default: those of the runs)")
    parser.add_argument("--out", default="sweep", metavar="FOLDER", help="folder for the runs (default: sweep)")
    add_settings(parser, lambda name: name != "train.budget")


def command(arguments: argparse.Namespace) -> None:
    from hornbook.reporting.live import View

    result = sweep(
        *arguments.texts, budget=arguments.budget, size=arguments.size, tokens=arguments.tokens, out=arguments.out,
        grid=arguments.grid, view=View(), **given_settings(arguments),
    )  # fmt: skip
    if arguments.json:
        print_json(result)
    elif arguments.grid:
        from hornbook.reporting.groups import print_grid

        print_grid(result)
    else:
        from hornbook.reporting.terminal import print_sweep

        print_sweep(result)


def sweep(
    *texts: str, budget: str | None = None, size: str | None = None, tokens: str | None = None,
    out: str | Path = "sweep", grid: Mapping[str, Sequence[Any]] | Sequence[str] = (), quiet: bool = False,
    view: View | None = None, **changes: Any,
) -> Result:  # fmt: skip
    """Train a ladder of sizes on `texts` within `budget`, fit the law, and predict the loss of `size` on `tokens`.

    With a `grid`, {"optimizer.name": ["muon", "adamw"], "train.seed": [0, 1, 2]} or "name=a,b" each, train every
    combination of these settings instead, and say which is the best. `changes` are settings for all runs, by any of
    their names. By default `size` is four times the largest of the
    ladder, on its tokens. Progress is shown on stderr unless `quiet`. Raises InputError for bad input.
    """
    from hornbook.commands.train import train
    from hornbook.reporting.live import View

    view, changes = view or View(quiet=quiet), by_dotted_names(changes, names())
    if grid:
        from hornbook.commands.sweep_grid import by_grid, is_length_given, read_grid

        for name, given in (("--size", size), ("--tokens", tokens)):
            if given:
                raise InputError(
                    f"{name} is what a ladder predicts for: a grid takes --train.tokens, --steps, --epochs."
                )
        axes = dict(grid) if isinstance(grid, Mapping) else read_grid(grid)
        budget = budget or (None if is_length_given(changes, axes) else BUDGET)
        within = None if budget is None else parse_duration(budget, "the budget")
        return by_grid(train, texts, axes, changes, seconds=within, out=Path(out), view=view)
    if chosen := sorted(changes.keys() & (_changes(1, 1, 1).keys() | {"train.epochs", "train.tokens"})):
        raise InputError(f"{chosen[0]} is what the ladder of sizes chooses: leave it out, or give a --grid.")
    return _ladder(texts, changes, budget or BUDGET, size, tokens, Path(out), view)


def _ladder(
    texts: Sequence[str], changes: dict[str, Any], budget: str, size: str | None, tokens: str | None, out: Path,
    view: View,
) -> Result:  # fmt: skip
    """Train the ladder of sizes, and predict."""
    from hornbook.commands.train import train
    from hornbook.planning.choose import LADDER
    from hornbook.planning.ladder import Point, fit
    from hornbook.setup.text import prepared_text

    of_text = {name: value for name, value in changes.items() if name.startswith("text.")}
    wanted = from_table(overridden({}, {"text.paths": list(texts)} | of_text), source="settings")
    seconds, target = parse_duration(budget, "the budget"), parse_count(size, "--size") if size else None
    length = parse_count(tokens, "--tokens") if tokens else None
    prepared = prepared_text(wanted.text)
    others = {name: value for name, value in changes.items() if name not in of_text}
    begin = time.monotonic()
    rungs = [_rung(width, layers, prepared, others) for width, layers in LADDER[:SIZES]]
    jobs = [(i, part) for part in (4, 2, 1) for i in range(SIZES) if part == 1 or (i, part) in SHORTER]
    longest = _longest_steps(rungs, jobs, prepared, seconds - (time.monotonic() - begin), budget)
    points, rows = list[Point](), list[dict[str, Any]]()
    for i, part in jobs:
        shape, steps = rungs[i][0].shape, longest // part
        summary = train(
            str(prepared.folder), out=out / f"{shape.parameters}-{steps}", quiet=True,
            **others, **_changes(shape.width, shape.layers, steps),
        )  # fmt: skip
        loss = summary["validation_loss_nats_per_token"]
        points.append(Point(summary["num_parameters"], summary["tokens"], loss))
        rows.append({key: summary[key] for key in ("run", "num_parameters", "tokens", "bits_per_byte", "wall_seconds")})
        rows[-1]["validation_loss_nats_per_token"] = loss
        view.note(f"{summary['num_parameters']:,} parameters, {summary['tokens']:,} tokens: {loss:.4f} nats per token")
    law, target, length = fit(points), target or 4 * points[-1].parameters, length or points[-1].tokens
    low, central, high = law.at(target, length)
    per_byte = rows[-1]["bits_per_byte"] / rows[-1]["validation_loss_nats_per_token"]
    result = {
        "runs": rows, "wall_seconds": time.monotonic() - begin, "num_parameters": target, "tokens": length,
        "loss_nats_per_token": central,
        "loss_nats_per_token_interval_90": (low, min(high, math.log(prepared.tokenizer.vocabulary))),
        "bits_per_byte": central * per_byte, "bits_per_byte_interval_90": (low * per_byte, high * per_byte),
        "warnings": _doubts(points[-1].tokens, length, prepared.train.num_tokens),
    }  # fmt: skip
    for name in ("alpha", "beta"):
        least, middle, most = law.exponent(name)
        result |= {name: middle, f"{name}_interval_90": (least, most)}
    return Result(result)


def _changes(width: int, layers: int, steps: int) -> dict[str, Any]:
    return {
        "model.layers": layers, "model.width": width, "model.heads": max(1, width // 32),
        "model.context": CONTEXT, "train.batch": BATCH, "train.steps": steps,
    }  # fmt: skip


def _rung(width: int, layers: int, prepared: Prepared, others: dict[str, Any]) -> tuple[ResolvedSettings, StepTimes]:
    """A size of the ladder as `train` will choose it, and its pace on this machine."""
    from hornbook.engine.device import device, this_device
    from hornbook.planning.choose import Machine, choose
    from hornbook.planning.workload import corpus_stats
    from hornbook.setup.pace import measure

    text, on = prepared.train, device()
    settings = from_table(overridden({}, others | _changes(width, layers, LEAST_STEPS)), source="settings")
    choice = choose(settings, corpus_stats(prepared), Machine.of(this_device(on)))
    return choice, measure(choice.settings, choice.shape, text, on)


def _longest_steps(
    rungs: list[tuple[ResolvedSettings, StepTimes]],
    jobs: list[tuple[int, int]],
    prepared: Prepared,
    left: float,
    budget: str,
) -> int:
    """Steps of the longest runs, so that all of them fit. Raises InputError where the shortest ladder does not."""
    from hornbook.planning.wall import steps_within, wall_of
    from hornbook.setup.expectation import ngram_baselines

    begin = time.monotonic()
    ngram_baselines(prepared, rungs[0][0].shape)  # as every run does
    aside = time.monotonic() - begin

    def wall(longest: int) -> float:
        return sum(aside + wall_of(*rungs[i], max(1, longest // part)) for i, part in jobs)

    least = wall(LEAST_STEPS)
    if least > left - aside:
        raise InputError(
            f"a sweep of {len(jobs)} runs, the longest of {LEAST_STEPS} steps, needs about "
            f"{math.ceil(1.2 * (least + aside) / 10) * 10} seconds on this machine: {budget} is too short."
        )
    # beyond some epochs repetition, not size, decides
    most = max(LEAST_STEPS, int(MOST_EPOCHS * prepared.train.num_tokens / (BATCH * CONTEXT)))
    return min(most, steps_within(left - aside, wall))


def _doubts(longest: float, length: int, available: int) -> list[str]:
    """Why the law may miss by more than its range, as sentences: a held-back run on 4.8 times the tokens of a ladder
    of at most 61 steps came 0.41 bits per byte lower than said."""
    steps, epochs, doubts = round(longest / (BATCH * CONTEXT)), longest / available, []
    if steps < FEW_STEPS:
        enough = MOST_EPOCHS * available >= FEW_STEPS * BATCH * CONTEXT
        doubts.append(
            f"the longest runs had only {steps} steps, where loss falls faster than later: give "
            f"{'a longer budget' if enough else 'more text'}."
        )
    if epochs > MOST_EPOCHS + 0.5:
        doubts.append(f"the longest runs had {epochs:.0f} epochs: they show what repeated text is worth, not new text.")
    if length > MOST_TIMES * longest:
        doubts.append(
            f"{format_count(length)} tokens are {length / longest:.1f} times those of the longest runs: the range "
            "holds for runs as long as the ladder's, not for so much longer ones."
        )
    return doubts
