"""The processes of one machine: started together, ended together. Torch-free."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from hornbook.engine.signals import stop_on_signals
from hornbook.facts.hardware import usable_cores

LOOK_SECONDS = 0.05  # between two looks at what still runs
GRACE_SECONDS = 3.0  # for the others to notice that one has ended
LOST = "another process of this training has ended, so that this one cannot go on."
LOST_ANOTHER = 70  # exit code of a process that says so: another's end is the cause, whichever is seen first


class Ended(NamedTuple):
    """The process whose end ended all others, and its exit code: below 0, the signal that killed it."""

    rank: int
    code: int
    asked: int  # the signal that asked all to stop; 0 where none did


def launch(command: Sequence[str], processes: int, variables: Mapping[str, str]) -> Ended | None:
    """Run `command` in so many processes, each with the rank and number that torchrun would give it, and wait.

    The first one that fails ends all: the others have a moment to notice, then they are killed. One that ends with
    LOST_ANOTHER counts only where no other has failed. A signal that asks this process to stop is handed to rank 0,
    which brings all to an end. None where all succeeded.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    threads = str(max(1, usable_cores() // processes))
    given = {**os.environ, **variables, "OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": loopback}
    given |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), PARENT: str(os.getpid())}
    running: dict[int, subprocess.Popen[bytes]] = {}
    first: Ended | None = None
    with stop_on_signals() as stop:
        try:
            for rank in range(processes):
                ranked = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                # In a session of its own: Ctrl-C on the terminal comes here alone.
                running[rank] = subprocess.Popen(command, env=given | ranked, start_new_session=True)
            since = told = 0.0
            while running:
                if stop.is_set() and not told and 0 in running:
                    running[0].send_signal(stop.signal_number)
                    told = time.monotonic()
                for rank, code in [(rank, process.poll()) for rank, process in running.items()]:
                    if code is not None:
                        del running[rank]
                        if code and (first is None or first.code == LOST_ANOTHER):
                            since = since if first else time.monotonic()
                            first = Ended(rank, code, stop.signal_number * stop.is_set())
                if first is not None and time.monotonic() > since + GRACE_SECONDS:
                    break
                time.sleep(LOOK_SECONDS)
        finally:
            for process in running.values():
                process.kill()
            for process in running.values():
                process.wait()
    return first


PARENT = "HORNBOOK_LAUNCHER"


def end_with_launcher() -> None:
    """Ask this process to stop when the one that launched it, torchrun's too, is gone. On Linux; elsewhere it finishes
    alone."""
    if sys.platform == "linux" and os.environ.keys() & {PARENT, "TORCHELASTIC_RUN_ID"}:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
            os.kill(os.getpid(), signal.SIGTERM)
