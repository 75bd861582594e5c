"""Damaged task files: every mutation is read as the same questions that a plain reader of JSON finds, or refused in one
sentence; whatever was read can be asked, or is refused by its number."""

import json
import math
import random

import pytest

from hornbook.evaluation.tasks import Question, read_questions, run_task
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.make_tokenizer import raw_bytes

MUTATIONS = 300
ROWS = [
    {"context": "Q: 2 + 2 =\nA:", "choices": [" 4", " 5", " four"], "gold": 0, "unconditional": "A:"},
    {"context": "Größe\u2028und 日本", "choices": [" ja", " nein, nie"], "gold": 1},
    {"context": "", "choices": ["once upon a time"], "gold": 0},
    {"context": "a " * 40, "choices": [" b", " c " * 12], "gold": 1},
]
VALUES = [
    None,
    True,
    -1,
    2**63,
    1e400,
    float("nan"),
    "",
    "x",
    "\ud800",
    "\x00",
    " " * 70,
    [],
    [""],
    ["a"],
    {},
    {"a": 1},
]
BYTES = [b"\x00", b"\xff", b"\xc3", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\\ud800", b"\r\n", b"\n", b'"', b"{",
         b"[" * 2000, b"9" * 5000, b"\xef\xbb\xbf", b"\xff\xfe", b"\x85", b"1e999", b"NaN"]  # fmt: skip


def mutated(draw):
    """The bytes of a task file with one to three faults: of the JSON's values, of its bytes, of its length."""
    rows = json.loads(json.dumps(ROWS))
    for _ in range(draw.randint(0, 2)):
        row = draw.choice(rows)
        key = draw.choice([*row, "context", "choices", "gold", "more"])
        if draw.random() < 0.2:
            row.pop(key, None)
        elif key == "choices" and isinstance(row.get(key), list) and row[key] and draw.random() < 0.7:
            row[key][draw.randrange(len(row[key]))] = draw.choice(VALUES)
        else:
            row[key] = draw.choice(VALUES)
    text = "\n".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw.choice([0, 1, 1, 2])):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            data[at:at] = draw.choice(BYTES)
        elif kind == 1:
            del data[at : at + draw.randint(1, 9)]
        elif kind == 2 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        else:
            del data[at:]
    return bytes(data)


def plainly(data):
    """The questions by a plain reader: one JSON object a line."""
    found = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.strip():
            row = json.loads(line.decode())
            bare = [(row["unconditional"], choice) for choice in row["choices"]] if "unconditional" in row else []
            pairs = [(row["context"], choice) for choice in row["choices"]]
            found.append(Question(tuple(pairs), row["gold"], tuple(bare)))
    return found


@pytest.fixture(scope="module")
def model():
    return initialise(Decoder(GPTShape(family="qwen3", layers=1, width=16, heads=2, context=32, vocabulary=257)), 0)


def test_damaged_task_files_are_read_right_or_refused(tmp_path, model):
    draw, path, outcomes = random.Random(0), tmp_path / "task.jsonl", {"read": 0, "refused": 0}
    for _ in range(MUTATIONS):
        data = mutated(draw)
        path.write_bytes(data)
        try:
            questions = read_questions(path)
            assert questions == plainly(data)
            result = run_task(model, raw_bytes(), questions)
        except InputError as error:
            sentence = str(error)
            outcomes["refused"] += 1
        else:
            sentence = ""
        assert "\n" not in sentence
        if sentence:
            continue
        outcomes["read"] += 1
        left_out = {each["question"] for each in result["refused"]}
        assert result["num_questions"] + len(left_out) == len(questions)
        assert all(math.isfinite(x) and x > 0 for each in result["questions"] for x in each["nats"])
        assert json.dumps(result, allow_nan=False)
    assert min(outcomes.values()) > MUTATIONS / 10
