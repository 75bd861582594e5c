"""Requests that begin alike, as the choices of a question do: what they share is computed once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hornbook.evaluation.score import Measure, Progress, Records, Request, device_of, evaluating, in_batches
from hornbook.model.cpu.branches import Tree, branch_hidden
from hornbook.model.decoder import Decoder

MANY = 256  # a tree's branches have at most so many tokens, or as many as the beginning that they would repeat


class _Branching(NamedTuple):
    """Some requests of the set `number`, and their ids but for the last of each, which is only a target."""

    number: int
    requests: Sequence[Request]
    tree: Tree


def score_branches(
    model: Decoder, sets: Sequence[Sequence[Request]], measure: Measure, *,
    progress: Progress | None = None, most_tokens: int = 2048,
) -> list[list[Records]]:  # fmt: skip
    """The records of each request of each set. What the requests of a set share at their beginning is computed once for
    all of them. At most about `most_tokens` are computed at once, or one tree, by each of the workers.
    """
    device = device_of(model)

    def hidden(batch: Sequence[_Branching]) -> Tensor:
        states = branch_hidden(model, [branching.tree for branching in batch], device)
        ends = np.cumsum([len(branch) for branching in batch for branch in branching.tree.branches])
        counts = [request.num_scored for branching in batch for request in branching.requests]
        scored = [np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return states[torch.from_numpy(np.concatenate(scored)).to(device)]

    results: list[list[Records]] = [[] for _ in sets]
    branchings = [branching for number, requests in enumerate(sets) for branching in _branchings(number, requests)]
    batches = _passes(branchings, most_tokens)
    scored = in_batches(model, batches, hidden, lambda batch: [r for b in batch for r in b.requests], measure)
    with evaluating(model), closing(scored):
        for batch, records in scored:
            rest = iter(records)
            for branching in batch:
                results[branching.number] += [next(rest) for _ in branching.requests]
            if progress is not None:
                progress(batch[-1].number + 1, len(sets))
    return results


def _branchings(number: int, requests: Sequence[Request]) -> Iterator[_Branching]:
    """All requests of a set in one tree, or in several: in a tree, every token of the branches is held against every
    other, which is wasteful where they are many and the beginning is short.
    """
    first = requests[0].ids
    longest = min(len(r.ids) - 1 - r.num_scored for r in requests)
    shared = next((i for i in range(longest) if any(r.ids[i] != first[i] for r in requests)), longest)
    branches = [r.ids[shared:-1] for r in requests]
    start, size = 0, 0
    for stop, branch in enumerate(branches):
        if stop > start and size + len(branch) > max(shared, MANY):
            yield _Branching(number, requests[start:stop], Tree(first[:shared], branches[start:stop]))
            start, size = stop, 0
        size += len(branch)
    yield _Branching(number, requests[start:], Tree(first[:shared], branches[start:]))


def _passes(branchings: Sequence[_Branching], most_tokens: int) -> Iterator[list[_Branching]]:
    """Runs of at most `most_tokens` tokens, or one tree."""
    together: list[_Branching] = []
    size = 0
    for branching in branchings:
        size += branching.tree.num_tokens
        if together and size > most_tokens:
            yield together
            together, size = [], branching.tree.num_tokens
        together.append(branching)
    if together:
        yield together
