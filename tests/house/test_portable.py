"""The core runs where Windows' and macOS' modules, files and calls are all that there is.

No such machine is at hand: a process of this one loses what they lack. Libraries are imported before, since they look
at sys.platform when they are; every file of ours is imported after.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import hornbook
from hornbook.records.run import Run

BLOCK = """
import builtins, os, signal, sys, time, types
import multiprocessing, shutil, socket, subprocess, tempfile, argparse, asyncio, ctypes, uuid, webbrowser
import numpy, torch, torch._dynamo, matplotlib, matplotlib.figure, matplotlib.backends.backend_agg
import matplotlib.backends.backend_svg, rich.console, rich.live, rich.table, rich.progress, safetensors.torch
import tokenizers
import tiktoken, msgspec, jinja2, tomli_w
import fcntl as real

system = sys.argv.pop(1)
lacking = {"win32": ("fcntl", "resource", "pwd", "grp", "termios"), "darwin": ()}[system]
for name in lacking:
    sys.modules[name] = None
calls = ["sched_getaffinity"]
if system == "win32":
    calls += ["O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "sysconf", "pread", "pwrite", "geteuid", "getuid", "fork",
              "killpg", "WUNTRACED", "statvfs"]
for name in calls:
    if hasattr(os, name):
        delattr(os, name)
for name in ("CLOCK_BOOTTIME", *(("clock_gettime",) if system == "win32" else ())):
    delattr(time, name)
if system == "win32":
    for name in ("SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP"):
        delattr(signal, name)
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK = 2
    def locking(descriptor, mode, num_bytes):
        assert mode == 2 and os.lseek(descriptor, 0, os.SEEK_CUR) > 2**20
        try:
            real.flock(descriptor, real.LOCK_EX | real.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(error.errno, error.strerror) from None
    msvcrt.locking = locking
    psutil = types.ModuleType("psutil")
    psutil.virtual_memory = lambda: types.SimpleNamespace(total=8 * 2**30)
    psutil.Process = lambda: types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(peak_wset=2**28))
    sys.modules |= {"msvcrt": msvcrt, "psutil": psutil}

real_open, os_open, os_stat = builtins.open, os.open, os.stat
def refuse(path):
    if isinstance(path, (str, os.PathLike)) and str(path).startswith("/proc"):
        raise FileNotFoundError(2, "there is no /proc here", str(path))
def opened(path, *arguments, **options):
    refuse(path)
    return real_open(path, *arguments, **options)
def os_opened(path, *arguments, **options):
    refuse(path)
    if system == "win32" and os.path.isdir(path):
        raise PermissionError(13, "a folder cannot be opened", str(path))
    return os_open(path, *arguments, **options)
def stat_of(path, *arguments, **options):
    refuse(path)
    return os_stat(path, *arguments, **options)
os.stat = stat_of
import io
builtins.open = io.open = opened
os.open = os_opened
rename = os.rename
if system == "win32":
    def renamed(source, target, **options):  # none in which a file is open
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        inside = [os.readlink(link) for link in links if os.path.islink(link)]
        held = [name for name in inside if name.startswith(os.path.abspath(source) + os.sep)]
        if held:
            raise PermissionError(13, "a file in it is open", held[0])
        return rename(source, target, **options)
    os.rename = renamed
os.environ["PATH"] = ""  # no compiler
sys.platform = system
from hornbook.cli import main
sys.exit(main())
"""
SMALL = (
    "--tokenizer", "bytes", "--split", "tail:0.1", "--threads", "1", "--model.layers", "1", "--model.width", "32",
    "--model.context", "32", "--train.batch", "4", "--watch.sample_tokens", "4",
)  # fmt: skip


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_core_runs_with_what_other_systems_have(tmp_path, english, system):
    (tmp_path / "text.txt").write_text(english, encoding="utf-8")

    def run(*arguments, code=0):
        environment = {"PYTHONPATH": str(Path(hornbook.__file__).parents[1]), "OMP_NUM_THREADS": "1", "NO_COLOR": "1",
                       "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}  # fmt: skip
        command = [sys.executable, "-c", BLOCK, system, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        return done

    run("train", "text.txt", *SMALL, "--steps", 12, "--out", "run", "--json")
    run("train", "text.txt", *SMALL, "--steps", 20, "--out", "run", "--json")
    run("evaluate", "run")
    run("generate", "run", "The ", "--max-tokens", "8")
    with Run.open(tmp_path / "run").lock():
        busy = run("train", "text.txt", *SMALL, "--steps", 20, "--out", "run", code=2)
    assert "is in use by another process (process " in busy.stderr
    if system == "win32":
        assert "signals that Windows lacks" in run("prove", "run", code=2).stderr
