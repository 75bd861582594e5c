"""How threads wait for each other, which has to be said before torch is imported."""

from __future__ import annotations

import os
import sys

BUSY_LOAD = 0.5  # processes that run besides us, on average of the last minute
SPINS = "1000"  # some microseconds: the barriers of a small model are passed, a thread without a core is not waited for


def let_waiting_threads_sleep() -> None:
    """On a busy machine: threads that wait in a loop for one that has no core stand still for milliseconds at each
    product. On an idle machine the loop is faster. OpenMP reads this once, when torch is imported.

    GNU's OpenMP (PyTorch's on Linux) waits in the loop for a moment first. cuBLAS reads at its first product how much
    memory it may sum in, without which it cannot be made to give the same bits every time.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if "torch" not in sys.modules and hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY_LOAD:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
