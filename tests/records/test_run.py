"""The run folder on a real disk: real processes are killed, a real second process asks for the lock."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.io import write_aside
from hornbook.records.listing import runs
from hornbook.records.rows import read_rows, without_replaced
from hornbook.records.run import Run, checkpoint_step, default_out


def _start(program: str, folder: Path) -> subprocess.Popen[str]:
    start = f"import os, signal\nfrom hornbook.records.run import Run\nfolder = {str(folder)!r}\n"
    return subprocess.Popen([sys.executable, "-c", start + program], stdout=subprocess.PIPE, text=True)


def _create(folder: Path) -> Run:
    return Run.create(folder, "seed = 1\n", {"threads": 2})


def test_a_created_run_opens_with_what_it_was_given(tmp_path: Path) -> None:
    _create(tmp_path / "a" / "run")
    run = Run.open(str(tmp_path / "a" / "run"))
    assert run.settings_toml == "seed = 1\n"
    assert run.environment == {"threads": 2}
    assert run.rows() == run.samples() == run.checkpoints() == []
    run.write({"settings.toml": "seed = 2\n"})
    assert Run.open(run.folder).settings_toml == "seed = 2\n"


def test_create_refuses_a_run_a_file_and_other_peoples_things(tmp_path: Path) -> None:
    _create(tmp_path / "run")
    with pytest.raises(InputError, match="is a run already"):
        _create(tmp_path / "run")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        _create(tmp_path / "file")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"letter\.txt"):
        _create(tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_create_finishes_what_a_killed_creation_began(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(InputError, match="not a run"):
        Run.open(tmp_path)
    _create(tmp_path)
    assert Run.open(tmp_path).environment == {"threads": 2}


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run at"):
        Run.open(tmp_path / "absent")
    with pytest.raises(InputError, match="is not a run"):
        Run.open(tmp_path)


def test_rows_come_back_with_non_finite_numbers_as_null_and_numpy_as_numbers(tmp_path: Path) -> None:
    run = _create(tmp_path)
    run.log({"event": "note", "step": np.int64(1), "loss": np.float32(0.5), "a": float("nan"), "b": np.float64("inf")})
    run.log_sample({"step": 1, "text": "naïve\n\u2028 line"})
    assert run.rows() == [{"event": "note", "step": 1, "loss": 0.5, "a": None, "b": None}]
    assert run.samples() == [{"step": 1, "text": "naïve\n\u2028 line"}]
    assert len((tmp_path / "samples.jsonl").read_bytes().splitlines()) == 1
    with pytest.raises(TypeError):
        run.log({"step": 2, "loss": object()})


def test_a_resume_replaces_what_stood_after_it_in_both_logs(tmp_path: Path) -> None:
    run = _create(tmp_path)
    for step in range(5):
        run.log({"event": "note", "step": step, "try": 1})
        run.log_sample({"step": step, "text": "first"})
    run = Run.open(tmp_path)
    run.log({"event": "resume", "step": 2})
    run.log({"event": "note", "step": 3, "try": 2})
    run.log_sample({"step": 3, "text": "second"})
    assert [(row["step"], row.get("try")) for row in run.rows()] == [(0, 1), (1, 1), (2, 1), (2, None), (3, 2)]
    assert [(row["step"], row["text"]) for row in run.samples()] == [
        *((step, "first") for step in range(3)),
        (3, "second"),
    ]


@given(st.lists(st.integers(0, 12), max_size=6), st.integers(1, 12))
def test_after_any_resumes_every_step_stands_once(resumes: list[int], length: int) -> None:
    rows = [{"event": "step", "step": step} for step in range(1, length + 1)]
    last = length
    for wanted in resumes:
        k = min(wanted, last)  # a checkpoint exists only where the run has been
        last = k + length
        rows += [{"event": "resume", "step": k}, *({"event": "step", "step": s} for s in range(k + 1, last + 1))]
    steps = [row["step"] for row in without_replaced(rows) if row["event"] == "step"]
    assert steps == list(range(1, last + 1))


def test_a_line_torn_by_kill_9_is_not_read_and_is_cut_off_before_the_next_row(tmp_path: Path) -> None:
    _create(tmp_path)
    writer = _start(
        "run = Run.open(folder); run.log({'event': 'note', 'step': 1})\n"
        "file = os.open(folder + '/metrics.jsonl', os.O_WRONLY | os.O_APPEND)\n"
        'os.write(file, b\'{"event": "note", "st\'); print("half", flush=True); signal.pause()',
        tmp_path,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b'"st')
    run = Run.open(tmp_path)
    assert [row["step"] for row in run.rows()] == [1]
    run.log({"event": "note", "step": 2})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_killed_writer_loses_no_row_it_reported(tmp_path: Path) -> None:
    _create(tmp_path)
    for kill in range(4):
        writer = _start(
            f"run = Run.open(folder); first = {kill} * 1000\n"
            "run.log({'event': 'resume', 'step': first})\n"
            "for step in range(first + 1, first + 1000):\n"
            "    run.log({'event': 'note', 'step': step, 'text': 'x' * 5000}); print(step, flush=True)\n",
            tmp_path,
        )
        assert writer.stdout is not None
        reported = [int(writer.stdout.readline()) for _ in range(20 + kill)]
        writer.send_signal(signal.SIGKILL)
        reported += [int(line) for line in writer.stdout.read().splitlines() if line]
        writer.wait()
        writer.stdout.close()
        steps = [
            row["step"] for row in Run.open(tmp_path).rows() if row["event"] == "note" and row["step"] > kill * 1000
        ]
        assert steps[: len(reported)] == reported
        assert len(steps) <= len(reported) + 1


def test_a_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    run = _create(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"event":"a","step":1}\n{"event":"a","step":2}')
    assert [row["step"] for row in run.rows()] == [1, 2]
    run.log({"event": "a", "step": 3})
    assert [row["step"] for row in run.rows()] == [1, 2, 3]


@pytest.mark.parametrize("rest", [b"\0" * 4096, b'{"a": "\xff', b"[1]", b'{"step": 2'])
def test_any_torn_end_is_tolerated_but_damage_before_it_is_named(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n' + rest)
    assert read_rows(path) == [{"step": 1}]
    path.write_bytes(b'{"step":1}\n' + rest + b'\n{"step":3}\n')
    with pytest.raises(InputError, match="line 2, is damaged"):
        read_rows(path)


def test_a_full_disk_leaves_whole_lines_and_says_so(tmp_path: Path) -> None:
    _create(tmp_path)
    writer = _start(
        "import resource; from hornbook.facts.errors import SystemFailure\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); run = Run.open(folder)\n"
        "for step in range(1000):\n"
        "    try: run.log({'event': 'note', 'step': step, 'text': 'x' * 100})\n"
        "    except SystemFailure as error: print(step, error); break\n"
        "run.log_sample({'step': 1})\n"
        "try: run.write_report('a.html', 'x' * 2000)\n"
        "except SystemFailure as error: print(error)\n",
        tmp_path,
    )
    output, _ = writer.communicate()
    assert writer.returncode == 0
    step, _, sentence = output.splitlines()[0].partition(" ")
    assert "cannot write" in sentence
    assert [row["step"] for row in Run.open(tmp_path).rows()] == list(range(int(step)))
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    assert "cannot write" in output.splitlines()[1]
    assert list((tmp_path / "reports").iterdir()) == []


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    run = _create(tmp_path)
    holder = _start(
        "run = Run.open(folder)\nwith run.lock():\n    print('held', flush=True)\n    signal.pause()\n", tmp_path
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"is in use by another process .process {holder.pid} "), run.lock():
        pass
    run.rows()  # reading needs no lock
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with run.lock(), pytest.raises(InputError, match="in use"), Run.open(tmp_path).lock():
        pass
    with run.lock():
        pass


def test_only_finished_checkpoints_are_listed_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = _create(tmp_path)
    for step in (1000, 0, 200_000_000):
        run.checkpoint_folder(step).mkdir()
        (run.checkpoint_folder(step) / "manifest.json").write_text("{}")
    run.checkpoint_folder(2000).mkdir()
    (tmp_path / "checkpoints" / "step-best").mkdir()
    (tmp_path / "checkpoints" / "step-best" / "manifest.json").write_text("{}")
    assert [checkpoint_step(folder) for folder in run.checkpoints()] == [0, 1000, 200_000_000]
    assert run.checkpoint_folder(1000).name == "step-00001000"
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint_step(Path("step-best"))


def test_reports_are_replaced_whole_and_stay_in_their_folder(tmp_path: Path) -> None:
    run = _create(tmp_path)
    assert run.write_report("run.html", "ä").read_bytes() == "ä".encode()
    assert run.write_report("run.html", b"\x89PNG").read_bytes() == b"\x89PNG"
    assert [entry.name for entry in run.reports.iterdir()] == ["run.html"]
    for name in ("../settings.toml", "a/b", "..", ""):
        with pytest.raises(InputError, match="file name"):
            run.write_report(name, "x")


def test_a_file_written_aside_is_always_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "page"
    write_aside(path, "0" * 100_000)
    writer = _start(
        "from hornbook.facts.io import write_aside; from pathlib import Path\n"
        "for turn in range(1, 10_000):\n"
        "    write_aside(Path(folder) / 'page', str(turn % 10) * 100_000); print(turn, flush=True)\n",
        tmp_path,
    )
    assert writer.stdout is not None
    for _ in range(10):
        writer.stdout.readline()
        content = path.read_text()
        assert len(content) == 100_000
        assert len(set(content)) == 1
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert len(set(path.read_text())) == 1


def test_a_folder_that_cannot_be_written_is_a_failure_of_the_world(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFailure, match="cannot make"):
        default_out("a", tmp_path / "file")
    with pytest.raises(SystemFailure, match="cannot make"):
        _create(tmp_path / "file" / "run")
    with pytest.raises(SystemFailure, match="cannot write"):
        write_aside(tmp_path / "absent" / "page", "x")


def test_default_names_are_dated_readable_and_fresh(tmp_path: Path) -> None:
    today = datetime.date.today().isoformat()
    parent = tmp_path / "runs"
    names = [
        default_out(stem, parent).name for stem in ("The Verdict!", "The Verdict!", "../../etc", "Жук", "", "a" * 99)
    ]
    assert names == [
        f"{today}-the-verdict",
        f"{today}-the-verdict-2",
        f"{today}-etc",
        f"{today}-жук",
        f"{today}-run",
        f"{today}-{'a' * 40}",
    ]
    _create(parent / names[0])
    assert os.listdir(tmp_path) == ["runs"]


def test_a_run_that_goes_on_is_not_listed_with_the_numbers_of_its_earlier_end(tmp_path: Path) -> None:
    run = _create(tmp_path / "run")
    run.log(
        {
            "event": "evaluation",
            "step": 5,
            "tokens": 9,
            "validation_loss_nats_per_token": 3.5,
            "validation_bits_per_byte": 2.0,
        }
    )
    run.log({"event": "end", "step": 5, "reason": "length reached", "plan_score": {"memory_bytes": {}}})
    run.write_report("evaluation.json", '{"loss_nats_per_token": 3.25, "bits_per_byte": 1.9}')
    (done,) = runs(tmp_path)
    assert (done["validation_loss_nats_per_token"], done["bits_per_byte"]) == (3.25, 1.9)
    assert done["probe_validation_loss_nats_per_token"] == 3.5
    run.log({"event": "evaluation", "step": 6, "tokens": 9})
    (going,) = runs(tmp_path)
    assert going["state"] == "unfinished"
    assert not {"plan_score", "validation_loss_nats_per_token", "bits_per_byte"} & going.keys()
