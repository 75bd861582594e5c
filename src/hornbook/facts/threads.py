"""How threads wait for each other, which has to be said before torch is imported."""

from __future__ import annotations

import os
import sys

BUSY_LOAD = 0.5  # processes that run besides us, on average of the last minute


def let_waiting_threads_sleep() -> None:
    """On a busy machine: threads that wait in a loop for one that has no core stand still for milliseconds at each
    product. On an idle machine the loop is faster. OpenMP reads this once, when torch is imported.
    """
    if "torch" not in sys.modules and hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY_LOAD:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
