"""One request to stop, however often it is passed on; a second one ends the process."""

import signal
import subprocess
import sys

import pytest

WAITS = """
import os, signal, sys, time
from hornbook.engine import signals
signals.SAME_SECONDS = 0.3
with signals.stop_on_signals() as stop:
    for number, pause in {deeds}:
        os.kill(os.getpid(), number)
        time.sleep(pause)
    print(stop.is_set(), int(stop.signal_number))
"""
INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)


def ended(*deeds):
    done = subprocess.run([sys.executable, "-c", WAITS.format(deeds=deeds)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.split()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process by any signal sent to it")
def test_a_signal_that_is_passed_on_by_a_launcher_is_the_same_request():
    """Slurm and torchrun each send SIGTERM to a process: the second ended runs before they had saved."""
    assert ended((TERM, 0)) == (0, ["True", str(TERM)])
    assert ended((TERM, 0), (TERM, 0), (TERM, 0)) == (0, ["True", str(TERM)])
    assert ended((INT, 0), (TERM, 0)) == (0, ["True", str(INT)])
    assert ended((TERM, 0.5), (TERM, 0)) == (-TERM, [])
    assert ended((INT, 0), (INT, 0)) == (-INT, [])
