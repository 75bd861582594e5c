"""What a person sees of several processes when something ends them: one sentence, and advice that holds."""

import os
import resource
import shlex
import signal
import time
from pathlib import Path

import pytest

from hornbook.records.run import Run

TEXT = ["train", "text.txt", "--tokenizer", "bytes", "--split", "tail:0.1"]
SMALL = ["--threads", "1", "--model.layers", "2", "--model.width", "64", "--model.context", "64"]
HALVES = ["--train.batch", "8", "--train.microbatch", "4", "--checkpoint.every", "4", "--watch.sample_tokens", "4"]
LONG = [*TEXT, *SMALL, *HALVES, "--steps", "100000", "--watch.evaluate_every", "50000"]
TWO = ["--processes", "2"]
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are looked up in /proc")


@pytest.fixture
def folder(tmp_path, english):
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    return tmp_path


def ranks(process):
    """The processes that it has launched and that have ranks, by rank; of one that has ended, none."""
    ranked = {}
    try:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            for pid in (task / "children").read_text().split():
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                ranked |= {int(v.partition(b"=")[2]): int(pid) for v in variables if v.startswith(b"RANK=")}
    except OSError:
        pass
    return ranked


def until(process, holds):
    while not (value := holds()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return value


def launched(process):
    """The ids of two processes that have just been started."""
    return until(process, lambda: len(both := ranks(process)) == 2 and both)


def trains(process, run, beyond=0):
    """The same, once they have trained beyond a step."""
    log = Run(run)
    until(process, lambda: (run / "metrics.jsonl").exists() and any(row.get("step", 0) > beyond for row in log.rows()))
    return launched(process)


def one_sentence(ended, code):
    assert ended.code == code, ended.stderr
    assert ended.stderr.count("hornbook: ") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr[ended.stderr.index("hornbook: ") :].strip()


def test_a_process_without_memory_says_what_one_alone_would(folder, hornbook_in):
    large = ["--model.layers", "2", "--model.width", "512", "--model.context", "512", "--train.batch", "1024",
             "--train.microbatch", "512", "--threads", "1", "--steps", "5", "--watch.sample_tokens", "1",
             "--watch.probe_tokens", "100"]  # fmt: skip
    limit = 3_500_000 * 1024
    ended = hornbook_in(folder)(
        *TEXT, *large, *TWO, before=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    )
    advice = "try a smaller --model.width, --model.context or --train.microbatch."
    assert one_sentence(ended, 1) == f"hornbook: out of memory: {advice}"


@pytest.mark.parametrize(("who", "pause"), [("launcher", 0.0), ("launcher", 0.7), (0, 0.2), (1, 1.0)])
def test_ctrl_c_while_they_start_is_one_sentence(folder, hornbook_in, who, pause):
    process = hornbook_in(folder).start(*LONG, *TWO)
    both = launched(process)
    until(
        process, lambda: all(b"from_here" not in command(pid) and b"child()" in command(pid) for pid in both.values())
    )
    time.sleep(0.1 + pause)  # inside their imports
    os.kill(process.pid if who == "launcher" else both[who], signal.SIGINT)
    said = one_sentence(hornbook_in(folder).finish(process), 130)
    assert said.startswith("hornbook: stopped ")
    assert not [pid for pid in both.values() if Path(f"/proc/{pid}").exists()]
    assert ("resume with" in said) == (folder / "runs").exists()


def command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_run_goes_on_as_it_was_last_trained(folder, hornbook_in):
    """By two that share the weights, though nothing but its folder is named; by one, once that was asked for."""
    run, line = folder / "my run", hornbook_in(folder)
    process = line.start(*LONG, *TWO, "--parallel", "shard", "--out", "my run")
    os.kill(trains(process, run, 4)[1], signal.SIGKILL)
    advice = "resume with: hornbook train --out 'my run'"
    said = one_sentence(line.finish(process), 1)
    assert said == f"hornbook: process 1 of 2 has ended (SIGKILL), so all others were ended; {advice}."

    process = line.start(*shlex.split(advice)[3:])
    os.kill(trains(process, run, 12)[0], signal.SIGINT)
    assert one_sentence(line.finish(process), 130).endswith(f"everything is saved; {advice}")
    files = {path.name for path in Run(run).checkpoints()[-1].iterdir()}
    assert "model-00002-of-00002.safetensors" in files
    last = max(row["step"] for row in Run(run).rows())

    for more in (["--processes", "1"], []):
        process = line.start("train", "--out", "my run", *more)
        until(process, lambda last=last: any(row["step"] > last for row in Run(run).rows()))
        assert not ranks(process)
        process.send_signal(signal.SIGTERM)
        ended = line.finish(process)
        one_sentence(ended, 143)
        assert ("processes that train: 2 when the run began, 1 from here on" in ended.stderr) == (more == [])
        last = max(row["step"] for row in Run(run).rows())


def test_advice_names_only_what_resumes(folder, hornbook_in):
    line = hornbook_in(folder)
    process = line.start(*LONG, *TWO, "--out", "out")
    os.kill(launched(process)[1], signal.SIGKILL)  # before there is a run
    said = one_sentence(line.finish(process), 1)
    assert said.endswith("so all others were ended.")
    assert not (folder / "out").exists()

    process = line.start(*LONG, *TWO)
    run = until(process, lambda: next((folder / "runs").glob("*-text"), None) if (folder / "runs").exists() else None)
    os.kill(trains(process, run)[0], signal.SIGKILL)
    assert one_sentence(line.finish(process), 1).endswith(f"resume with: hornbook train --out runs/{run.name}.")

    process = line.start(*LONG, *TWO, "--seeds", "2", "--out", "a group")
    os.kill(trains(process, folder / "a group" / "seed-0")[1], signal.SIGKILL)
    said = one_sentence(line.finish(process), 1)
    assert said.endswith(
        "all others were ended; 0 of 2 seeds are finished: the same command with --out 'a group' goes on."
    )


def test_bad_input_leaves_no_folder(folder, hornbook_in):
    one_sentence(hornbook_in(folder)("train", "absent.txt", *TWO), 2)
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


def test_what_does_nothing_is_said(folder, hornbook_in, monkeypatch):
    """One process has nothing to share; a launcher has decided how many there are."""
    short = [*TEXT, *SMALL, *HALVES, "--steps", "2"]
    ended = hornbook_in(folder)(*short, "--parallel", "shard")
    assert ended.code == 0, ended.stderr
    assert "note: --parallel shard does nothing with one process" in ended.stderr
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    ended = hornbook_in(folder)(*short, *TWO)
    assert ended.code == 0, ended.stderr
    assert "note: --processes 2 does nothing under a launcher, which has started 1" in ended.stderr
    assert "--parallel" not in ended.stderr
    run = max((folder / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    assert "processes = 1\n" in (run / "settings.toml").read_text()
