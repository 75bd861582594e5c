"""Several processes train as one does: real ones, over gloo, with one thread each."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hornbook
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine import loading
from hornbook.engine.launch import LOST
from hornbook.records.run import Run

RANKS = Path(__file__).with_name("ranks.py")
STEPS, EVERY, FILE_BYTES = 24, 8, 200_000
SETTINGS = {
    "text.tokenizer": "bytes", "text.split": "tail:0.1", "train.threads": 1, "model.layers": 2, "model.width": 32,
    "model.context": 32, "model.tied": False, "model.dropout": 0.1, "train.batch": 8, "train.microbatch": 4,
    "optimizer.name": "muon", "optimizer.clip_norm": 0.1, "watch.evaluate_every": 8, "watch.sample_tokens": 8,
    "watch.probe_tokens": 200, "checkpoint.every": EVERY, "checkpoint.keep": 9,
}  # fmt: skip
COMMAND = ["train", "text.txt", *(f"--{name}={value}" for name, value in SETTINGS.items()), "--out", "run"]


def of_ranks(folder, number, **asked):
    """What ranks.py sees as so many processes; None: as one that knows of no others."""
    folder.mkdir(exist_ok=True)
    out, variables = folder / f"{number}.json", dict(os.environ)
    variables |= {"PYTHONPATH": str(Path(hornbook.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    ranked = [{}]
    if number is not None:
        variables |= {
            "WORLD_SIZE": str(number),
            "GLOO_SOCKET_IFNAME": "lo",
            "HORNBOOK_STORE": str(folder / f"s{number}"),
        }
        ranked = [{"RANK": str(rank)} for rank in range(number)]
    command = [sys.executable, str(RANKS), str(out), json.dumps(asked)]
    processes = [subprocess.Popen(command, env=variables | its, stderr=subprocess.PIPE, text=True) for its in ranked]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(errors)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return of_ranks(tmp_path_factory.mktemp("alone"), None)


def test_two_processes_train_to_the_bits_of_one(tmp_path, alone):
    """With clipping, AdamW and Muon, tied and untied, all weights on each or a part; one microbatch for each."""
    seen = of_ranks(tmp_path, 2)
    assert len(seen) == 2 * len(alone)
    for case, of_case in seen.items():
        assert of_case == alone[f"{case.rpartition(' ')[0]} 1"], case


def test_what_is_not_finite_on_one_process_is_skipped_by_all(alone):
    """As it is by one: that several have the same bits is the test before."""
    for case, of_case in alone.items():
        norms = [norm for _, norm in of_case["trace"]]
        assert (None in norms) == (" True" in case.rpartition(" ")[0][-5:]), case


def test_four_processes_have_the_losses_of_one(tmp_path, alone):
    """All weights on each, a quarter, or a half."""
    seen = of_ranks(tmp_path, 4, every=3)
    assert len(seen) >= 6
    for case, of_case in seen.items():
        traces = [ours["trace"] for ours in (of_case, alone[f"{case.rpartition(' ')[0]} 1"])]
        ours, theirs = ([nats for nats, _ in trace if nats is not None] for trace in traces)
        assert ours == pytest.approx(theirs, rel=1e-6), case


def same(seen, wanted):
    """Whether each case has the traces (of its last updates), weights and moments that it should have."""
    assert seen
    for case, of_case in seen.items():
        its = wanted[f"{case.rpartition(' ')[0]} 1"]
        trace = its["trace"][len(its["trace"]) - len(of_case["trace"]) :]
        assert of_case == its | {"trace": trace}, case


def test_one_then_two_then_one_process_have_the_bits_of_one(tmp_path, alone):
    """Each goes on from what the one before it has saved: whole, in two parts, whole again."""
    saved = [str(tmp_path / name) for name in "ab"]
    of_ranks(tmp_path / "1", None, last=2, to=saved[0])
    of_ranks(tmp_path / "2", 2, after=2, last=4, of=saved[0], to=saved[1], replicas=[1])
    assert sorted(path.name for path in next((tmp_path / "b").iterdir()).iterdir()) == [
        "manifest.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "optimizer-00001-of-00002.safetensors", "optimizer-00002-of-00002.safetensors",
    ]  # fmt: skip
    same(of_ranks(tmp_path / "3", None, after=4, of=saved[1]), alone)


@pytest.mark.slow
def test_weights_and_moments_pass_through_any_number_of_processes(tmp_path, alone):
    """One process's, in four parts, in two, on each of two replicas of two parts, whole, in two copies, whole."""
    saved = [str(tmp_path / name) for name in "abcdefg"]
    of_ranks(tmp_path / "0", None, every=3, to=saved[0])
    for number, (ranks, replicas) in enumerate(((4, 1), (2, 1), (4, 2), (None, 1), (2, 2))):
        of, to = saved[number], saved[number + 1]
        seen = of_ranks(
            tmp_path / str(number + 1), ranks, every=3, after=5, last=5, of=of, to=to, replicas=[replicas]
        )  # fmt: skip
        same(seen, alone)
        files = sorted(path.name for path in next(Path(to).iterdir()).iterdir())
        assert len(files) == 1 + 2 * (ranks or 1) // replicas
    for folder in Path(saved[0]).iterdir():  # replicated, too, it is what one process writes
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert (Path(saved[5]) / folder.name / file).read_bytes() == (folder / file).read_bytes()


def weights(run, step=STEPS):
    """Of a checkpoint, whole or in parts, with the optimizer's moments: bytes by name."""
    folder = Path(run) / "checkpoints" / f"step-{step:08d}"
    files = [loading.stored(folder, file) for file in (checkpoints.MODEL, checkpoints.OPTIMIZER)]
    return {name: tensor.numpy().tobytes() for tensors in files for name, tensor in tensors.items()}


def losses(run):
    return [row["train_loss_nats_per_token"] for row in Run(run).rows() if row["event"] == "step"]


def evaluations(run):
    keys = ("step", "probe_train_loss_nats_per_token", "probe_validation_window_nats", "copied_share")
    return [[row.get(key) for key in keys] for row in Run(run).rows() if row["event"] == "evaluation"]


def samples(run):
    return [(sample["step"], sample["prompt"], sample["text"]) for sample in Run(run).samples()]


def forget_after(run, step):
    for folder in Run(run).checkpoints():
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, english, hornbook_in):
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "text.txt").write_text(english[:6000], encoding="utf-8")
    finished = hornbook_in(folder)(*COMMAND, "--steps", STEPS)
    assert finished.code == 0, finished.stderr
    return folder


def test_a_run_goes_on_with_two_processes_and_with_one_again(tmp_path, whole, hornbook_in):
    """By two, from step 8 on by two that share the weights, from step 16 by one: the bits of one process; one log."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    for step, mesh in ((0, "replicate"), (EVERY, "shard"), (2 * EVERY, None)):
        forget_after(run, step)
        more = [] if mesh is None else ["--processes", "2", "--parallel", mesh]
        finished = hornbook_in(tmp_path)(*COMMAND, "--steps", STEPS, *more, "--json")
        assert finished.code == 0, finished.stderr
        assert finished.json["step"] == STEPS
        assert weights(run) == weights(whole / "run")
        assert losses(run) == losses(whole / "run")
        assert evaluations(run) == evaluations(whole / "run")
        assert samples(run) == samples(whole / "run")
    assert [row["step"] for row in Run(run).rows() if row["event"] == "resume"] == [0, EVERY, 2 * EVERY]


def children(process):
    """The processes that `process` has launched, by rank."""
    ranked = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranked |= {int(v.partition(b"=")[2]): int(pid) for v in variables if v.startswith(b"RANK=")}
    return ranked


def under_way(folder, hornbook_in, beyond, *more):
    """Two processes that have trained beyond a step."""
    process = hornbook_in(folder).start(
        *COMMAND, "--steps", 100_000, "--processes", "2", "--watch.evaluate_every", "50000", *more
    )
    while not (folder / "run" / "metrics.jsonl").exists() or len(losses(folder / "run")) <= beyond:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")
def test_a_signal_to_one_process_saves_once_and_the_death_of_one_ends_all(tmp_path, english, hornbook_in):
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    process = under_way(tmp_path, hornbook_in, 3)
    os.kill(children(process)[1], signal.SIGTERM)
    stopped = hornbook_in(tmp_path).finish(process)
    assert stopped.code == 128 + signal.SIGTERM, stopped.stderr
    assert stopped.stderr.count("everything is saved") == 1
    rows = Run(tmp_path / "run").rows()
    last = max(row["step"] for row in rows if row["event"] == "step")
    assert [row["step"] for row in rows if row["event"] == "end"] == [last]
    assert [row["step"] for row in rows if row["event"] == "checkpoint"].count(last) == 1

    process = under_way(tmp_path, hornbook_in, last + 3)
    ranked = children(process)
    os.kill(ranked[1], signal.SIGKILL)
    ended = hornbook_in(tmp_path).finish(process, hang_seconds=10)
    assert ended.code == 1
    assert (
        "process 1 of 2 has ended (SIGKILL), so all others were ended; resume with: hornbook train --out run."
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr
    assert not Path(f"/proc/{ranked[0]}").exists()


# Ends process 1 by a signal at its fifth flush: the second of its part of step 16 (0: weights; 8: and moments).
KILLED = """
import os, signal
flushes, real = iter(range(100)), os.fsync
def fsync(descriptor):
    if next(flushes) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
if os.environ.get("RANK") == "1":
    os.fsync = fsync
"""


def test_a_process_that_dies_inside_a_save_leaves_the_checkpoint_before_it(tmp_path, whole, english, hornbook_in):
    """With it two that share the weights go on, to the bits of one."""
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(KILLED, encoding="utf-8")
    command = [*COMMAND, "--steps", STEPS, "--processes", "2", "--parallel", "shard"]
    ended = hornbook_in(tmp_path).finish(hornbook_in(tmp_path).start(*command, path=tmp_path))
    assert ended.code == 1
    told = "process 1 of 2 has ended (SIGKILL), so all others were ended; resume with: hornbook train --out run"
    assert told in ended.stderr
    run = tmp_path / "run"
    assert [folder.name for folder in Run(run).checkpoints()] == ["step-00000000", "step-00000008"]
    finished = hornbook_in(tmp_path)(*command)
    assert finished.code == 0, finished.stderr
    assert "resuming from step 8 of 24" in finished.stderr
    assert not [*(run / "checkpoints").glob(".*")]
    assert weights(run) == weights(whole / "run")
    assert losses(run) == losses(whole / "run")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit of another process is set by prlimit")
def test_a_process_that_cannot_write_its_part_ends_all_with_a_sentence(tmp_path, english, hornbook_in):
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    process = under_way(tmp_path, hornbook_in, EVERY + 2, "--parallel", "shard")
    resource.prlimit(children(process)[1], resource.RLIMIT_FSIZE, (1000, 1000))
    ended = hornbook_in(tmp_path).finish(process)
    assert ended.code == 1
    assert ended.stderr.count("hornbook: ") == 1
    assert "cannot continue: File too large (process 1 of 2)." in ended.stderr
    assert not [*(tmp_path / "run" / "checkpoints").glob(".*")]
    for folder in (saved := Run(tmp_path / "run").checkpoints()):
        loading.verify(folder)
    assert len(saved) > 1


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="other systems have no such memory")
def test_a_limit_of_files_ends_all_with_a_sentence(tmp_path, english, hornbook_in):
    """Also where it is the memory that replicas would share that counts as a file."""
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_BYTES}, {FILE_BYTES}))"
    (tmp_path / "sitecustomize.py").write_text(limited, encoding="utf-8")
    command = [*COMMAND, "--steps", STEPS, "--processes", "2", "--parallel", "replicate", "--model.width", 64]
    ended = hornbook_in(tmp_path).finish(hornbook_in(tmp_path).start(*command, path=tmp_path))
    assert ended.code == 1
    assert "cannot continue: File too large" in ended.stderr
    assert ended.stderr.count("hornbook: ") == 1
    assert "Traceback" not in ended.stderr


FAILS = """
import sys
import torch
from hornbook.engine.world import join, together
from hornbook.facts.errors import SystemFailure

world = join(3000.0)
try:
    with together(world):
        if world.rank == 0:
            raise SystemFailure("the disk is full.")
        world.sum(torch.zeros(1))
except SystemFailure as failure:
    print(failure, flush=True)
    sys.exit(1)
"""


def test_what_ends_process_0_ends_those_that_wait_for_something_else(tmp_path):
    variables = {**os.environ, "PYTHONPATH": str(Path(hornbook.__file__).parents[1]), "GLOO_SOCKET_IFNAME": "lo"}
    variables |= {"WORLD_SIZE": "2", "HORNBOOK_STORE": str(tmp_path / "store")}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", FAILS], env=variables | {"RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    said = [rank.communicate(timeout=600)[0].strip() for rank in ranks]
    assert said == ["the disk is full.", LOST]
    assert [rank.returncode for rank in ranks] == [1, 1]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")
def test_a_process_that_does_not_answer_is_told_as_that(tmp_path, english, hornbook_in):
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    process = under_way(tmp_path, hornbook_in, 3, "--timeout", 4)
    os.kill(children(process)[1], signal.SIGSTOP)
    ended = hornbook_in(tmp_path).finish(process)
    assert ended.code == 1
    assert "another process of this training did not answer for 4 s (--timeout)" in ended.stderr
    assert ended.stderr.count("hornbook: ") == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RANK": "5", "WORLD_SIZE": "2"}, "RANK is 5, but must be a number from 0 to 1"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is -1, but must be a number from 0 to 1"),
        ({"RANK": "0"}, "WORLD_SIZE is not set, but must be a number"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is 0, but must be 1 or more"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "abc"}, "MASTER_PORT is abc, but must be a number from 0"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}, "MASTER_ADDR is not set"),
    ],
)
def test_what_no_launcher_gives_is_refused(tmp_path, english, hornbook_in, variables, sentence, monkeypatch):
    (tmp_path / "text.txt").write_text(english[:6000], encoding="utf-8")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused = hornbook_in(tmp_path)(*COMMAND, "--steps", 3)
    assert refused.code == 2
    assert refused.stderr.startswith(f"hornbook: {sentence}")
    assert len(refused.stderr.splitlines()) == 1


def test_what_several_processes_score_has_the_bits_of_one(tmp_path, english, hornbook_in):
    """The probe and the validation text, by the best weights, with batches for all of them and too few."""
    (tmp_path / "text.txt").write_text(english[:40_000], encoding="utf-8")
    report, seen = tmp_path / "run" / "reports" / "evaluation.json", []
    for processes, layout in ((1, "replicate"), (2, "replicate"), (4, "replicate"), (2, "shard"), (4, "shard")):
        command = [*COMMAND, "--watch.probe_tokens", 2000, "--steps", 3, "--processes", processes]
        finished = hornbook_in(tmp_path)(*command, "--parallel", layout, "--json")
        assert finished.code == 0, finished.stderr
        summary = json.loads((tmp_path / "run" / "reports" / "summary.json").read_text("utf-8"))
        examples = [summary["inspection_before"], summary["inspection_after"]]
        train_loss = finished.json["train_loss_nats_per_token"]
        seen.append((json.loads(report.read_text("utf-8")), train_loss, examples))
        report.unlink()
    assert all(one == seen[0] for one in seen[1:])
    assert all(seen[0][2])
    assert seen[0][0]["num_tokens"] >= 3000


def test_what_is_wrong_is_said_once(tmp_path, english, hornbook_in):
    (tmp_path / "text.txt").write_text("a", encoding="utf-8")
    refused = hornbook_in(tmp_path)("train", "text.txt", "--processes", "2", "--steps", "3", "--out", "run")
    assert refused.code == 2
    assert refused.stderr.count("hornbook: ") == 1
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard", "replicate"])
def test_a_run_that_goes_back_and_decays_does_so_with_two_processes(tmp_path, english, hornbook_in, parallel):
    """What is decided, and the weights of the best look, are rank 0's; all take them over."""
    settings = {
        "text.tokenizer": "bpe:320", "text.split": "tail:0.2", "train.threads": 1, "train.precision": "float32",
        "model.layers": 2, "model.width": 64, "model.context": 32, "train.batch": 4, "train.microbatch": 2,
        "optimizer.name": "muon", "optimizer.muon_learning_rate": 0.06, "watch.sample_tokens": 4,
        "watch.evaluate_every": 4, "schedule.name": "constant", "checkpoint.every": 16, "train.budget": "10m",
    }  # fmt: skip
    (tmp_path / "text.txt").write_text(english[:3000], encoding="utf-8")
    command, ends = ["train", "text.txt", *(f"--{name}={value}" for name, value in settings.items())], []
    for out, more in (("one", []), ("two", ["--processes", "2", "--parallel", parallel])):
        finished = hornbook_in(tmp_path)(*command, *more, "--out", out, "--json")
        assert finished.code == 0, finished.stderr
        decided = [row for row in Run(tmp_path / out).rows() if row["event"] == "decision"]
        assert "decay" in [row["decision"] for row in decided]
        ends.append((decided, losses(tmp_path / out), weights(tmp_path / out, finished.json["step"])))
    assert ends[0] == ends[1]
