"""Ctrl-C and SIGTERM ask training to stop; a second one is not asked but obeyed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop(threading.Event):
    """Set when a signal has asked to stop; `signal_number` says which, of a signal to another process SIGTERM."""

    signal_number: int = signal.SIGTERM


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A Stop that the next SIGINT or SIGTERM sets. Outside the main thread signals stay as they are."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal_number = number
        stop.set()
        for handled in before:
            signal.signal(handled, signal.SIG_DFL)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
