import subprocess
import sys
import time

import pytest
import torch

from hornbook.engine.device import Telemetry
from hornbook.facts.hardware import custom

TRIM = """
import threading, torch
from pathlib import Path
from hornbook.engine.device import return_freed_memory
kept = []
def work():  # what stays at the end keeps all that lies before it
    kept.append([torch.ones(16_384) for _ in range(2000)])
thread = threading.Thread(target=work)
thread.start()
thread.join()
kept[0] = kept[0][-1:]
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be asked to give memory back")
def test_what_another_thread_freed_goes_back():
    said = subprocess.run([sys.executable, "-c", TRIM], check=True, capture_output=True, text=True)
    assert int(said.stdout) > 100e6  # of 131 MB


def test_a_peak_that_is_evidently_too_low_is_measured_again():
    cpu = torch.device("cpu")
    meter = Telemetry(time.monotonic(), cpu, custom("this machine", 1e6))
    assert meter.mfu(5e5) == 0.5  # nothing is wrong with that
    assert 0 < meter.mfu(2e6) < 0.5
    assert meter.device.training_flops()[1] > 1e7
    assert meter.mfu(1e30) is None
