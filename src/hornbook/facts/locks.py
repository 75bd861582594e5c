"""A lock on an open file that ends with its process, however that ends: flock, and on Windows the lock of a byte."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import msvcrt
    import os
    import time

    BYTE = 2**30  # beyond what is written in the file, which others can then read
    LOOK_SECONDS = 0.1

    def hold(descriptor: int, *, wait: bool) -> None:
        """Lock the file. Raises BlockingIOError where another process has it, unless it is to `wait`."""
        while True:
            os.lseek(descriptor, BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return
            except PermissionError as error:
                if not wait:
                    raise BlockingIOError(error.errno, error.strerror) from None
            time.sleep(LOOK_SECONDS)

else:
    import fcntl

    def hold(descriptor: int, *, wait: bool) -> None:
        """Lock the file. Raises BlockingIOError where another process has it, unless it is to `wait`."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
