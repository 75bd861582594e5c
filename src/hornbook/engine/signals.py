"""Ctrl-C and SIGTERM ask training to stop; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_SECONDS = 2.0  # Slurm signals all processes of a job, and torchrun, which is one, passes it on: one request


class Stop(threading.Event):
    """Set when a signal has asked to stop; `signal_number` says which, of a signal to another process SIGTERM."""

    signal_number: int = signal.SIGTERM
    since = 0.0  # monotonic seconds


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A Stop that the next SIGINT or SIGTERM sets. Outside the main thread signals stay as they are."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.signal_number, stop.since = number, time.monotonic()
            stop.set()
        elif number == signal.SIGINT or time.monotonic() - stop.since > SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
