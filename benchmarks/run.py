"""Runs the benchmarks: each sample a fresh process, sides interleaved A B B A, a gate of correctness before any ratio.

    python benchmarks/run.py                      # all cases: hours
    python benchmarks/run.py "training S" memory  # cases by name, or all of a file
    python benchmarks/run.py --rounds 1 generation
    python benchmarks/run.py --readme             # only write README.md from results/

The peers' environment is made on first use (requirements.txt). Data: HORNBOOK_DATA, or ../shared/data. Results: one
JSON file per machine and commit. A ratio is how many times better the first named side is: of two samples of one
round, the median over rounds, and an interval from resampling rounds.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, Case

FILES = ("training", "generation", "scoring", "tokenizing", "startup", "memory", "shakespeare", "verdict", "books")
RESULTS = HERE / "results"


def made_peers() -> str:
    """The interpreter of the peers' environment, made where it is missing."""
    folder = Path(os.environ.get("HORNBOOK_PEERS") or HERE / ".peers")
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")], check=True)
    return str(python)


def start(case: Case, file: str, side: str, folder: Path) -> str:
    peers = made_peers()
    ours = case.starts_peer or side.startswith("hornbook") or side == "prepare"
    variables = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "PEERS_PYTHON": peers}
    variables |= {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    command = [sys.executable if ours else peers, str(HERE / f"{file}.py"), case.name, side, str(folder)]
    done = subprocess.run(command, env=variables, cwd=folder, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{case.name}, {side}:\n{done.stderr[-3000:]}")
    return done.stdout


def agree(gates: list[Any], tolerance: float) -> bool:
    """Whether all gates are the first: numbers within the relative tolerance, anything else exactly."""
    if isinstance(gates[0], list):
        return len({len(g) for g in gates}) == 1 and all(agree(list(x), tolerance) for x in zip(*gates, strict=True))
    if isinstance(gates[0], float):
        return all(math.isclose(g, gates[0], rel_tol=tolerance, abs_tol=tolerance) for g in gates)
    return all(g == gates[0] for g in gates)


def measure(case: Case, file: str, rounds: int) -> dict[str, Any]:
    samples: dict[str, list[dict[str, Any]]] = {side: [] for side in case.sides}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start(case, file, "prepare", folder)
        for number in range(rounds):
            for side in case.sides if number % 2 == 0 else case.sides[::-1]:
                samples[side].append(json.loads(start(case, file, side, folder).splitlines()[-1]))
                print(
                    f"{case.name} {number + 1}/{rounds} {side}: {samples[side][-1]['value']:.4g} {case.unit}",
                    flush=True,
                )
    gates = [sample.pop("gate", None) for side in case.sides for sample in samples[side]]
    gated = [gate for gate in gates if gate is not None]
    passed = not gated or agree(gated, case.tolerance)
    curves = {side: [sample.pop("curve") for sample in some] for side, some in samples.items() if "curve" in some[0]}
    apart, noise = curve_distances(list(curves.values())) if curves else (None, None)
    passed = passed and (apart is None or all(a <= n for a, n in zip(apart, noise, strict=True)))
    losses = {side: [sample["loss"] for sample in some] for side, some in samples.items() if "loss" in some[0]}
    ratios = {}
    for compare in case.compare:
        if "loss" in samples[compare.a][0]:
            mine, theirs = (statistics.median(losses[side]) for side in (compare.a, compare.b))
            passed = passed and mine <= theirs and max(losses[compare.a]) <= (case.most_loss or math.inf)
        a, b = ([sample["value"] for sample in samples[side]] for side in (compare.a, compare.b))
        pairs = [(x / y if case.more_is_better else y / x) for x, y in zip(a, b, strict=True)]
        ratios[f"{compare.a} / {compare.b}"] = {
            "median": statistics.median(pairs), "interval_95": interval(pairs), "pairs": pairs, "target": compare.target
        }  # fmt: skip
    facts = {
        side: {key: statistics.median(s[key] for s in some) for key in some[0] if isinstance(some[0][key], int | float)}
        for side, some in samples.items()
    }
    if not passed:
        print(f"{case.name}: the sides do not agree, so there is no ratio: {str(gated)[:500]}", file=sys.stderr)
    return {
        "what": case.what, "unit": case.unit, "rounds": rounds, "load_before": os.getloadavg()[0],
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}", "gate": case.gate_of, "gate_passed": passed,
        "ratios": ratios if passed else {}, "medians": facts,
    } | ({"losses": losses} if losses else {}) | (
        {"curves": curves, "curves_apart": apart, "curve_noise": noise} if curves else {}
    )  # fmt: skip


def curve_distances(sides: list[list[list[list[float]]]]) -> tuple[list[float], list[float]]:
    """For each column but the step: how far apart the mean curves of the two sides are at most, and two runs of one
    side at most, at the steps that all curves have.

    >>> curve_distances([[[[5, 2.0]], [[5, 4.0], [6, 1.0]]], [[[5, 3.5]], [[5, 3.5]]]])
    ([0.5], [2.0])
    """
    by_step = [[{row[0]: row[1:] for row in curve} for curve in side] for side in sides]
    steps = set.intersection(*(set(curve) for side in by_step for curve in side))
    apart, noise = [], []
    for column in range(len(sides[0][0][0]) - 1):
        values = {step: [[curve[step][column] for curve in side] for side in by_step] for step in steps}
        apart.append(max(abs(statistics.mean(a) - statistics.mean(b)) for a, b in values.values()))
        noise.append(max(max(runs) - min(runs) for pair in values.values() for runs in pair))
    return apart, noise


def interval(pairs: list[float]) -> list[float]:
    """95 % of the medians of 2,000 resamples; with few pairs that is from the least to the greatest."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(pairs, k=len(pairs))) for _ in range(2000))
    return [medians[50], medians[-51]]


def machine() -> dict[str, Any]:
    """CPU and versions, no names. The commit is that of this checkout."""
    sys.path.insert(0, str(HERE.parent / "src"))
    from hornbook.records.environment import environment

    facts = environment()
    said = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    numbers = [re.search(rf"^{name}\s*: (\d+)$", said, re.MULTILINE) for name in ("cpu family", "model")]
    if all(numbers):  # a cloud's "AMD EPYC" can be any of them
        facts["cpu"] += " (family {}, model {})".format(*(found[1] for found in numbers if found))
    return {key: facts[key] for key in ("cpu", "cores_usable", "memory_bytes", "python", "versions", "git_commit")}


def keep(name: str, result: dict[str, Any]) -> None:
    facts = machine()
    cpu = re.sub(r"[^a-z0-9]+", "-", f"{facts['cpu']} {facts['cores_usable']} cores".lower()).strip("-")
    path = RESULTS / f"{cpu}-{(facts['git_commit'] or 'none')[:10]}.json"
    path.parent.mkdir(exist_ok=True)
    content = json.loads(path.read_text()) if path.is_file() else {"machine": facts, "cases": {}}
    content["cases"][name] = result
    path.write_text(json.dumps(content, indent=1) + "\n")


def number(x: float) -> str:
    return f"{x:.2f}" if x < 100 else f"{x:.0f}"


def readme() -> None:
    """README.md from the newest result of each case on each machine."""
    newest: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {}
    for path in RESULTS.glob("*.json"):
        content = json.loads(path.read_text())
        for name, result in content.get("cases", {}).items():  # other files have another form
            key = (f"{content['machine']['cpu']}, {content['machine']['cores_usable']} cores", name)
            if key not in newest or result["date"] > newest[key][0]["date"]:
                newest[key] = (result, content["machine"])
    known = [case for file in FILES for case in importlib.import_module(file).CASES]
    lines = ["<!-- Written by `python benchmarks/run.py --readme` from results/. -->", "# Benchmarks", ""]
    lines += (__doc__ or "").split("\n\n", 1)[1].strip().split("\n\n")[-1].splitlines()
    lines += ["Only ratios are claimed: absolute numbers belong to one machine at one time.", ""]
    for name in sorted({key[0] for key in newest}):
        lines += [
            f"## {name}",
            "",
            "| case | side / peer | ratio | 95 % interval | pairs | target | commit |",
            "|---|---|---|---|---|---|---|",
        ]
        for case in known:
            if (name, case.name) not in newest:
                continue
            result, facts = newest[name, case.name]
            for sides, ratio in result["ratios"].items():
                target = ratio["target"]
                met = "" if target is None else f"{target:g}{'' if ratio['median'] >= target else ' **missed**'}"
                low, high = ratio["interval_95"]
                lines.append(
                    f"| {case.name} | {sides} | {number(ratio['median'])} | {number(low)} to {number(high)} "
                    f"| {len(ratio['pairs'])} | {met} | {(facts['git_commit'] or '')[:10]} |"
                )
            if not result["gate_passed"]:
                lines.append(f"| {case.name} | gate failed: {result['gate']} | | | {result['rounds']} | | |")
        lines.append("")
        for case in known:
            if (name, case.name) in newest:
                result, _ = newest[name, case.name]
                lines += [f"**{case.name}**: {result['what']} Gate: {result['gate']}."]
                shares = [
                    f"{side}: {key.replace('_', ' ')} {value:.3g}"
                    for side, some in result["medians"].items() for key, value in some.items() if key != "value"
                ]  # fmt: skip
                lines += [f"Medians of the same runs: {'; '.join(shares)}."] if shares else []
                lines += [
                    f"Losses of {side}, one run a seed: {', '.join(f'{loss:.3f}' for loss in some)}."
                    for side, some in result.get("losses", {}).items()
                ]
                if "curves" in result:
                    pairs = zip(("training", "validation"), result["curves_apart"], result["curve_noise"], strict=True)
                    said = [f"{name} {apart:.2f} and {noise:.2f}" for name, apart, noise in pairs]
                    lines += [f"Mean curves apart and runs of a side apart, at most, nats: {'; '.join(said)}."]
                lines += [""]
    (HERE / "README.md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cases or files of cases")
    parser.add_argument("--rounds", type=int, help="instead of each case's own number")
    parser.add_argument("--no-keep", action="store_true", help="write no result")
    parser.add_argument("--readme", action="store_true")
    arguments = parser.parse_args()
    known = [(file, case) for file in FILES for case in importlib.import_module(file).CASES]
    wrong = set(arguments.names) - {case.name for _, case in known} - set(FILES)
    if wrong:
        sys.exit(f"no case is called {min(wrong)}: there are {', '.join(case.name for _, case in known)}.")
    for file, case in known:
        if not arguments.readme and (not arguments.names or {case.name, file} & set(arguments.names)):
            result = measure(case, file, arguments.rounds or case.rounds)
            for sides, ratio in result["ratios"].items():
                print(f"{case.name}: {sides} = {ratio['median']:.3f} {ratio['interval_95']}, target {ratio['target']}")
            if not arguments.no_keep:
                keep(case.name, result)
    if not arguments.no_keep:
        readme()


if __name__ == "__main__":
    main()
