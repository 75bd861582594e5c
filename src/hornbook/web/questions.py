"""Questions about several runs, or about none yet: comparisons and plans."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from hornbook.facts.accelerators import ACCELERATORS, lookup
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import HERE, Accelerator, custom, memory_bytes
from hornbook.facts.units import parse_count, parse_price
from hornbook.planning.budget import budget, training_flops
from hornbook.planning.choose import Machine
from hornbook.planning.expected_loss import chinchilla_loss, why_no_loss
from hornbook.planning.plan import make_plan, shape_of_size
from hornbook.planning.plan_run import UNMEASURED_FACTOR, product_flops_per_second
from hornbook.planning.plan_text import render
from hornbook.planning.workload import Range
from hornbook.records.result import Report
from hornbook.records.run import EVALUATION, Row
from hornbook.web.folder import RunFiles
from hornbook.web.live import Overviews
from hornbook.web.overview import differing

SIZES = 25  # of the frontier, from a tenth to ten times the size that is asked for
WINDOWS_HERE = 16  # of a step on a CPU, as `train` usually chooses


def compared(runs: Sequence[RunFiles], overviews: Overviews) -> Row:
    """What /api/compare answers: the first run with each other."""
    from hornbook.evaluation.comparison import compare

    known = overviews.rows()
    rows = [known[run.id] for run in runs]
    pairs = []
    reports = [_report(run, row) for run, row in zip(runs, rows, strict=True)]
    for run, row, report in zip(runs[1:], rows[1:], reports[1:], strict=True):
        pair: Row = {"a": runs[0].id, "b": run.id, "problem": None}
        try:
            if isinstance(reports[0], str) or isinstance(report, str):
                raise InputError(reports[0] if isinstance(reports[0], str) else str(report))
            if row["text"] != rows[0]["text"]:
                raise InputError(f"they were evaluated on different texts ({rows[0]['text']}, {row['text']}).")
            result = compare(reports[0], report)
            pair |= {name: value for name, value in result.items() if name not in ("a", "b", "documents")}
        except InputError as error:
            pair["problem"] = str(error)
        pairs.append(pair)
    return {
        "runs": [run.id for run in runs],
        "settings": {name: [row["settings"].get(name) for row in rows] for name in differing(rows)},
        "pairs": pairs,
        "groups": _groups(rows),
    }


def _report(run: RunFiles, row: Mapping[str, Any]) -> Report | str:
    """The evaluation of the run, or why there is none."""
    content = run.read(EVALUATION) if row.get("loss_about") == "validation" else None
    return f"{run.id} has no evaluation of its validation text yet." if content is None else Report.from_json(content)


def _groups(rows: Sequence[Row]) -> list[Row]:
    """Runs that differ in nothing but their seed, of two or more."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        settings = {name: value for name, value in row["settings"].items() if name != "train.seed"}
        groups.setdefault(msgspec.json.encode(settings).decode(), []).append(row)
    others = [name for name in differing(rows) if name != "train.seed"]
    found = []
    for group in groups.values():
        bits = [row["bits_per_byte"] for row in group if row.get("bits_per_byte") is not None]
        if len(group) < 2:
            continue
        settings = {name: group[0]["settings"].get(name) for name in others}
        found.append({
            "name": ", ".join(f"{name} {value}" for name, value in settings.items()) or "seeds",
            "runs": [row["id"] for row in group], "settings": settings,
            "mean_bits_per_byte": statistics.fmean(bits) if bits else None,
            "standard_deviation": statistics.stdev(bits) if len(bits) > 1 else None,
        })  # fmt: skip
    return found


def planned(query: Mapping[str, str]) -> Row:
    """What /api/plan answers, of `parameters`, `tokens`, `on` (HERE: this machine's processors, as in `hornbook plan`
    where no hardware is named), `price` and `context`. Raises InputError."""
    for name in ("parameters", "tokens", "on"):
        if not query.get(name):
            raise InputError(f"give {name}.")
    parameters = parse_count(query["parameters"], "parameters")
    tokens = parse_count(query["tokens"], "tokens")
    if not (1000 <= parameters <= 10**14 and 1000 <= tokens <= 10**16):
        raise InputError("parameters must be from 1K to 100T, and tokens from 1K to 10,000T.")
    context = parse_count(query["context"], "context") if query.get("context") else None
    if context is not None and not 2 <= context <= 2**24:
        raise InputError("context must be from 2 to 16,777,216.")
    is_here = query["on"] == HERE
    devices = (1, _here()) if is_here else lookup(query["on"])
    usd = parse_price(query["price"]) if query.get("price") else None
    wall = _wall_here(devices[1], parameters, tokens, context) if is_here else None
    plan = make_plan(
        tokens=tokens, on=devices, context=context, parameters=parameters, usd_per_hour=usd, wall=wall,
        memory_bytes=memory_bytes() if is_here else None, microbatch=WINDOWS_HERE if is_here else None,
    )  # fmt: skip
    lines = [line for line in render(plan) if line[:14].strip()]
    sizes = []
    for i in range(SIZES):
        size = parameters * 10 ** (2 * i / (SIZES - 1) - 1)
        length = plan.flops / 6 / size
        cost = budget(6 * size * length, devices[1], count=devices[0], parameters=size, usd_per_hour=usd, wall=wall)
        sizes.append({
            "parameters": size, "tokens": length,
            "loss_nats_per_token": chinchilla_loss(size, length) if why_no_loss(size, length) is None else None,
            "gpu_hours": cost.gpu_hours.central if cost.gpu_hours else None,
            "price_usd": cost.price_usd.central if cost.price_usd else None,
        })  # fmt: skip
    return {
        "rows": [{"title": line[:14].strip(), "text": line[14:].strip()} for line in lines],
        "plan": plan.to_dict(), "sizes": sizes, "unknown": plan.unknown, "warnings": plan.warnings,
        "devices": [HERE, *(device.name for device in ACCELERATORS)],
    }  # fmt: skip


@cache
def _here() -> Accelerator:
    """This machine's processors, by a matrix product of some hundredths of a second."""
    return custom(HERE, product_flops_per_second())


def _wall_here(here: Accelerator, parameters: int, tokens: int, context: int | None) -> Range:
    """Seconds of the steps alone, which are most of it."""
    shape = shape_of_size(parameters, context=context)
    flops = training_flops(parameters, tokens, context=shape.context)
    seconds, factor = flops / Machine.of(here, 1).flops_per_second, UNMEASURED_FACTOR
    return Range(seconds / factor, seconds, seconds * factor, "only a matrix product was timed here, not this run")
