"""A plan as lines of text, as `hornbook plan` prints it."""

from __future__ import annotations

from hornbook.facts.units import counted, format_bytes, format_count, format_duration, format_usd
from hornbook.planning.expected_loss import FrontierPoint, chinchilla_loss
from hornbook.planning.parallel import Layout
from hornbook.planning.plan import PARTS, Plan, number, span


def render(plan: Plan) -> list[str]:
    """The plan as plain lines, one number each with its range; reasons, what is unknown and warnings come last."""
    lines = [] if plan.text is None else [f"text          {plan.text}"]
    lines += [
        f"model         {format_count(plan.parameters)} parameters" + _by_part(plan),
        f"training      {format_count(plan.num_tokens)} tokens{_length(plan)}",
        f"arithmetic    {plan.flops:.3g} FLOPs, {plan.flops_per_token:.3g} a token, attention included",
        f"hardware      {plan.num_accelerators} x {plan.accelerator}",
    ]
    if plan.utilisation is not None:
        lines[-1] += f", using {span(plan.utilisation, _percent)} of peak"
    if plan.parallel is not None:
        lines.append(f"parallel      {Layout(plan.parallel, plan.shards, plan.num_accelerators).sentence}")
    hours = 0.0 if plan.gpu_hours is None else plan.gpu_hours.central
    for name, value, write in (
        # On one device the wall time says it.
        ("device-hours", None if plan.num_accelerators == 1 and hours < 1 else plan.gpu_hours, number),
        ("wall time", plan.wall_seconds, format_duration),
        ("energy, kWh", plan.energy_kwh, number),
        ("price", plan.price_usd, format_usd),
        ("final loss", plan.loss_nats_per_token, "{:.2f}".format),
        ("bits per byte", plan.bits_per_byte, "{:.2f}".format),
    ):
        if value is not None:
            lines.append(f"{name:<14}{span(value, write)}")
    lines += [*_memory_lines(plan), *_best_lines(plan)]
    lines += [f"chosen        {reason}" for reason in plan.chosen]
    named = set[str]()
    for reason in plan.reasons.values():  # a range that is made of another begins with the reason of that
        if parts := [part for part in reason.split("; ") if part not in named]:
            lines.append(f"because       {'; '.join(parts)}")
            named.update(parts)
    lines += [f"assumed       {sentence}" for sentence in plan.assumed]
    lines += [f"unknown       {sentence}" for sentence in plan.unknown]
    return lines + [f"warning       {sentence}" for sentence in plan.warnings]


def _length(plan: Plan) -> str:
    steps = f" in {counted(plan.steps, 'step')}" if plan.steps else ""
    if plan.warmup_share is not None:
        steps += f", {plan.warmup_share:.0%} of them warm-up"
    if plan.epochs is None:
        return steps
    return f"{steps}, {plan.epochs:,.0f} epochs" if plan.epochs >= 100 else f"{steps}, {plan.epochs:.3g} epochs"


def _memory_lines(plan: Plan) -> list[str]:
    parts = ", ".join(f"{part} {format_bytes(plan.memory_bytes[part])}" for part in PARTS)
    less = f"{format_bytes(plan.memory_bytes_checkpointing)} with checkpointing"
    lines = [
        f"memory        {format_bytes(plan.memory_bytes['total'])} a device at microbatch {plan.microbatch}, "
        f"{'recomputing activations' if plan.recompute else less}",
        f"              {parts}",
    ]
    if plan.largest_microbatch is not None:
        most = counted(plan.largest_microbatch, "window")
        lines.append(f"microbatch    at most {most}, with checkpointing {plan.largest_microbatch_checkpointing:,}")
    return lines


def _best_lines(plan: Plan) -> list[str]:
    lines = []
    if plan.compute_optimal is not None:
        loss = chinchilla_loss(plan.parameters, plan.num_tokens)
        lines.append(f"same cost     best spent on {_point(plan.compute_optimal)}; this plan: {loss:.2f}")
    for point in plan.frontier:
        cost = "" if point.price_usd is None else f", {format_usd(point.price_usd)}"
        lines.append(f"frontier      {point.flops:.2g} FLOPs{cost}: {_point(point)}")
    return lines


def _point(point: FrontierPoint) -> str:
    return (
        f"{format_count(point.parameters)} parameters and {format_count(point.tokens)} tokens: "
        f"{point.loss_nats_per_token:.2f} nats per token"
    )


def _by_part(plan: Plan) -> str:
    parts = {name: number for name, number in (plan.parameters_by_part or {}).items() if number}
    return ": " + ", ".join(f"{name} {format_count(number)}" for name, number in parts.items()) if parts else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
