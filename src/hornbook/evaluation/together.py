"""Scoring shared out over the processes that train a model: each computes every so many of the batches that one alone
would, in the same shapes, so that nobody can tell from the bits how many there were.

Rank 0 has the text, and hands out a round of batches at a time: between two rounds it may stop.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np

from hornbook.engine.threads import workers_for
from hornbook.engine.world import World
from hornbook.evaluation.score import (
    Measure,
    Records,
    Request,
    Windows,
    device_of,
    evaluating,
    greedy_record,
    in_windows,
    nats_alone,
    token_record,
)  # fmt: skip
from hornbook.model.decoder import Decoder

MEASURES = {measure.__name__: measure for measure in (nats_alone, token_record, greedy_record)}
ROUND = 4  # batches of each worker between two times that all meet


def scored_together(
    world: World, model: Decoder, batches: Iterator[Windows], requests: Sequence[Request], measure: Measure
) -> Generator[tuple[Windows, list[Records]], None, None]:
    """On rank 0, as `in_windows`, which all other ranks help with: `model` is theirs too, `measure` one of MEASURES."""
    at_once = world.size * ROUND * workers_for(model, device_of(model))
    while some := list(islice(batches, at_once)):
        handed = [[(np.asarray(requests[i].ids).tolist(), requests[i].num_scored) for i in x.numbers] for x in some]
        shapes = [(batch.rows, batch.length) for batch in some]
        world.tell("score", measure=measure.__name__, shapes=shapes, handed=handed)
        own = _share(world, model, some, requests, measure)
        parts, dtype = world.collect(b""), own[0][0].dtype
        shared = [iter(own)]
        for rank, content in enumerate(parts[1:], 1):
            lengths = [[requests[i].num_scored for i in batch.numbers] for batch in some[rank :: world.size]]
            shared.append(_cut(np.frombuffer(content, dtype), lengths))
        yield from ((batch, next(shared[number % world.size])) for number, batch in enumerate(some))


def score_part(world: World, model: Decoder, measure: str, shapes: Any, handed: Any) -> None:
    """On another rank: its share of a round."""
    requests = [Request(ids, num_scored) for ids, num_scored in chain(*handed)]
    numbers = iter(range(len(requests)))
    batches = [Windows(list(islice(numbers, len(of_batch))), *s) for of_batch, s in zip(handed, shapes, strict=True)]
    with evaluating(model):
        scored = _share(world, model, batches, requests, MEASURES[measure])
    world.collect(b"".join(of_request.tobytes() for records in scored for of_request in records))


def _share(
    world: World, model: Decoder, batches: Sequence[Windows], requests: Sequence[Request], measure: Measure
) -> list[list[Records]]:  # fmt: skip
    """The records of this rank's batches. Where the weights are spread over ranks, all compute as many, since they meet
    in each block: what is one too many is computed for nothing."""
    own = list(batches[world.rank :: world.size])
    extra = [batches[0]] * (model.spread and len(own) < -(-len(batches) // world.size))
    with world.in_step():
        return [records for _, records in in_windows(model, [*own, *extra], requests, measure)][: len(own)]


def _cut(records: Records, lengths: Iterable[list[int]]) -> Iterator[list[Records]]:
    """The records of each request of each batch, which are so long."""
    start = 0
    for of_batch in lengths:
        cuts = start + np.cumsum([0, *of_batch])
        yield [records[a:b] for a, b in pairwise(cuts)]
        start = int(cuts[-1])
