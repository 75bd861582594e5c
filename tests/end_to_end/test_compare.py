"""`hornbook compare`: signs, refusals, runs without a text, other tokenizers."""

import math

import pytest

import hornbook
from hornbook.facts.errors import InputError


def test_two_checkpoints_of_a_run_on_its_own_validation_text(command_line, tiny_run):
    first = tiny_run.run / "checkpoints" / "step-00000000"
    there = type(command_line)(tiny_run.folder)
    result = there("compare", "run", first, "--json").json
    a, b = (result[side]["bits_per_byte"] for side in "ab")
    assert result["difference_bits_per_byte"] == pytest.approx(b - a)
    low, high = result["difference_bits_per_byte_interval_95"]
    assert 0 < low < b - a < high
    assert result["beyond_chance"] is True
    assert result["verdict"].startswith("A is better by ")
    assert result["differing_settings"] == {"step": [24, 0]}
    assert a == pytest.approx(tiny_run.summary["bits_per_byte"], rel=1e-12)
    printed = there("compare", "run", first).stdout
    assert result["verdict"] in printed


def test_a_model_against_itself(tiny_run):
    text = str(tiny_run.folder / "text.txt")
    result = hornbook.compare(str(tiny_run.run), str(tiny_run.run), text)
    assert result["difference_bits_per_byte"] == 0
    assert result["beyond_chance"] is False
    assert "equally good" in result["verdict"]


def test_across_tokenizers_by_bits_per_byte(command_line, tiny_run, text_file, monkeypatch):
    made = command_line(
        "train", text_file, "--tokenizer", "bpe:320", "--model.layers", "1", "--model.width", "32", "--model.context",
        "32", "--train.batch", "4", "--steps", "8", "--threads", "1", "--watch.sample_tokens", "4", "--out", "other",
        "--json",
    )  # fmt: skip
    assert made.code == 0, made.stderr
    assert f"scoring the {made.json['num_tokens']:,} tokens" in made.stderr
    monkeypatch.chdir(command_line.folder)
    scored: list[tuple[int, int]] = []
    with pytest.raises(InputError, match=r"^the validation texts of .* differ: name a text with --on\.$"):
        hornbook.compare(str(tiny_run.run), "other", progress=lambda *counts: scored.append(counts))
    assert scored == []  # told before anything is scored
    result = command_line("compare", tiny_run.run, "other", "--on", text_file, "--json").json
    for side, model in (("a", tiny_run.run), ("b", command_line.folder / "other")):
        scored = hornbook.evaluate(str(model), str(text_file))
        assert result[side]["bits_per_byte"] == scored.bits_per_byte
    assert result["num_bytes"] == len(text_file.read_bytes())
    assert result["differing_settings"]["text.tokenizer"] == ["bytes", "bpe:320"]
    difference = result["b"]["bits_per_byte"] - result["a"]["bits_per_byte"]
    assert math.isclose(result["difference_bits_per_byte"], difference, abs_tol=1e-12)


def test_a_model_that_is_no_run_needs_a_text(tiny_run, tmp_path):
    hornbook.export(str(tiny_run.run), to="huggingface", out=tmp_path / "out")
    with pytest.raises(InputError, match="name a text with --on"):
        hornbook.compare(str(tiny_run.run), str(tmp_path / "out"))
    text = str(tiny_run.folder / "text.txt")
    result = hornbook.compare(str(tiny_run.run), str(tmp_path / "out"), text)
    assert abs(result["difference_bits_per_byte"]) < 1e-6
    assert result["differing_settings"] is None
