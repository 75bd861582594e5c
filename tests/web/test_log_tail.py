"""The log as it grows, beside the reader that reads it whole."""

import json
import os

import numpy as np
import pytest

from hornbook.facts.errors import InputError
from hornbook.records.rows import read_rows, without_replaced
from hornbook.web.decimate import bucket_starts, extremes
from hornbook.web.log_tail import RunLog, Tail


def step(number, loss=1.0):
    return {"event": "step", "step": number, "tokens": 8 * number, "epoch": number / 4, "seconds": 0.5, "flops": 1,
            "train_loss_nats_per_token": loss, "gradient_norm": 1.0}  # fmt: skip


def look(number):
    return {"event": "evaluation", "step": number, "tokens": 8 * number, "probe_validation_loss_nats_per_token": 2.0}


def lines(*rows):
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()


def whole(path):
    """What the reader of whole logs says: events, and the numbers of steps."""
    rows = without_replaced(read_rows(path))
    return [r for r in rows if r["event"] != "step"], [r["step"] for r in rows if r["event"] == "step"]


def test_it_has_what_a_reader_of_the_whole_has_however_the_bytes_come(tmp_path):
    path, log = tmp_path / "metrics.jsonl", RunLog(tmp_path / "metrics.jsonl")
    decision = {"event": "decision", "decision": "end", "step": 8, "from_step": 8, "sentence": "x"}
    rows = [look(0), *map(step, range(1, 9)), look(8), decision, step(9)]
    rows += [{"event": "resume", "step": 4}, look(4), step(5, None), step(6)]
    content = lines(*rows)
    pieces = np.random.default_rng(0).integers(1, 90, 200).cumsum()
    for start, stop in zip([0, *pieces], pieces, strict=False):
        with open(path, "ab") as file:
            file.write(content[start:stop])
        log.refresh()
        events, steps = whole(path)
        assert log.events == events
        assert log.steps()["step"].tolist() == steps
    assert log.offset == len(content)
    assert log.last_step["step"] == 6
    assert np.isnan(log.steps()["train_loss_nats_per_token"][-2])
    assert [event["event"] for event in log.events] == ["evaluation", "decision", "resume", "evaluation"]


def test_a_long_log_is_read_in_parts(tmp_path):
    rows = [look(0), *(step(number, number / 7) for number in range(1, 5001)), look(5000)]
    (tmp_path / "metrics.jsonl").write_bytes(lines(*rows))
    log, shares = RunLog(tmp_path / "metrics.jsonl"), [0.0]
    while not log.refresh(until=0):
        assert log.events == [look(0)]
    assert log.events == [look(0), look(5000)]
    while shares[-1] < 1:
        columns = log.steps(until=0)
        assert columns["step"].tolist() == list(range(1, columns.count + 1))
        shares.append(columns.share_read)
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert columns["train_loss_nats_per_token"].tolist() == [row["train_loss_nats_per_token"] for row in rows[1:-1]]


def test_steps_in_another_spelling_are_steps(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (look(0), step(1), step(2))))
    log = RunLog(tmp_path / "metrics.jsonl")
    log.refresh()
    assert (len(log.events), log.steps().count, log.last_step["step"]) == (1, 2, 2)


def test_a_log_that_was_replaced_is_read_anew(tmp_path):
    path, log = tmp_path / "metrics.jsonl", RunLog(tmp_path / "metrics.jsonl")
    path.write_bytes(lines(look(0), step(1), step(2)))
    log.refresh()
    assert log.steps().count == 2
    (tmp_path / "other").write_bytes(lines(look(0), step(1), step(2), step(3), look(3)))
    os.replace(tmp_path / "other", path)
    log.refresh()
    assert (log.steps().count, len(log.events)) == (3, 2)
    path.write_bytes(lines(step(1)))
    log.refresh()
    assert (log.steps().count, log.events, log.last_step["step"]) == (1, [], 1)


@pytest.mark.parametrize(
    "line", [b"{]\n", b'{"event":"evaluation","step":"x"}\n', b'{"step":1}\n', b"\xff\n", b'{"event":"s\n']
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(step(1)) + line + lines(step(2)))
    log = RunLog(path)
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
        log.refresh() and log.steps()


def test_a_link_is_not_followed_and_no_file_is_empty(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    assert log.refresh() is True
    assert log.steps().count == 0
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "other")
    (tmp_path / "other").write_bytes(lines(step(1)))
    with pytest.raises(InputError, match="cannot be read"):
        log.refresh()


def test_the_end_of_the_last_line_is_where_the_next_begins(tmp_path):
    path = tmp_path / "log"
    assert Tail(path).end_of_last_line() == 0
    path.write_bytes(b"a" * 200_000 + b"\nb")
    assert Tail(path).end_of_last_line() == 200_001
    path.write_bytes(b"no end")
    assert Tail(path).end_of_last_line() == 0


def test_buckets_keep_every_extreme():
    random = np.random.default_rng(1)
    x, y = np.sort(random.uniform(0, 1, 10_000)), random.normal(size=10_000)
    y[random.integers(10_000, size=50)] = np.nan
    starts = bucket_starts(x, 300)
    low, high = extremes(y, starts)
    assert len(starts) <= 300
    assert (np.nanmin(y), np.nanmax(y)) == (np.nanmin(low), np.nanmax(high))
    for begin, end, least, greatest in zip(starts, [*starts[1:], len(y)], low, high, strict=True):
        assert (least, greatest) == (np.nanmin(y[begin:end]), np.nanmax(y[begin:end]))
