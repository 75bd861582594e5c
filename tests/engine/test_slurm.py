"""`examples/slurm.sh` under Debian's Slurm on this machine: preempted, queued again, and the same weights."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hornbook.engine import checkpoint, loading
from hornbook.records.run import Run

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason="no Slurm here (Debian: slurm-wlm)"),
    pytest.mark.skipif(os.getuid() != 0, reason="slurmd is started as root"),
]
SCRIPT = Path(__file__).parents[2] / "examples" / "slurm.sh"
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=high Nodes={host} PriorityTier=10 State=UP
"""
TRAIN = (
    "text.txt", "--steps", "120", "--model.layers", "1", "--model.width", "32", "--model.context", "32",
    "--train.batch", "4", "--train.microbatch", "2", "--text.tokenizer", "bytes", "--train.threads", "1",
    "--train.precision", "float32",
)  # fmt: skip


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def within(seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.2)
    pytest.fail(f"not within {seconds} s")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster of this machine, on loopback; its commands find it by the environment."""
    folder, running = tmp_path / "slurm", []
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    host, ports = socket.gethostname().split(".")[0], free_ports(3)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, ports=ports, folder=folder))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PORT", str(ports[2]))
    munge = [f"--{name}={folder}/munge.{end}" for name, end in (
        ("socket", "sock"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"),
    )]  # fmt: skip
    try:
        running.append(subprocess.Popen(["munged", "--force", "--foreground", *munge]))
        within(20, (folder / "munge.sock").exists)
        running += [subprocess.Popen([daemon, "-D"]) for daemon in ("slurmctld", "slurmd")]
        within(60, lambda: "idle" in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout)
        yield folder
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def submitted(*arguments):
    done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def state(job):
    done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True)
    return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)


def rows(run, event):
    log = run / "metrics.jsonl"
    return [row for row in Run.open(run).rows() if row["event"] == event] if log.exists() else []


def test_a_preempted_job_is_queued_again_and_ends_with_the_same_weights(tmp_path, monkeypatch, english, slurm):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PROCESSES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "text.txt").write_text(english[:20_000], encoding="utf-8")
    command = [sys.executable, "-m", "hornbook", "train", *TRAIN, "--processes", "2", "--out", "undisturbed"]
    subprocess.run(command, check=True, capture_output=True)

    job = submitted("-n1", "-c2", "--output=log.txt", str(SCRIPT), "run", *TRAIN)
    within(120, lambda: len(rows(tmp_path / "run", "step")) > 10)
    other = submitted("-p", "high", "-c2", "--output=other.txt", "--wrap", "true")
    within(120, lambda: state(other)["JobState"] == "COMPLETED")
    within(120, lambda: state(job)["JobState"] == "PENDING")
    assert [row["reason"] for row in rows(tmp_path / "run", "end")] == ["interrupted"], Path("log.txt").read_text()
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)  # Slurm waits two minutes
    within(180, lambda: state(job)["JobState"] in ("COMPLETED", "FAILED"))
    assert state(job)["JobState"] == "COMPLETED", Path("log.txt").read_text()
    assert state(job)["Restarts"] == "1"
    assert len(rows(tmp_path / "run", "resume")) == 1
    ends = [
        loading.stored(Run.open(tmp_path / name).checkpoints()[-1], checkpoint.MODEL) for name in ("undisturbed", "run")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])
