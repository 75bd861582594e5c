"""The one scoring loop: requests -> hidden states -> logits, a chunk at a time -> a record for each scored token.

A record holds the nats of the token and what else is computed from its logits; a metric that is a mean over tokens is
one line in TOKEN_METRICS and one row in `facts/metrics.py`.

The same bits for any batch size: the bits of a matrix product depend on its number of rows, so the forward pass sees
only a few fixed shapes, and which shape a window gets depends on its own length alone. Choices that begin alike are
computed as the branches of a tree instead (`evaluation/branches.py`), several times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from hornbook.engine.threads import in_parallel, workers_for
from hornbook.likelihood import head_logits, token_nats
from hornbook.model.decoder import Decoder

if TYPE_CHECKING:
    from hornbook.engine.world import World

Progress = Callable[[int, int], None]  # (scored, to score): targets, or questions of a task
Records = np.ndarray  # (n,) of scored tokens, a structured array: a field for each number
Measure = Callable[[Tensor, Tensor], dict[str, Tensor]]  # logits (n, V) float64, targets (n,) -> fields (n, ...)

T = TypeVar("T")


class Request(NamedTuple):
    """A sequence of ids of which the last `num_scored` are to be predicted."""

    ids: Sequence[int] | np.ndarray
    num_scored: int


# ---- What is measured of a token


def top1(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """1 where the target is the most probable token, 0 where it is not, (N,); n equally probable ones share the 1, so
    that a model that knows nothing gets 1 / V.

    >>> top1(torch.tensor([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0]]), torch.tensor([0, 0, 0])).tolist()
    [1.0, 0.0, 0.5]
    """
    best_N = logits_NV.amax(-1)
    share_N = (logits_NV.gather(-1, targets_N[:, None])[:, 0] == best_N).double()
    # Ties are rare and counting them is slow, so they are looked for only where the target is among the best.
    hits = share_N.nonzero()[:, 0]
    others = logits_NV[hits].scatter_(-1, targets_N[hits, None], -math.inf)
    tied = hits[others.amax(-1) == best_N[hits]]
    share_N[tied] /= (logits_NV[tied] == best_N[tied, None]).sum(-1)
    return share_N


TOKEN_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"top1_accuracy": top1}


def nats_alone(logits_NV: Tensor, targets_N: Tensor) -> dict[str, Tensor]:
    return {"nats": token_nats(logits_NV, targets_N)}


def token_record(logits_NV: Tensor, targets_N: Tensor) -> dict[str, Tensor]:
    """What an evaluation keeps of a token: its nats and all TOKEN_METRICS."""
    return nats_alone(logits_NV, targets_N) | {name: f(logits_NV, targets_N) for name, f in TOKEN_METRICS.items()}


def greedy_record(logits_NV: Tensor, targets_N: Tensor) -> dict[str, Tensor]:
    """Nats, and whether greedy decoding would write the target: of equally probable tokens, the first."""
    return nats_alone(logits_NV, targets_N) | {"is_greedy": logits_NV.argmax(-1) == targets_N}


def no_records() -> Records:
    """No token, with the fields of `token_record`."""
    return np.zeros(0, [(name, float) for name in ("nats", *TOKEN_METRICS)])


# ---- The loop


def in_batches(
    model: Decoder, batches: Iterable[T], hidden: Callable[[T], Tensor], requests: Callable[[T], Sequence[Request]],
    measure: Measure,
) -> Generator[tuple[T, list[Records]], None, None]:  # fmt: skip
    """(batch, the records of each of its `requests`), in order; `hidden` gives the states (N, D) of what they score."""

    def score(batch: T) -> list[Records]:
        together, hidden_ND = requests(batch), hidden(batch)
        targets = np.concatenate([request.ids[len(request.ids) - request.num_scored :] for request in together])
        targets_N = torch.from_numpy(targets.astype(np.int64)).to(hidden_ND.device)
        chunks = head_logits(model.head, hidden_ND, model.shape.vocabulary)
        parts = [measure(logits_NV, targets_N[at].to(logits_NV.device)) for at, logits_NV in chunks]
        fields = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
        records = np.empty(len(targets), [(name, column.dtype, column.shape[1:]) for name, column in fields.items()])
        for name, column in fields.items():
            records[name] = column
        return np.split(records, np.cumsum([request.num_scored for request in together])[:-1])

    return in_parallel(score, batches, workers_for(model, device_of(model)))


def device_of(model: Decoder) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def evaluating(model: Decoder) -> Iterator[None]:
    """No gradients and no dropout inside; the model's mode afterwards is what it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


# ---- Windows


def padded_length(num_inputs: int, model: Decoder) -> int:
    """The length a window is padded to: 2^k or 3 x 2^k from 32 on, at most the context where positions are learned."""
    length = 32
    while length < num_inputs:
        length = length * 3 // 2 if length & (length - 1) == 0 else length * 4 // 3
    return min(length, model.shape.context) if model.positions is not None else length


def forward_rows(length: int, model: Decoder, device: torch.device) -> int:
    """How many windows of `length` are computed at once: a function of the model, the length and the kind of device.

    Wide models fill the machine with fewer tokens. Rows x length is a multiple of 64, so that no product of matrices
    has a ragged last tile, in which the bits could depend on where a row stands.
    """
    tokens = min(2048, max(1024, 1 << int(math.log2(2**20 / model.shape.width))))
    tokens *= 1 if device.type == "cpu" else 16
    step = 64 // math.gcd(64, length)
    return max(1, tokens // length // step) * step


class Windows(NamedTuple):
    """Requests by their number, to be computed together in the shape (rows, length)."""

    numbers: Sequence[int]
    rows: int
    length: int


def _window_batches(
    model: Decoder, requests: Sequence[Request], shape: tuple[int, int] | None, device: torch.device
) -> Iterator[Windows]:
    by_length: dict[int, list[int]] = {}
    for number, request in enumerate(requests):
        if request.num_scored:
            length = padded_length(len(request.ids) - 1, model) if shape is None else shape[1]
            by_length.setdefault(length, []).append(number)
    for length, numbers in by_length.items():
        rows = forward_rows(length, model, device) if shape is None else shape[0]
        for start in range(0, len(numbers), rows):
            yield Windows(numbers[start : start + rows], rows, length)


def score_tokens(
    model: Decoder, requests: Sequence[Request], measure: Measure = token_record, *,
    shape: tuple[int, int] | None = None, done: Callable[[int], None] | None = None, world: World | None = None,
) -> list[Records]:  # fmt: skip
    """The records of each request's scored tokens, in order. `shape` (rows, length) where all requests have one
    length; `done` hears how many tokens were scored in each forward pass, and may raise to end it. All processes of a
    `world` that have these weights share the batches."""
    results = [no_records()] * len(requests)
    batches = _window_batches(model, requests, shape, device_of(model))
    if world is None:
        scored = in_windows(model, batches, requests, measure)
    else:
        from hornbook.evaluation.together import scored_together

        scored = scored_together(world, model, batches, requests, measure)
    with evaluating(model), closing(scored):  # no worker is left behind where `done` raises
        for batch, records in scored:
            for number, of_request in zip(batch.numbers, records, strict=True):
                results[number] = of_request
            if done is not None:
                done(sum(map(len, records)))
    return results


def in_windows(
    model: Decoder, batches: Iterable[Windows], requests: Sequence[Request], measure: Measure
) -> Generator[tuple[Windows, list[Records]], None, None]:
    """(batch, the records of each of its requests), in order."""
    device = device_of(model)

    def hidden(batch: Windows) -> Tensor:
        tokens, is_scored = np.zeros((batch.rows, batch.length), np.int64), np.zeros((batch.rows, batch.length), bool)
        for row, (ids, num_scored) in enumerate(map(requests.__getitem__, batch.numbers)):
            tokens[row, : len(ids) - 1] = ids[:-1]
            is_scored[row, len(ids) - 1 - num_scored : len(ids) - 1] = True
        states = model.hidden(torch.from_numpy(tokens).to(device)).flatten(0, 1)
        return states[torch.from_numpy(np.flatnonzero(is_scored)).to(device)]

    return in_batches(model, batches, hidden, lambda batch: [requests[i] for i in batch.numbers], measure)
