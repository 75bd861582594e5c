"""Two nodes under torchrun, as two network namespaces of this machine."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hornbook
from hornbook.records.run import Run

NODES = ("hornbook0", "hornbook1")
COMMAND = [
    "train", "text.txt", "--tokenizer", "bytes", "--split", "tail:0.1", "--threads", "1", "--model.layers", "2",
    "--model.width", "32", "--model.context", "32", "--train.batch", "16", "--train.microbatch", "4", "--steps", "80",
    "--sample-tokens", "8", "--probe-tokens", "200", "--checkpoint.every", "10", "--out", "run",
]  # fmt: skip


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def nodes():
    if sys.platform != "linux" or os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root on Linux, and ip")
    made = [ip("netns", "add", node) for node in NODES]
    if any(done.returncode for done in made):
        pytest.skip(made[-1].stderr)
    ip("link", "add", "veth0", "netns", NODES[0], "type", "veth", "peer", "name", "veth1", "netns", NODES[1])
    for number, node in enumerate(NODES):
        ip("-n", node, "addr", "add", f"10.77.0.{number + 1}/24", "dev", f"veth{number}")
        for link in (f"veth{number}", "lo"):
            ip("-n", node, "link", "set", link, "up")
    yield
    for node in NODES:
        kill(node)
        ip("netns", "del", node)


def kill(node):
    for pid in ip("netns", "pids", node).stdout.split():
        os.kill(int(pid), 9)


def start(folder):
    """torchrun on both nodes, two processes each."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    source = str(Path(hornbook.__file__).parents[1])
    started = []
    for number, node in enumerate(NODES):
        variables = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"veth{number}"}
        where = ["--node-rank", str(number), "--local-addr", f"10.77.0.{number + 1}"]
        where += ["--master-addr", "10.77.0.1", "--master-port", "29511", "-m", "hornbook", *COMMAND]
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", node, *torchrun, *where, "--parallel", "hybrid"], cwd=folder, env=variables,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    return started


def ended(started):
    """Wait until both nodes have."""
    for process in started:
        assert process.wait(timeout=240) == 0, process.communicate()[1]
    for process in started:
        process.communicate()


def losses(run):
    return {row["step"]: row["train_loss_nats_per_token"] for row in Run(run).rows() if row["event"] == "step"}


def weights(run):
    """Of the last checkpoint, as they are on the disk."""
    last = Run(run).checkpoints()[-1]
    return {file.name: file.read_bytes() for file in sorted(last.glob("*.safetensors"))}


@pytest.mark.slow
def test_a_run_goes_on_when_a_node_was_killed(tmp_path, nodes, english, hornbook_in):
    """With the bits of four processes that nothing disturbed; one process adds up in another order."""
    for folder in ("one", "undisturbed", "many"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.txt").write_text(english[:12_000], encoding="utf-8")
    assert hornbook_in(tmp_path / "one")(*COMMAND).code == 0
    ended(start(tmp_path / "undisturbed"))
    started, run = start(tmp_path / "many"), tmp_path / "many" / "run"
    while not (run / "metrics.jsonl").exists() or len(losses(run)) < 25:
        assert [process.poll() for process in started] == [None, None], started[0].communicate()
        time.sleep(0.05)
    kill(NODES[1])
    assert started[0].wait(timeout=60) != 0
    assert "another process of this training has ended" in started[0].communicate()[1]
    started[1].communicate()
    assert max(losses(run)) < 80
    ended(start(tmp_path / "many"))
    assert [row["step"] for row in Run(run).rows() if row["event"] == "resume"] != []
    undisturbed = tmp_path / "undisturbed" / "run"
    assert losses(run) == losses(undisturbed)
    assert weights(run) == weights(undisturbed)
    assert len(weights(run)) == 4  # of the two processes that share one copy, weights and moments
    of_one = losses(tmp_path / "one" / "run")
    assert losses(run) == pytest.approx(of_one, rel=1e-5)
    first = range(1, 21)  # rounding grows with each update
    assert [losses(run)[n] for n in first] == pytest.approx([of_one[n] for n in first], rel=1e-6)
