"""What `hornbook evaluate` can be asked besides: other programs' conventions, tasks, baselines, calibration."""

import json
import math

import numpy as np
import pytest
import torch

import hornbook
from hornbook.facts.errors import InputError


@pytest.fixture(scope="module")
def opened(tiny_run):
    return hornbook.open_model(tiny_run.run)


def test_like_huggingface_is_the_loop_of_their_documentation(command_line, tiny_run, opened):
    text = (tiny_run.folder / "text.txt").read_text(encoding="utf-8")[:1000]
    (command_line.folder / "text.txt").write_text(text, encoding="utf-8")
    result = command_line(
        "evaluate", tiny_run.run, "text.txt", "--like", "huggingface", "--stride", "8", "--json"
    ).json  # fmt: skip
    ids, previous, total, count = torch.tensor([list(text.encode())]), 0, 0.0, 0
    for begin in range(0, ids.shape[1], 8):
        end = min(begin + 32, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            logits = opened.model(ids[:, begin:end])
        mean = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:]).item()
        scored = int((labels != -100).sum()) - 1
        total, count, previous = total + mean * scored, count + scored, end
        if end == ids.shape[1]:
            break
    assert result["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert result["conventions"]["stride"] == "8 tokens"
    assert result["conventions"]["text"] == "1 document joined by blank lines"
    assert result["num_tokens"] == count
    assert result["conventions"]["weights"].startswith("a window's mean counts as its new tokens less one")


def test_like_lm_eval_and_its_options(tiny_run, opened):
    text = str(tiny_run.folder / "text.txt")
    theirs = hornbook.evaluate(opened, text, like="lm-eval")
    ours = hornbook.evaluate(opened, text, per_document=True)
    # Ours predicts the end of the document too, so the last window, which reaches back, begins a token later.
    assert theirs["bits_per_byte"] == pytest.approx(ours.bits_per_byte, rel=1e-5)
    assert theirs["byte_perplexity"] == pytest.approx(2 ** theirs["bits_per_byte"], rel=1e-12)
    assert theirs["num_tokens"] == theirs["num_bytes"] == ours.num_tokens
    for options, message in (
        ({"like": "lm_eval"}, 'did you mean "lm-eval"'),
        ({"like": "lm-eval", "stride": 4}, "can only be combined with --window"),
        ({"like": "huggingface", "calibration": True}, "can only be combined with --window and --stride"),
    ):
        with pytest.raises(InputError, match=message):
            hornbook.evaluate(opened, text, **options)


def test_baselines_stand_beside_the_number_of_a_run(tiny_run):
    report = json.loads((tiny_run.run / "reports" / "evaluation.json").read_text())
    table = report["baselines"]
    assert list(table) == ["uniform", "unigram", "2-gram", "3-gram", "4-gram", "5-gram"]
    assert table["uniform"]["loss_nats_per_token"] == pytest.approx(math.log(257))
    assert tiny_run.summary["baselines"] == table
    train = (tiny_run.folder / "text.txt").read_bytes()
    train, held_out = train[: int(0.9 * len(train))], train[int(0.9 * len(train)) :]
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=257).astype(float)
    counts[256] = 1
    n = [(counts == r).sum() for r in range(5)]
    y = n[1] / (n[1] + 2 * n[2])
    discounts = np.array([0, y, 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]])
    assert (discounts[1:] > 0).all()
    assert (discounts[1:] < [1, 2, 3]).all()
    discount = discounts[np.minimum(counts, 3).astype(int)]  # modified Kneser-Ney
    p = (counts - discount + discount.sum() / 257) / counts.sum()
    nats = -np.log(p[np.frombuffer(held_out, np.uint8)]).mean()
    assert table["unigram"]["loss_nats_per_token"] == pytest.approx(nats, rel=1e-9)
    page = (tiny_run.run / "reports" / "report.html").read_text(encoding="utf-8")
    assert f"{table['5-gram']['loss_nats_per_token']:.3f}" in page
    assert any("the best n-gram baseline on the same text" in words for words in tiny_run.summary["words"])


def test_a_run_warns_of_text_that_it_was_trained_on(hornbook_in, tiny_run, tmp_path):
    there = hornbook_in(tiny_run.folder)
    assert there("evaluate", "run", "text.txt", "--json").json["trained_on_share"] == pytest.approx(0.9, abs=0.01)
    warning = "warning: 90% of the bytes of this text are in text that the model was trained on"
    assert warning in there("evaluate", "run", "text.txt").stdout
    assert warning in there("evaluate", "run", "text.txt", "--like", "lm-eval").stdout
    compared = there("compare", "run", "run/checkpoints/step-00000000", "--on", "text.txt").stdout
    assert warning.replace("the model", "A") in compared
    assert "that B was" not in compared  # fresh weights have read nothing
    (tmp_path / "new.txt").write_text("Of all this not a word has been read before, by anyone at all. " * 9)
    assert there("evaluate", "run", tmp_path / "new.txt", "--json").json["trained_on_share"] == 0
    assert "warning" not in there("evaluate", "run").stdout


def test_a_run_far_from_its_text_has_no_baselines(command_line, tiny_run, text_file):
    report = command_line("evaluate", tiny_run.run, text_file, "--json").json
    assert "baselines" not in report
    assert report["trained_on_share"] is None
    assert "prepared training text is no longer here" in command_line("evaluate", tiny_run.run, text_file).stdout
    assert not (command_line.folder / "prepared").exists()


def test_tasks_from_a_file(command_line, tiny_run):
    rows = [
        {"context": "Return the", "choices": [" parser", " qqzzxx!!"], "gold": 0, "unconditional": "Answer:"},
        {"context": "If the", "choices": [" ~~~~~~", " value"], "gold": 1, "unconditional": "Answer:"},
    ]
    path = command_line.folder / "words.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = command_line("evaluate", tiny_run.run, "--tasks", "words.jsonl", "--json").json
    numbers = result["tasks"]["words.jsonl"]
    assert numbers["accuracy"] == 1.0
    assert numbers["chance_accuracy"] == 0.5
    assert "loss_nats_per_token" not in result
    limited = command_line("evaluate", tiny_run.run, "--tasks", "words.jsonl", "--task-limit", "1", "--json").json
    assert limited["tasks"]["words.jsonl"]["num_questions"] == 1
    assert "accuracy pmi" in command_line("evaluate", tiny_run.run, "--tasks", "words.jsonl").stdout


def test_calibration_and_samples(tiny_run, opened):
    report = hornbook.evaluate(opened, str(tiny_run.folder / "text.txt"), calibration=True)
    numbers = report.extra["calibration"]
    assert numbers["num_tokens"] == report.num_tokens
    gap = report.loss_nats_per_token - numbers["mean_entropy_nats"]
    assert numbers["entropy_gap_nats"] == pytest.approx(gap, abs=1e-9)
    shares = list(numbers["top_accuracy"].values())
    assert shares == sorted(shares)
    assert numbers["samples"]["num_samples"] == numbers["samples_of_the_text"]["num_samples"] == 8
    assert numbers["samples_of_the_text"]["invalid_utf8_rate"] == 0


def test_results_by_position_have_every_token(tiny_run, opened):
    report = hornbook.evaluate(opened, str(tiny_run.folder / "text.txt"))
    rows = report.extra["by_position"]
    assert sum(row["num_tokens"] for row in rows) == report.num_tokens
    nats = math.fsum(row["num_tokens"] * row["loss_nats_per_token"] for row in rows)
    assert nats == pytest.approx(report.nats, rel=1e-9)


def test_a_task_made_of_the_text_itself(command_line, tiny_run):
    text = tiny_run.folder / "text.txt"
    result = command_line(
        "evaluate", tiny_run.run, text, "--tasks", "continuation", "--task-limit", "20", "--json"
    ).json  # fmt: skip
    numbers = result["tasks"]["continuation"]
    assert numbers["num_questions"] == 20
    assert numbers["chance_accuracy"] == 0.25
    assert result["loss_nats_per_token"] > 0
    shown = command_line("evaluate", tiny_run.run, text, "--stride", "24").stdout
    assert "8 to 15" in shown
    assert "16 to 32" in shown
    assert "loss by tokens of context, where at least 100 were scored" in shown
    assert "bits per character" in shown
    (command_line.folder / "short.txt").write_text(text.read_text(encoding="utf-8")[:1500], encoding="utf-8")
    refused = command_line("evaluate", tiny_run.run, "short.txt", "--tasks", "continuation")
    assert refused.code == 2
    assert "questions need" in refused.stderr
