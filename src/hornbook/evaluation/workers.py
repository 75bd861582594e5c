"""Many batches at once on the cores of a CPU: each thread computes a batch of its own, whole.

Spreading one product of matrices over the cores leaves the small operations between the products on one core, and
all cores wait for the slowest at each; batches of their own meet only at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

MOST_WORKERS = 8  # more would wait for the interpreter between the operations of a small model

T = TypeVar("T")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[T], Result], items: Iterable[T], device: torch.device | str
) -> Iterator[tuple[T, Result]]:
    """(item, function(item)) in the order of `items`, several computed at once on a CPU, without gradients.

    Each worker has an equal share of torch's threads: one on a machine of at most MOST_WORKERS cores, so that there
    the bits of a result do not depend on the number of cores. At most one item more than there are workers is held.
    """

    def compute(item: T) -> Result:
        with torch.no_grad():
            return function(item)

    threads = torch.get_num_threads()
    workers = min(threads, MOST_WORKERS)
    if torch.device(device).type != "cpu" or workers == 1:
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
