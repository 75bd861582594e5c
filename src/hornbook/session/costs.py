"""`hornbook.plan`: what a training run needs, before anything is spent. Torch-free."""

from __future__ import annotations

from pathlib import Path

from hornbook.facts.errors import InputError
from hornbook.facts.hardware import custom, lookup
from hornbook.facts.quantities import parse_count, parse_price
from hornbook.facts.settings import Settings, from_table, read_table
from hornbook.facts.shape import GPTShape, preset
from hornbook.planning.choose import SHAPE
from hornbook.planning.plan import Plan, make_plan


def plan(
    recipe: str | Path | None = None, *, parameters: str | None = None, tokens: str | None = None,
    on: str | None = None, price: str | None = None, peak: str | None = None, context: int | None = None,
) -> Plan:  # fmt: skip
    """Plan the training that `recipe` describes, or of `parameters` ("7B") on `tokens` ("2T").

    `on` is a device known by name ("8xA100"), or any with its `peak` in FLOP/s; `price` ("30/hour") pays for all of
    them. Raises InputError for what cannot be read, or is missing.
    """
    shape, length = (None, None) if recipe is None else _described(Path(recipe))
    if parameters is not None and shape is not None:
        raise InputError("a recipe has its own size: leave out --parameters, or the recipe.")
    if tokens is not None:
        length = parse_count(tokens, "--tokens")
    if shape is None and parameters is None:
        raise InputError('name a size, such as --parameters 7B, or a recipe that has one ("preset" under [model]).')
    if length is None:
        raise InputError("name the length of the training, such as --tokens 2T.")
    if on is None:
        raise InputError("name what it is to run on, such as --on 8xA100.")
    devices = lookup(on) if peak is None else (1, custom(on, parse_count(peak, "--peak")))
    return make_plan(
        tokens=length, on=devices, shape=shape, context=context,
        parameters=None if parameters is None else parse_count(parameters, "--parameters"),
        usd_per_hour=None if price is None else parse_price(price),
    )  # fmt: skip


def _described(recipe: Path) -> tuple[GPTShape, int | None]:
    """The shape and the number of tokens of a recipe, as far as it says."""
    settings: Settings = from_table(read_table(recipe), source=str(recipe))
    named = {name: getattr(settings.model, name) for name in SHAPE if getattr(settings.model, name) is not None}
    if settings.model.preset is None:
        raise InputError(f'{recipe} leaves the size open: it needs a "preset" under [model] to be planned.')
    shape = preset(settings.model.preset)
    if named:
        shape = GPTShape(**{name: getattr(shape, name) for name in (*SHAPE, "vocabulary")} | named)
    train = settings.train
    length = train.tokens
    if train.steps is not None and train.batch is not None:
        length = train.steps * train.batch * shape.context
    return shape, length
