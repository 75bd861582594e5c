"""Folders that were damaged: prepared text, recipes, runs. Every damage is a sentence or harmless; what has a checksum
is never read changed. All in one process, each damage from its seed."""

import hashlib
import json
import math
import shutil
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from mutations import mutated_bytes, mutated_tree

from hornbook.data.loader import Batches
from hornbook.data.manifest import held_out_in_words
from hornbook.data.prepare import prepare
from hornbook.data.shard_writer import manifest_bytes
from hornbook.data.shards import MANIFEST, file_entry, open_prepared
from hornbook.engine import loading
from hornbook.facts.errors import InputError
from hornbook.facts.settings import from_table, read_table, to_toml
from hornbook.records.listing import runs
from hornbook.records.run import Run
from hornbook.reporting.curves import best_step_between, evaluations
from hornbook.reporting.pages import run_page
from hornbook.reporting.prepared import print_prepared
from hornbook.setup.model import beginning, open_model, settings_of
from hornbook.text.documents import documents
from hornbook.training.deciding import tokens_read
from hornbook.training.decisions import decisions_of

SEEDS = 300
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def outcome(call):
    """None where the damage is refused in one line, else what came."""
    try:
        return call()
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence
    return None


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, english):
    folder = tmp_path_factory.mktemp("prepared")
    for number in range(6):
        (folder / f"{number}.txt").write_text(english[number * 900 : number * 900 + 1500], encoding="utf-8")
    return prepare(documents([str(folder)]), tokenizer="bytes", split="hash:0.4", out=folder / "out").folder


def use(folder):
    """Read all of a prepared folder, as training and `prepare` do."""
    opened = open_prepared(folder)
    held_out_in_words(opened.manifest)
    print_prepared(opened.manifest | {"prepared": str(folder)})
    numbers = [opened.key, *opened.leak.values(), opened.readings_per_epoch]
    for part in (opened.train, opened.validation):
        numbers += [part.num_tokens, *(int(part.document_tokens(i).sum()) for i in range(len(part.names)))]
        if part.num_tokens > 9:
            inputs, targets = Batches(part, context=8, batch=2, seed=0).batch(3)
            numbers += [int(inputs.sum()), int(targets.sum())]
    return numbers


def test_a_damaged_prepared_text_whose_checksums_are_right(prepared, tmp_path):
    """As a faulty program would write it: refused, or used without an exception."""
    whole = json.loads((prepared / MANIFEST).read_bytes())
    files = sorted(whole["files"])
    refused = 0
    for seed in range(SEEDS):
        folder = Path(shutil.copytree(prepared, tmp_path / "copy", dirs_exist_ok=True))
        manifest = json.loads((folder / MANIFEST).read_bytes())
        del manifest["checksum"]
        if seed % 2:
            manifest = mutated_tree(manifest, seed)
        else:
            path = folder / files[seed // 2 % len(files)]
            path.write_bytes(mutated_bytes(path.read_bytes(), seed))
            manifest["files"][path.name] = file_entry(path)
        (folder / MANIFEST).write_bytes(manifest_bytes(manifest) if isinstance(manifest, dict) else b"[]")
        refused += outcome(lambda folder=folder: use(folder)) is None
    assert refused > SEEDS / 3


def test_no_change_of_a_prepared_text_is_overlooked(prepared, tmp_path):
    names = sorted(path.name for path in prepared.iterdir())
    expected = use(prepared)
    folder = Path(shutil.copytree(prepared, tmp_path / "copy"))
    for seed in range(SEEDS):
        path = folder / names[seed % len(names)]
        content = path.read_bytes()
        path.write_bytes(mutated_bytes(content, seed))
        found = outcome(lambda: use(folder))
        if path.name == MANIFEST and found is not None:  # blanks of JSON say nothing
            assert json.loads(path.read_bytes()) == json.loads(content)
            assert found == expected
        else:
            assert found is None, (seed, path.name)
        path.write_bytes(content)


def test_a_damaged_recipe_is_refused_or_says_what_it_sets(tmp_path):
    """A recipe has no checksum: what is read is what TOML says, and it comes back when it is written."""
    path = tmp_path / "recipe.toml"
    for seed in range(SEEDS):
        content = RECIPES[seed % len(RECIPES)].read_bytes()
        if seed % 2:
            tree = mutated_tree(tomllib.loads(content.decode()), seed)
            settings = outcome(lambda tree=tree: from_table(tree if isinstance(tree, dict) else {}, source="recipe"))
        else:
            path.write_bytes(mutated_bytes(content, seed))
            settings = outcome(lambda: from_table(read_table(path), source="recipe"))
        if settings is not None and not any("\0" in text for text in settings.text.paths):
            path.write_text(to_toml(settings), encoding="utf-8")
            again = from_table(read_table(path), source="again")
            assert msgspec.to_builtins(again) == msgspec.to_builtins(settings)


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A copy of a finished run, in the folder of its text."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(tiny_run.folder, folder, dirs_exist_ok=True)
    return folder / "run"


def look(folder):
    """Read all that commands read of a run, weights and report included."""
    opened = open_model(folder)
    run = Run.open(folder)
    rows, samples = run.rows(), run.samples()
    beginning(run)
    for name in run.hashes or {}:
        run.check(name)
    loading.verify(run.checkpoints()[-1])
    run_page(rows, samples, run.settings_toml, {"title": "a"}, None, None, "", [])
    weights = sum(float(parameter.detach().double().sum()) for parameter in opened.model.parameters())
    return [
        weights, opened.step, opened.tokenizer.fingerprint, msgspec.to_builtins(settings_of(run)), run.environment,
        run.plan, evaluations(rows), best_step_between(rows), decisions_of(rows), tokens_read(rows, 24),
    ]  # fmt: skip


WHOLE = (
    "settings.toml", "environment.json", "plan.json", "tokenizer.json", "tokenizer_config.json",
    "reports/evaluation.json", "checkpoints/step-00000024/model.safetensors",
    "checkpoints/step-00000024/optimizer.safetensors", "checkpoints/step-00000024/manifest.json", "files.json",
)  # fmt: skip


def test_no_change_of_a_file_of_a_run_is_overlooked(run):
    expected = look(run)
    for seed in range(SEEDS):
        path = run / WHOLE[seed % len(WHOLE)]
        content = path.read_bytes()
        path.write_bytes(mutated_bytes(content, seed))
        found = outcome(lambda: look(run))
        if path.suffix == ".json" and path.name in ("manifest.json", "files.json") and found is not None:
            assert json.loads(path.read_bytes()) == json.loads(content)
            assert found == expected
        else:
            assert found is None, (seed, path.name)
        path.write_bytes(content)


def test_a_damaged_log_is_refused_or_read_without_an_exception(run):
    """A log has no checksum. Whatever is in it, the other runs are listed, and this one with them."""
    for seed in range(SEEDS):
        path = run / ("metrics.jsonl", "samples.jsonl")[seed % 2]
        content = path.read_bytes()
        lines = content.splitlines()
        if seed % 3:
            at = seed * 7 % len(lines)
            lines[at] = msgspec.json.encode(finite(mutated_tree(json.loads(lines[at]), seed)))
            path.write_bytes(b"\n".join(lines) + b"\n")
        else:
            path.write_bytes(mutated_bytes(content, seed))
        outcome(lambda: look(run))
        (facts,) = (facts for facts in runs(run.parent) if facts["run"] == str(run))
        assert path.name == "metrics.jsonl" or not facts["state"].startswith("damaged")
        path.write_bytes(content)


def finite(tree):
    """The tree as msgspec can write it: numbers within 64 bits."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    if isinstance(tree, int) and abs(tree) >= 2**63:
        return 2**63
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def test_a_damaged_run_from_before_the_hashes(run):
    """Without files.json nothing is checked: refused, or opened without an exception."""
    (run / "files.json").rename(run.parent / "kept.json")
    names = WHOLE[:6]
    for seed in range(SEEDS):
        path = run / names[seed % len(names)]
        content = path.read_bytes()
        if path.suffix == ".json" and seed % 4 > 1:
            path.write_bytes(json.dumps(mutated_tree(json.loads(content), seed)).encode())
        else:
            path.write_bytes(mutated_bytes(content, seed))
        outcome(lambda: look(run))
        runs(run.parent)
        path.write_bytes(content)
    (run.parent / "kept.json").rename(run / "files.json")


def test_a_damaged_manifest_of_a_checkpoint_whose_hash_is_right(run):
    """As a faulty program would write it."""
    path = run / "checkpoints/step-00000024/manifest.json"
    content = path.read_bytes()
    for seed in range(SEEDS):
        manifest = json.loads(content)
        del manifest["sha256"]
        manifest = finite(mutated_tree(manifest, seed))
        if isinstance(manifest, dict):
            digest = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
            path.write_bytes(msgspec.json.encode({**manifest, "sha256": digest}))
            outcome(lambda: look(run))
    path.write_bytes(content)
    assert np.isfinite(look(run)[0])
