"""Many batches at once on the cores of a CPU: each thread computes a batch of its own, whole.

Spreading one product of matrices over the cores leaves the small operations between the products on one core, and
all cores wait for the slowest at each; batches of their own meet only at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from hornbook.model.decoder import Decoder

MOST_WORKERS = 8  # more would wait for the interpreter between the operations of a small model
WIDE = 512  # features from which on the products are large enough to be spread: 135M at width 576 lost 5 % to workers

T = TypeVar("T")
Result = TypeVar("Result")


def workers_for(model: Decoder, device: torch.device | str) -> int:
    """How many batches of a model to compute at once."""
    is_compiled = any(block._compiled_call_impl is not None for block in model.blocks)  # for a number of threads
    if is_compiled or model.shape.width >= WIDE or torch.device(device).type != "cpu":
        return 1
    return min(torch.get_num_threads(), MOST_WORKERS)


def in_parallel(
    function: Callable[[T], Result], items: Iterable[T], workers: int
) -> Generator[tuple[T, Result], None, None]:
    """(item, function(item)) in the order of `items`, computed without gradients, `workers` of them at once.

    Several have an equal share of torch's threads: one each on a machine of at most MOST_WORKERS cores, so that there
    the bits of a result do not depend on the number of cores. At most one item more than there are workers is held.
    """

    def compute(item: T) -> Result:
        with torch.no_grad():
            return function(item)

    threads = torch.get_num_threads()
    if workers == 1:
        yield from ((item, compute(item)) for item in items)
        return
    waiting: deque[tuple[T, Future[Result]]] = deque()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
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
    finally:
        torch.set_num_threads(threads)  # the workers set it for the whole process
