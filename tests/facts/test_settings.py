import math
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.elsewhere import ELSEWHERE
from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings, fields, from_table, names, overridden, read_table, to_toml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def test_every_setting_says_what_it_is():
    found = fields()
    dotted = [field.name for field in found]
    assert len(dotted) == len(set(dotted)) > 40
    table = msgspec.to_builtins(Settings())
    assert dotted == [f"{section}.{key}" for section, values in table.items() for key in values]
    for field in found:
        assert field.description, field.name
        assert not field.description.endswith("."), field.name
        section, key = field.name.split(".")
        assert table[section][key] == field.default
        assert field.optional or field.default is not None


def valid(field):
    """Some value of a field's type: each type of setting is told by the values it takes."""
    for value in (0.5, 3, True, "float32", "strict", "adamw", "wsd", "shard", "text", ["a", "b"]):
        try:
            if msgspec.convert(value, field.type, strict=True) == value:
                return value
        except msgspec.ValidationError:
            continue
    raise AssertionError(field.name)


def test_every_setting_survives_toml(tmp_path):
    table = {}
    for field in fields():
        section, key = field.name.split(".")
        table.setdefault(section, {})[key] = valid(field)
    settings = from_table(table, source="test")
    (tmp_path / "settings.toml").write_text(to_toml(settings), encoding="utf-8")
    assert from_table(read_table(tmp_path / "settings.toml"), source="settings.toml") == settings
    assert msgspec.to_builtins(settings) == table


@given(st.text(), st.floats(1e-300, 1e30), st.integers(0, 2**62))
def test_toml_keeps_text_and_numbers_exactly(text, rate, seed):
    import tomllib

    settings = Settings()
    settings.watch.prompts, settings.optimizer.learning_rate, settings.train.seed = [text, ""], rate, seed
    assert from_table(tomllib.loads(to_toml(settings)), source="test") == settings


def test_what_is_open_is_left_out():
    assert "learning_rate" not in to_toml(Settings())
    assert from_table({}, source="test") == Settings()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"trian": {"steps": 1}}, 'unknown section "trian" (did you mean "train"?)'),
        ({"train": {"stps": 1}}, 'unknown setting "train.stps" (did you mean "steps"?)'),
        ({"train": 3}, '"train" must be a section of settings, not a value'),
        ({"train": {"steps": 0}}, "expected a whole number >= 1 at train.steps"),
        ({"train": {"steps": "many"}}, "expected a whole number, got text at train.steps"),
        ({"train": {"steps": 1.5}}, "expected a whole number, got a number at train.steps"),
        ({"model": {"context": 1}}, "expected a whole number >= 2 at model.context"),
        ({"model": {"dropout": 1.0}}, "expected a number < 1.0 at model.dropout"),
        ({"schedule": {"name": "cosin"}}, "expected wsd or cosine or linear or constant, not 'cosin' at schedule.name"),
    ],
)
def test_what_is_wrong_is_named(table, sentence):
    with pytest.raises(InputError) as error:
        from_table(table, source="recipe.toml")
    assert str(error.value).rstrip(".") == f"recipe.toml: {sentence}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["optimizer.learning_rate", "train.epochs", "watch.temperature", "optimizer.clip_norm"]
)
def test_numbers_must_be_finite(name, value):
    section, key = name.split(".")
    with pytest.raises(InputError):
        from_table({section: {key: value}}, source="recipe.toml")


def test_recipes_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no recipe at"):
        read_table(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="is not a recipe"):
        read_table(tmp_path)
    (tmp_path / "bad.toml").write_text("[train\nsteps = 3", encoding="utf-8")
    with pytest.raises(InputError, match="not valid TOML"):
        read_table(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a recipe"):
        read_table(tmp_path / "bytes.toml")


def test_changes_come_on_top_and_one_length_replaces_another():
    table = {"train": {"epochs": 3.0, "batch": 4}, "model": {"width": 64}}
    merged = overridden(table, {"train.steps": 10, "model.layers": 2, "watch.temperature": 0.0})
    assert merged == {
        "train": {"steps": 10, "batch": 4}, "model": {"width": 64, "layers": 2}, "watch": {"temperature": 0.0},
    }  # fmt: skip
    assert table["train"] == {"epochs": 3.0, "batch": 4}
    assert overridden(table, {"train.batch": 8})["train"] == {"epochs": 3.0, "batch": 8}


def test_changes_onto_a_value_are_refused():
    for changes in ({"train.steps": 3}, {"train.batch": 3}):
        with pytest.raises(InputError, match="must be a section"):
            from_table(overridden({"train": 7}, changes), source="recipe.toml")


PEOPLE_TYPE = {
    "lr": "optimizer.learning_rate", "batch_size": "train.batch", "block_size": "model.context",
    "max_steps": "train.steps", "max_iters": "train.steps", "n_layer": "model.layers", "n_embd": "model.width",
    "n_head": "model.heads", "eval_interval": "watch.evaluate_every", "dropout": "model.dropout",
    "dtype": "train.precision", "learning_rate": "optimizer.learning_rate", "optimizer": "optimizer.name",
}  # fmt: skip
RENAMED = {
    "optimizer.matrix_learning_rate": "optimizer.muon_learning_rate", "model.hidden": "model.intermediate_size",
    "schedule.kind": "schedule.name",
}  # fmt: skip


def test_a_setting_is_read_by_every_name_that_is_its_alone():
    read = {name: field.name for name, field in names().items()}
    assert PEOPLE_TYPE.items() | RENAMED.items() <= read.items()
    assert {field.name for field in fields()} <= read.keys()
    assert "name" not in read, "two settings end in it"
    assert not ELSEWHERE.keys() & read.keys()
    bare = [name for field in fields() for name in (*field.aliases, field.was) if name]
    assert len(bare) == len(set(bare))
    assert not set(bare) & {field.key for field in fields()}
    assert overridden({}, {"lr": 3e-3, "train.batch_size": 4})["optimizer"] == {"learning_rate": 3e-3}
    assert overridden({"train": {"epochs": 2.0}}, {"max_iters": 3}) == {"train": {"steps": 3}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"leraning_rate": 1}, 'there is no setting "leraning_rate" (did you mean "learning_rate"?).'),
        ({"resume": True}, 'there is no setting "resume": a run is resumed when out names its folder, and from MODEL'),
        ({"min_lr": 0}, 'there is no setting "min_lr": final_fraction is the learning rate at the end'),
        ({"lr": 1, "learning_rate": 1}, "optimizer.learning_rate is given under two names, of which learning_rate is"),
    ],
)
def test_a_name_that_no_setting_has_is_answered(changes, sentence):
    with pytest.raises(InputError) as error:
        overridden({}, changes)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("name", RENAMED)
def test_a_name_of_before_is_read_and_answered_with_the_present_one(name, tmp_path, capsys):
    section, _, key = name.partition(".")
    value = "cosine" if key == "kind" else 3
    (tmp_path / "r.toml").write_text(f"[{section}]\n{key} = {value!r}\n", encoding="utf-8")
    read = from_table(read_table(tmp_path / "r.toml"), source="r.toml")
    assert capsys.readouterr().err == f"hornbook: {tmp_path}/r.toml: {name} is now {RENAMED[name]}.\n"
    assert read == from_table(overridden({}, {name: value}), source="settings")
    assert capsys.readouterr().err == f"hornbook: {name} is now {RENAMED[name]}.\n"
    assert read == from_table({section: {key: value}}, source="an old run") != Settings()
    assert capsys.readouterr().err == "", "a run folder is read in silence"
    assert name not in to_toml(read)
    with pytest.raises(InputError, match=f"r.toml: {name} is {RENAMED[name]}, which is given too"):
        from_table({section: {key: value, RENAMED[name].partition(".")[2]: value}}, source="r.toml")


def test_what_other_trainers_say_in_a_recipe():
    table = {"model": {"n_layer": 2, "block_size": 32}, "optimizer": {"lr": 3e-3}}
    assert from_table(table, source="r.toml").model.context == 32
    with pytest.raises(InputError, match=r'unknown setting "train.lr" \(did you mean "optimizer.learning_rate"\?\)'):
        from_table({"train": {"lr": 3e-3}}, source="r.toml")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_this_repository(recipe):
    settings = from_table(read_table(recipe), source=recipe.name)
    assert settings != Settings()


def test_a_recipe_that_is_not_there_brings_the_nearest_to_mind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "verdict.toml").touch()
    for name in ("recipes/verdct.toml", "verdict.toml"):
        with pytest.raises(InputError, match=r'did you mean "recipes/verdict.toml"\?'):
            read_table(Path(name))


def test_home_in_a_recipe(monkeypatch):
    """No shell reads a recipe, so ~ is expanded here."""
    monkeypatch.setenv("HOME", "/home-of-hers")
    table = {"text": {"paths": ["~/a.txt", "b~.txt"], "tokenizer": "~/tokens", "split": "folder:~/held"}}
    text = from_table(table, source="recipe.toml").text
    assert (text.paths, text.tokenizer) == (["/home-of-hers/a.txt", "b~.txt"], "/home-of-hers/tokens")
    assert text.split == "folder:/home-of-hers/held"
    assert from_table({"text": {"split": "tail:0.1"}}, source="").text.split == "tail:0.1"


@pytest.mark.parametrize("name", ["a\0b", "caf\udce9"])
@pytest.mark.parametrize("key", ["paths", "tokenizer", "split"])
def test_names_that_no_file_can_have_here(name, key):
    with pytest.raises(InputError, match=r"recipe.toml: (a␀b has a NUL character|caf\\xe9 is not UTF-8); rename"):
        from_table({"text": {key: [name] if key == "paths" else name}}, source="recipe.toml")


@pytest.mark.parametrize(
    "content", [b"[train]\nsteps = " + b"9" * 5000, b"a = " + b"[" * 100_000, b"\xff", b"[train]\nsteps = 1\0"]
)
def test_what_looks_like_a_recipe_and_is_none(tmp_path, content):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"r\.toml is not"):
        read_table(tmp_path / "r.toml")


def test_a_recipe_that_might_never_end(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="is not a recipe"):
            read_table(path)


def test_a_recipe_with_a_byte_order_mark(tmp_path):
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nsteps = 3\r\n")
    assert from_table(read_table(tmp_path / "r.toml"), source="r.toml").train.steps == 3
