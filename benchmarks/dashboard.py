"""How fast the dashboard answers: 200 runs of 5,000 steps, one of a million, and a run that is watched while it grows.

`python benchmarks/dashboard.py [--write]` makes the runs in a temporary folder (650 MB), starts `hornbook dashboard` as
a process of its own and asks it over HTTP. `cold` is the first answer after the start, as the page asks for it, with
what has been read so far; `whole` the time until nothing is left to read; `warm` the median of later answers.
`--browser` looks at the page in Chromium as well: times to the next frame that is drawn, and tasks above 50 ms.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from common import HERE
from dashboard_browser import looked_at

RUNS, STEPS, LONG_STEPS = 200, 5000, 1_000_000
WINDOWS, EVALUATIONS = 64, 40
TOKEN = "benchmark0benchmark0"
WITHIN = "within=0.2"  # as web/static/api.js
WATCHED_SECONDS, STEPS_PER_SECOND = 20, 10

SETTINGS = """[text]
paths = ["text.txt"]
[model]
family = "qwen3"
layers = {layers}
width = 256
[optimizer]
name = "muon"
learning_rate = {rate}
[train]
steps = {steps}
seed = {seed}
"""


def step_row(step: int) -> str:
    loss = 3 + 5 * (step + 1) ** -0.3 + 0.01 * (step * 7919 % 13)
    return json.dumps({
        "event": "step", "step": step, "tokens": 4096 * step, "epoch": step / 500, "seconds": 0.1 * step,
        "flops": 10**9 * step, "train_loss_nats_per_token": loss, "learning_rate": 0.001, "gradient_norm": 0.5 + loss,
        "tokens_per_second": 40_000.5, "mfu": 0.31, "muon_learning_rate": 0.02,
    }, separators=(",", ":"))  # fmt: skip


def evaluation_row(step: int, lift: float) -> str:
    loss = 3.1 + lift + 5 * (step + 1) ** -0.3
    windows = [round(loss + 0.1 * (i % 7 - 3), 5) for i in range(WINDOWS)]
    return json.dumps({
        "event": "evaluation", "step": step, "tokens": 4096 * step, "epoch": step / 500, "seconds": 0.1 * step,
        "flops": 10**9 * step, "probe_validation_loss_nats_per_token": loss,
        "probe_train_loss_nats_per_token": loss - 0.1,
        "probe_validation_window_nats": windows, "probe_train_window_nats": windows,
        "probe_validation_bits_per_byte": loss / 2, "cost": {"gpu_hours": step / 36_000},
    }, separators=(",", ":"))  # fmt: skip


def make_run(folder: Path, steps: int, number: int) -> None:
    (folder / "reports").mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    every = steps // EVALUATIONS
    with open(folder / "metrics.jsonl", "w") as log:
        log.write(evaluation_row(0, number / 1000) + "\n")
        for step in range(1, steps + 1):
            log.write(step_row(step) + "\n")
            if step % every == 0:
                log.write(evaluation_row(step, number / 1000) + "\n")
        end = {"event": "end", "step": steps, "tokens": 4096 * steps, "reason": "length reached"}
        log.write(json.dumps(end) + "\n")
    settings = SETTINGS.format(layers=2 + number % 5, rate=0.001 * (1 + number % 3), steps=steps, seed=number)
    (folder / "settings.toml").write_text(settings)


class Server:
    """`hornbook dashboard` of a folder."""

    def __init__(self, folder: Path) -> None:
        variables = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "HORNBOOK_TOKEN": TOKEN}
        begin = time.perf_counter()
        command = [sys.executable, "-m", "hornbook", "dashboard", str(folder), "--port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=variables, text=True)
        assert self.process.stdout is not None
        lines = ""
        while not lines.rstrip().endswith("}"):
            lines += self.process.stdout.readline()
        self.login = json.loads(lines)["address"]
        self.address = self.login.partition("?")[0]
        self.start_seconds = time.perf_counter() - begin

    def ask(self, path: str) -> tuple[float, Any]:
        """Seconds to the last byte, and the answer."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        begin = time.perf_counter()
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = answer.read()
        return time.perf_counter() - begin, json.loads(content)

    def measure(self, path: str, times: int = 7) -> dict[str, float]:
        asked, begin = f"{path}{'&' if '?' in path else '?'}{WITHIN}", time.perf_counter()
        cold, answer = self.ask(asked)
        while answer.get("num_unread") or answer.get("share_read", 1) < 1:
            _, answer = self.ask(asked)
        whole = time.perf_counter() - begin
        warm = [self.ask(asked)[0] for _ in range(times)]
        num_bytes = len(json.dumps(answer, separators=(",", ":")))
        return {"cold_seconds": cold, "whole_seconds": whole, "warm_seconds": statistics.median(warm),
                "bytes": num_bytes}  # fmt: skip

    def memory_bytes(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def watched(server: Server, folder: Path) -> dict[str, float]:
    """The share of a core that the server takes while a page looks at a run that makes 10 steps a second."""
    make_run(folder, 2000, 999)
    stopped, arrived = threading.Event(), []

    def look(path: str) -> None:
        request = urllib.request.Request(server.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            for line in answer:
                if line.startswith(b"data: ") and b'"rows"' in line:
                    arrived.append((time.time(), json.loads(line[6:])["rows"]))
                if stopped.is_set():
                    return

    size = (folder / "metrics.jsonl").stat().st_size
    for path in (f"api/runs/{folder.name}/events?offset={size}", "api/events"):
        threading.Thread(target=look, args=(path,), daemon=True).start()
    time.sleep(2)
    begin, used, written = time.perf_counter(), server.cpu_seconds(), {}
    step = 2000
    with open(folder / "metrics.jsonl", "a", buffering=1) as log:
        while time.perf_counter() - begin < WATCHED_SECONDS:
            step += 1
            written[step] = time.time()
            log.write(step_row(step) + "\n")
            if step % 20 == 0:
                log.write(evaluation_row(step, 0.0) + "\n")
            time.sleep(1 / STEPS_PER_SECOND)
    share = (server.cpu_seconds() - used) / (time.perf_counter() - begin)
    time.sleep(1.5)
    stopped.set()
    delays = [at - written[row["step"]] for at, rows in arrived for row in rows if row["event"] == "step"]
    assert len(delays) == len(written)
    return {"share_of_a_core": share, "most_seconds_until_seen": max(delays), "rows_seen": len(delays)}


def main() -> None:
    sizes = {"runs": RUNS, "steps": STEPS, "long_steps": LONG_STEPS}
    results: dict[str, Any] = {**sizes, "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as temporary:
        many, long = Path(temporary) / "many", Path(temporary) / "long"
        for number in range(RUNS):
            make_run(many / f"run-{number:03d}", STEPS, number)
        make_run(long / "long", LONG_STEPS, 0)
        server = Server(many)
        results["start_seconds"] = server.start_seconds
        results["list"] = server.measure("api/runs")
        results["one run"] = server.measure("api/runs/run-100")
        results["one run's columns"] = server.measure("api/runs/run-100/series?points=1200")
        for number in range(RUNS):
            server.ask(f"api/runs/run-{number:03d}/series")
        results["memory after every run was opened, bytes"] = server.memory_bytes("VmRSS")
        results["watched"] = watched(server, many / "live")
        results["most memory, bytes"] = server.memory_bytes("VmHWM")
        server.stop()
        if "--browser" in sys.argv:
            results["browser"] = looked_at(Server, many, long)
        server = Server(long)
        results["long list"] = server.measure("api/runs")
        results["long run"] = server.measure("api/runs/long")
        results["long run's columns"] = server.measure("api/runs/long/series?points=1200")
        results["long run's columns, zoomed"] = server.measure("api/runs/long/series?points=1200&from=400000&to=450000")
        results["long run, most memory, bytes"] = server.memory_bytes("VmHWM")
        server.stop()
    print(json.dumps(results, indent=2))
    if "--write" in sys.argv:
        (HERE / "results" / "dashboard.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
