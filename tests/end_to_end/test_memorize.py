"""What a person does about learning by heart: look before training, be told while training, ask afterwards."""

import re
from pathlib import Path

import pytest

import hornbook

SMALL = (
    "--tokenizer", "characters", "--split", "tail:0.1", "--threads", "1", "--model.layers", "2", "--model.width", "64",
    "--model.heads", "4", "--model.context", "32", "--train.batch", "8", "--watch.sample_tokens", "8",
    "--train.precision", "float32",  # the same course on every CPU
)  # fmt: skip


@pytest.fixture(scope="module")
def learned(tmp_path_factory, english, hornbook_in):
    """Six thousand letters read again and again, with canaries, until asked to stop; and letters that were not read."""
    folder = tmp_path_factory.mktemp("learned")
    letters = "the quick brown fox jumps over a lazy dog " + re.sub(r"[^a-z]+", " ", english.lower())
    (folder / "text.txt").write_text(letters[:6000], encoding="utf-8")
    (folder / "other.txt").write_text(letters[10_000:12_000], encoding="utf-8")
    stop = ("--epochs", "60", "--train.early_stop", "14", "--out", "run", "--json")
    finished = hornbook_in(folder)("train", "text.txt", *SMALL, "--canaries", *stop)
    assert finished.code == 0, finished.stderr
    return folder, finished


@pytest.mark.slow
def test_the_run_says_while_it_runs_that_it_only_memorizes(learned):
    folder, finished = learned
    assert "what is learned now does not generalize to the validation text" in finished.stderr
    assert "copied" in finished.stderr
    run = hornbook.open_model(folder / "run").run
    rows = [row for row in run.rows() if row["event"] == "evaluation"]
    gaps = [row[key] for row in rows if (key := "probe_generalization_gap_bits_per_byte") in row]
    assert gaps[0] == pytest.approx(0, abs=0.3)
    assert gaps[-1] > 2
    assert "copied_share" not in rows[0]  # fresh weights copy nothing
    copied = [row["copied_share"] for row in rows if row.get("copied_share") is not None]
    assert copied[0] < 0.2 < 0.3 < copied[-1]
    best = min(rows, key=lambda row: row["probe_validation_loss_nats_per_token"])
    assert run.rows()[-1]["reason"] == "no better validation loss"
    assert finished.json["best_step"] == best["step"] < rows[-1]["step"]
    said = " ".join(finished.json["words"])
    opens = re.search(r"The gap widens beyond the noise between step ([\d,]+) and step ([\d,]+) ", said)
    before, at = (int(number.replace(",", "")) for number in opens.groups())
    assert 0 <= before < at < rows[-1]["step"]
    low, high = finished.json["best_step_between"]
    assert low < best["step"] < high
    assert [said["sentence"] for said in finished.json["conclusions"]] == finished.json["words"]
    assert {"turned", "parted"} <= {said["id"] for said in finished.json["conclusions"]}
    page = Path(folder, finished.json["report"]).read_text(encoding="utf-8")
    assert "The gap widens beyond the noise between step" in page
    assert "the gap widens" in (folder / "run" / "reports" / "loss.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_memorize_gives_its_verdict_its_page_and_the_canaries(learned, hornbook_in):
    folder, _ = learned
    run = hornbook_in(folder)
    finished = run("memorize", "run", "--json")
    assert finished.code == 0, finished.stderr
    found = finished.json
    assert list(found)[:5] == ["verdict", "by_heart", "grounds", "learned_enough", "texts_differ"]
    assert found["by_heart"] is True
    assert "extraction" in found["grounds"]
    assert found["conventions"]["readings"] > 10
    assert found["verdict"].startswith("Memorized")
    assert found["extraction_rate"] > 0.5 > 0.1 > found["control_extraction_rate"]
    assert [row["repetitions"] for row in found["canaries"]] == [0, 1]
    known = found["passages"][0]
    text = (folder / "text.txt").read_text(encoding="utf-8")
    assert known["matched_text"] == known["text"]
    assert known["text"].split("\n")[0] in text
    page = (folder / "run" / "reports" / "memorization.html").read_text(encoding="utf-8")
    assert found["verdict"] in page
    assert f"<mark>{known['matched_text']}</mark>" in page
    assert "://" not in page
    assert (folder / "run" / "reports" / "memorization.json").is_file()
    plain = run("memorize", "run")
    assert plain.code == 0
    assert plain.stdout.startswith(found["verdict"])
    assert "canary planted 1 time" in plain.stdout
    assert "in 64 samples of 32 tokens" in plain.stdout
    assert "in windows of 32" in plain.stdout


@pytest.mark.slow
def test_any_model_is_asked_with_two_texts(learned, hornbook_in):
    folder, _ = learned
    run = hornbook_in(folder)
    assert run("export", "run", "--to", "huggingface", "--out", "exported").code == 0
    finished = run(
        "memorize", "exported", "--train", "text.txt", "--heldout", "other.txt", "--html", "m.html", "--json"
    )
    assert finished.code == 0, finished.stderr
    assert finished.json["by_heart"] is True
    assert (finished.json["train_text"], finished.json["heldout_text"]) == ("text.txt", "other.txt")
    assert "text.txt" in (folder / "m.html").read_text(encoding="utf-8")
    assert finished.json["conventions"]["readings"] is None
    itself = run("memorize", "run", "--reference", "exported", "--json")
    assert itself.code == 0, itself.stderr
    assert itself.json["excess_gap_bits_per_byte"] == pytest.approx(0, abs=1e-5)
    other = (*SMALL, "--tokenizer", "bytes", "--steps", "1", "--out", "other", "--json")
    assert run("train", "other.txt", *other).code == 0
    refused = run("memorize", "run", "--reference", "other")
    assert refused.code == 2
    assert "another tokenizer" in refused.stderr
    for arguments in (["--train", "text.txt"], []):
        refused = run("memorize", "exported", *arguments)
        assert refused.code == 2
        assert "--heldout" in refused.stderr


def test_prepare_names_copies_and_leaks_and_dedup_leaves_them_out(command_line, english):
    folder = command_line.folder
    (folder / "texts" / "held").mkdir(parents=True)
    parts = [english[i : i + 3000] for i in range(0, 30_000, 3000)]
    for name, text in {**dict(enumerate(parts)), "again": parts[2], "leak": parts[9], "held/last": parts[9]}.items():
        (folder / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    command = ("prepare", "texts", "--tokenizer", "bytes", "--split", "folder:texts/held", "--parameters", "124M")
    found = command_line(*command, "--json")
    assert found.code == 0, found.stderr
    checkup = found.json["report"]["checkup"]
    assert checkup["leaked_share"] == pytest.approx(1, abs=0.02)
    assert [(d["name"], d["of"]) for d in checkup["duplicates"]] == [("again.txt", "2.txt"), ("leak.txt", "9.txt")]
    assert checkup["copies"][0]["of"] == "9.txt"
    assert "124M parameters: this will be memorized" in found.json["outlook"]["sentences"][0]
    plain = command_line(*command)
    assert "2 of 12 training documents are duplicates" in plain.stdout
    assert "of the validation text (by words) is also in the training text" in plain.stdout
    assert "Muennighoff" in plain.stdout
    clean = command_line(*command, "--dedup", "--json").json
    assert clean["report"]["left_out_documents"] == 3
    assert clean["report"]["checkup"]["leaked_share"] < 0.1  # of what is trained on
    assert clean["report"]["checkup"]["duplicates"] == []
    assert clean["parts"]["train"]["num_documents"] == found.json["parts"]["train"]["num_documents"] - 3
    refused = command_line("train", found.json["prepared"], "--dedup")
    assert refused.code == 2
    assert "without --dedup" in refused.stderr
