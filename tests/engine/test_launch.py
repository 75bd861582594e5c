"""Which process is named as the cause when several end."""

import signal
import sys

import pytest

from hornbook.engine.launch import GRACE_SECONDS, LOST_ANOTHER, Ended, launch

DIES = "os.kill(os.getpid(), signal.SIGKILL)"
LOSES = f"sys.exit({LOST_ANOTHER})"


def ranked(*deeds):
    """A command in which each rank does its deed."""
    return [sys.executable, "-c", f"import os, signal, sys, time; exec({deeds!r}[int(os.environ['RANK'])])"]


@pytest.mark.parametrize("late", [0, 1], ids=["killed late", "lost late"])
def test_the_process_that_was_killed_is_named_though_another_was_seen_to_end_before(late):
    """Once the machine was fast enough to see both in one look, rank 0 was named that had only lost the other."""
    wait = f"time.sleep({GRACE_SECONDS / 6}); "
    loses, dies = (LOSES, wait + DIES) if late == 0 else (wait + LOSES, DIES)
    assert launch(ranked(loses, dies), 2, {}) == Ended(1, -signal.SIGKILL, 0)
    assert launch(ranked(dies, loses), 2, {}) == Ended(0, -signal.SIGKILL, 0)


def test_the_first_of_two_causes_is_named_and_a_loss_where_there_is_no_cause():
    assert launch(ranked(f"time.sleep({GRACE_SECONDS / 6}); sys.exit(2)", DIES), 2, {}) == Ended(1, -9, 0)
    assert launch(ranked("", LOSES), 2, {}) == Ended(1, LOST_ANOTHER, 0)
    assert launch(ranked("", ""), 2, {}) is None
