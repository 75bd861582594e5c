"""Many batches at once on the cores of a CPU: each thread computes a batch, or its rows of one, whole.

Spreading one product of matrices over the cores leaves the small operations between the products on one core, and
all cores wait for the slowest at each; batches of their own meet only at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

from hornbook.facts.hardware import cpu_workers
from hornbook.model.decoder import Decoder

T = TypeVar("T")
Result = TypeVar("Result")


def workers_for(model: Decoder, device: torch.device | str) -> int:
    """How many batches of a model to compute at once."""
    is_compiled = any(block._compiled_call_impl is not None for block in model.blocks)  # for a number of threads
    if is_compiled or torch.device(device).type != "cpu":
        return 1
    return cpu_workers(model.shape.width, torch.get_num_threads())


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
        ready.wait()

    pool = ThreadPoolExecutor(workers, initializer=start)
    for _ in range(workers):
        pool.submit(int)  # starts one
    ready.wait()
    torch.set_num_threads(before)  # the workers set it for the whole process
    return pool
