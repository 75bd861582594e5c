"""`hornbook plan` as a person calls it."""

import json
import subprocess
import sys

import pytest


def hornbook(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hornbook", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_price_of_llama_2_7b_lies_in_the_range():
    done = hornbook("plan", "--parameters", "7B", "--tokens", "2T", "--on", "8xA100", "--price", "30/hour", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    low, high = made["gpu_hours_interval_90"]
    assert low < 184_320 < high
    low, high = made["price_usd_interval_90"]
    assert low < 691_200 < high
    assert high / low <= 4


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--tokens", "2T", "--on", "A100"], "--parameters"),
        (["--parameters", "7B", "--on", "A100"], "--tokens"),
        (["--parameters", "7B", "--tokens", "2T"], "--on"),
        (["--parameters", "7B", "--tokens", "2T", "--on", "A10O"], "A10"),
        (["--parameters", "seven", "--tokens", "2T", "--on", "A100"], "seven"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(arguments, word):
    done = hornbook("plan", *arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
