"""Many batches at once on the cores of a CPU: each thread computes a batch, or its rows of one, whole.

Spreading one product of matrices over the cores leaves the small operations between the products on one core, and
all cores wait for the slowest at each; batches of their own meet only at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import repeat
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from hornbook.facts.hardware import cpu_workers
from hornbook.model.cpu import PLAIN
from hornbook.model.decoder import Decoder

T = TypeVar("T")
Result = TypeVar("Result")
Microbatch = tuple[Tensor, Tensor, Tensor | None]  # inputs and targets, (B, T); documents, as a Decoder takes them
SHORT = 1e9  # FLOPs of a microbatch, some milliseconds: below, handing rows over takes more than it gives


def workers_for(model: Decoder, device: torch.device | str) -> int:
    """How many batches of a model to compute at once; in one that is spread, processes meet at each block."""
    is_compiled = any(block._compiled_call_impl is not None for block in model.blocks)  # for a number of threads
    if PLAIN or is_compiled or model.spread or torch.device(device).type != "cpu":
        return 1
    return cpu_workers(model.shape.width, torch.get_num_threads())


def backward(nats_of: Callable[[Microbatch], Tensor], model: Decoder, rows: Microbatch, num_tokens: int) -> Tensor:
    """`nats_of(rows)`, (); the gradient of it / `num_tokens` is added to that of every parameter of `model`.

    Each core takes some rows of a narrow model from the embedding to the gradients. Worker 0 writes `.grad`; the
    others' gradients are added afterwards, in the order of the rows.
    """
    parameters, workers = list(model.parameters()), _workers_for_rows(model, rows[0])

    def differentiate(numbered: tuple[int, Microbatch]) -> tuple[Tensor, Sequence[Tensor]]:
        number, share = numbered
        nats = nats_of(share)
        if number > 0:
            return nats.detach(), torch.autograd.grad(nats / num_tokens, parameters)
        (nats / num_tokens).backward()  # type: ignore[no-untyped-call]
        return nats.detach(), []

    if workers == 1:
        return differentiate((0, rows))[0]
    shares = zip(*(repeat(None) if x is None else x.tensor_split(workers) for x in rows), strict=False)
    total = torch.zeros(())
    for _, (nats, gradients) in in_parallel(differentiate, enumerate(shares), workers, gradients=True):
        total += nats
        for parameter, gradient in zip(parameters, gradients, strict=False):
            assert parameter.grad is not None
            parameter.grad.add_(gradient)
    return total


def _workers_for_rows(model: Decoder, inputs: Tensor) -> int:
    is_short = inputs.numel() * model.shape.flops_per_token() < SHORT
    # Dropout draws from one stream; code is compiled for one shape.
    if is_short or model.dropout or model.compiled:
        return 1
    return min(workers_for(model, inputs.device), len(inputs))


def in_parallel(
    function: Callable[[T], Result], items: Iterable[T], workers: int, *, gradients: bool = False
) -> Generator[tuple[T, Result], None, None]:
    """(item, function(item)) in the order of `items`, `workers` of them at once; autograd records if `gradients`.

    Several have an equal share of torch's threads: one each on a machine of at most 8 cores, so that there
    the bits of a result do not depend on the number of cores. At most one item more than there are workers is held.
    """

    def compute(item: T) -> Result:
        with torch.set_grad_enabled(gradients):
            return function(item)

    if workers == 1:
        yield from ((item, compute(item)) for item in items)
        return
    pool = _pool(workers, max(1, torch.get_num_threads() // workers))
    waiting: deque[tuple[T, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(compute, item)))
            if len(waiting) > workers:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        for _, future in waiting:
            future.cancel()
        wait([future for _, future in waiting])


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Workers that stay, each with so many of torch's threads."""
    before = torch.get_num_threads()
    ready = Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread takes the process's number
        torch.set_num_threads(threads)
        torch.set_autocast_cache_enabled(False)  # of copies of weights, each in the graph of one thread
        ready.wait()

    pool = ThreadPoolExecutor(workers, initializer=start)
    for _ in range(workers):
        pool.submit(int)  # starts one
    ready.wait()
    torch.set_num_threads(before)  # the workers set it for the whole process
    return pool
