"""What is said of a run whose validation text stands in its training text, and of a text that it was trained on."""

import json
import re
from pathlib import Path

import pytest

import hornbook
from hornbook.data.shards import Prepared

SMALL = (
    "--tokenizer", "bytes", "--threads", "1", "--model.layers", "1", "--model.width", "32", "--model.context", "32",
    "--train.batch", "4", "--watch.sample_tokens", "8", "--steps", "40",
)  # fmt: skip


@pytest.fixture(scope="module")
def leaked(tmp_path_factory, hornbook_in, english):
    """A run of which 30 % of the validation text, in words, stands in two training documents: (folder, finished)."""
    folder = tmp_path_factory.mktemp("leaked")
    words = re.findall("[A-Za-z0-9]+", english[20_000:])
    copied = " ".join(words[100 : 100 + round(0.3 * len(words))])
    texts = {"a": english[:9000], "b": f"{english[9000:14_000]} {copied}", "c": copied, "held/v": " ".join(words)}
    (folder / "texts" / "held").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    split = ("--split", "folder:texts/held", "--out", "run")
    finished = hornbook_in(folder)("train", "texts", *SMALL, *split)
    assert finished.code == 0, finished.stderr
    return folder, finished


def test_a_summary_of_a_leaked_run_does_not_speak_of_unseen_text(leaked):
    folder, finished = leaked
    page = (folder / "run" / "reports" / "report.html").read_text(encoding="utf-8")
    assert "run: on all of its validation text, part of which is in its training text" in finished.stdout
    assert "by each token of its validation text, part of which is in its training text." in page
    for text in (finished.stdout, page):
        assert "of the text it has not seen" not in text
        assert "of the validation text (by words) is also in the training text: its loss and interval" in text
    report = json.loads((folder / "run" / "reports" / "evaluation.json").read_text(encoding="utf-8"))
    assert report["leaked_share"] == pytest.approx(0.3, abs=0.01)
    assert report["leaked_share_with_changes"] == pytest.approx(0.3, abs=0.01)
    assert report["validation_leaked"] is True
    assert "in b.txt and 1 more)" in finished.stderr


def test_no_loss_is_expected_of_a_leaked_run(leaked):
    folder, finished = leaked
    assert "the expected loss is unknown: 30." in finished.stderr
    planned = json.loads((folder / "run" / "plan.json").read_text(encoding="utf-8"))["plan"]
    assert planned["bits_per_byte"] is planned["loss_nats_per_token"] is None
    assert "n-gram baselines" in finished.stdout  # what they get is shown, and nothing is concluded from it
    assert "sequences of tokens" not in finished.stdout


def test_evaluate_and_compare_repeat_the_warning(leaked, hornbook_in):
    there = hornbook_in(leaked[0])
    share = there("evaluate", "run", "--json").json["leaked_share"]
    assert share == pytest.approx(0.3, abs=0.01)
    warned = f"{share:.1%} of the validation text (by words) is also in the training text"
    assert f"warning: the model: {warned}" in there("evaluate", "run").stdout
    compared = there("compare", "run", "run/checkpoints/step-00000000").stdout
    assert f"warning: A: {warned}" in compared
    assert "warning: B" not in compared  # fresh weights have read nothing


def test_the_card_of_an_exported_model_says_so(leaked, hornbook_in):
    folder, _ = leaked
    made = hornbook_in(folder)("export", "run", "--to", "huggingface", "--out", "exported")
    assert made.code == 0, made.stderr
    card = (folder / "exported" / "README.md").read_text(encoding="utf-8")
    assert "| on its validation text | |" in card
    assert "of the validation text (by words) is also in the training text: its loss and interval" in card
    assert "not trained on" not in card


def test_a_run_without_a_leak_says_so_in_numbers_only(tiny_run, hornbook_in):
    assert (tiny_run.summary["leaked_share"], tiny_run.summary["validation_leaked"]) == (0, False)
    shown = hornbook_in(tiny_run.folder)("evaluate", "run")
    assert "warning" not in shown.stdout
    page = (tiny_run.run / "reports" / "report.html").read_text(encoding="utf-8")
    assert "by each token of the text it has not seen." in page


def test_an_older_prepared_text_is_still_read(leaked, hornbook_in):
    """Its check-up has fewer numbers, and called all words of a passage leaked."""
    folder, _ = leaked
    there = hornbook_in(folder)
    made = there("prepare", "texts", "--tokenizer", "bytes", "--split", "folder:texts/held", "--json").json
    path = Path(folder, made["prepared"], "prepared.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    checkup = manifest["report"]["checkup"]
    for name in ("leaked_share_with_changes", "validation_leaked", "readings_per_epoch"):
        del checkup[name]
    for passage in checkup["passages"]:
        del passage["shared_words"], passage["train_documents"]
    old = Prepared(path.parent, manifest, None, None, None)
    share = checkup["leaked_share"]
    assert old.leak == {"leaked_share": share, "leaked_share_with_changes": share, "validation_leaked": True}
    assert old.readings_per_epoch == pytest.approx(1 / (1 - checkup["repeated_share"]))
    manifest["dedup"] = True  # what was found before copies were left out
    assert old.leak == dict.fromkeys(old.leak)
    assert old.readings_per_epoch is None


def test_the_share_that_was_trained_on_is_one_of_bytes(hornbook_in, tmp_path, english):
    """Half of the bytes are training text; the other half, of rare letters, takes far more tokens."""
    (tmp_path / "text.txt").write_text(english, encoding="utf-8")
    there = hornbook_in(tmp_path)
    options = ("--tokenizer", "bpe:600", "--split", "tail:0.1", "--out", "run")
    assert there("train", "text.txt", *options, *SMALL[2:]).code == 0
    new = "".join(f"{i * 7919:x}qzjx " for i in range(2000))[:8000]
    (tmp_path / "mixed.txt").write_text(english[2000:10_000] + new, encoding="utf-8")
    share = there("evaluate", "run", "mixed.txt", "--json").json["trained_on_share"]
    assert share == pytest.approx(0.5, abs=0.01)
    tokenizer = hornbook.open_model(tmp_path / "run").tokenizer
    known, other = len(tokenizer.encode(english[2000:10_000])), len(tokenizer.encode(new))
    assert known / (known + other) < 0.4  # which a share of tokens would be


def test_a_text_thirty_times_over_is_counted_once(hornbook_in, tmp_path, english):
    """In one file, so that no document is a duplicate."""
    (tmp_path / "text.txt").write_text("\n".join([english[:3000]] * 30), encoding="utf-8")
    finished = hornbook_in(tmp_path)("train", "text.txt", "--split", "tail:0.1", "--out", "run", *SMALL)
    assert finished.code == 0, finished.stderr
    assert "The training text repeats itself: sequences of 8 words occur in it 2" in finished.stderr
    assert re.search(r"tokens, [23],\d{3} without repetition, against", finished.stderr)
    prepared = hornbook_in(tmp_path)(
        "prepare", "text.txt", "--tokenizer", "bytes", "--split", "tail:0.1", "--json"
    ).json
    assert prepared["report"]["checkup"]["readings_per_epoch"] == pytest.approx(27, abs=0.5)
    assert prepared["report"]["checkup"]["duplicate_documents"] == 0
    assert prepared["report"]["checkup"]["validation_leaked"] is True
