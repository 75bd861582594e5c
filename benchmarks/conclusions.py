"""Holds every conclusion of Hornbook against cases whose answer is known, and counts how often it was wrong.

    python benchmarks/conclusions.py coverage     # one case; a case that was interrupted goes on where it stood
    python benchmarks/conclusions.py --list

Each case is a file `conclude_CASE.py` with a function `main(work)`; `work` is its folder for texts, runs and finished
parts (HORNBOOK_CONCLUSIONS, or .conclusions beside this file), so that nothing is computed twice. What it returns is
written to results/conclusions/CASE.json: `rates` by the id of a conclusion, each a list of {what, wrong, tried}
(`beside`: beside what is claimed), and whatever else was measured. docs/conclusions.md is made of these files. Texts:
HORNBOOK_DATA, or ../shared/data.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CASES = sorted(path.stem.removeprefix("conclude_") for path in HERE.glob("conclude_*.py"))


def work_folder(case: str) -> Path:
    folder = Path(os.environ.get("HORNBOOK_CONCLUSIONS") or HERE / ".conclusions") / case
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON value at `path`; made and written where it is not there yet."""
    if not path.is_file():
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(value))
        aside.replace(path)
    return json.loads(path.read_text())


def bound(wrong: int, tried: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of a rate (Clopper and Pearson 1934), by bisection.

    >>> tuple(round(end, 3) for end in bound(0, 60)), tuple(round(end, 3) for end in bound(3, 60))
    ((0.0, 0.06), (0.01, 0.139))
    """

    def at_most(k: int, p: float) -> float:
        ways = (math.lgamma(tried + 1) - math.lgamma(i + 1) - math.lgamma(tried - i + 1) for i in range(k + 1))
        return math.fsum(math.exp(w + i * math.log(p) + (tried - i) * math.log1p(-p)) for i, w in enumerate(ways))

    def solve(above: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if above(middle) else (low, middle)
        return low

    tail = (1 - level) / 2
    low = 0.0 if wrong == 0 else solve(lambda p: 1 - at_most(wrong - 1, p) < tail)
    high = 1.0 if wrong == tried else solve(lambda p: at_most(wrong, p) > tail)
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(CASES))
    for case in arguments.cases:
        if case not in CASES:
            sys.exit(f"no case is called {case}: there are {', '.join(CASES)}.")
        began = time.monotonic()
        result = importlib.import_module(f"conclude_{case}").main(work_folder(case))
        from run import machine

        facts = {"case": case, "machine": machine(), "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"}
        result = facts | {"seconds": round(time.monotonic() - began)} | result
        path = HERE / "results" / "conclusions" / f"{case}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        for name, rates in result.get("rates", {}).items():
            for rate in rates:
                low, high = bound(rate["wrong"], rate["tried"])
                print(f"{name}: {rate['what']}: {rate['wrong']} of {rate['tried']} ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
