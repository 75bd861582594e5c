"""What a Python function returns prints as a table, and is the dict or the struct that it was."""

import json

import msgspec
import pytest

import hornbook
from hornbook.facts.tables import Result, as_html

NUMBERS = {
    "run": "runs/<a>\x1b[2J", "loss_nats_per_token": 1.25, "loss_nats_per_token_interval_95": [1.0, None],
    "bits_per_byte": 2.0, "bits_per_byte_interval_95": [1.5, 2.5], "words": ["It <b>fell</b>."], "report": "r.html",
    "baselines": {"uniform": {"bits_per_byte": 8.0}}, "files": {"a": {"num_bytes": 1}}, "chosen_on_this_text": True,
}  # fmt: skip


def test_a_result_is_its_dict_and_prints_as_a_table():
    result = Result(NUMBERS)
    assert result == NUMBERS == result.to_dict()
    assert type(result.to_dict()) is dict
    assert json.loads(json.dumps(result)) == json.loads(msgspec.json.encode(result)) == NUMBERS
    assert repr(result) == repr(NUMBERS)
    assert str(result).splitlines() == [
        "runs/<a>␛[2J",
        f"{'loss':31}   1.25   nats/token",
        f"{'bits per byte':31}      2   bits/byte, 95 % 1.5 to 2.5",
        "baselines uniform bits per byte      8   bits/byte",
        "It <b>fell</b>.",
        "r.html",
    ]


def test_a_notebook_shows_html_in_which_names_are_text():
    shown = as_html(NUMBERS)
    assert shown.startswith("<table><caption>runs/&lt;a&gt;")
    assert "<td>bits per byte</td><td>2</td><td>bits/byte, 95 % 1.5 to 2.5</td>" in shown
    assert "<p>It &lt;b&gt;fell&lt;/b&gt;.</p>" in shown


@pytest.fixture(scope="module")
def returned(tiny_run, tmp_path_factory):
    """What each function returns of the tiny run."""
    run, text = str(tiny_run.run), str(tiny_run.folder / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("returned"))
        return {
            "evaluate": hornbook.evaluate(run, text),
            "evaluate as another": hornbook.evaluate(run, text, like="huggingface"),
            "compare": hornbook.compare(run, run, text),
            "prepare": hornbook.prepare(text, tokenizer="bytes", **{"text.split": "tail:0.1"}),
            "plan": hornbook.plan(parameters="7B", tokens="2T", on="8xA100"),
            "train": hornbook.train(text, steps=1, n_layer=1, width=32, context=32, batch=4, threads=1, quiet=True),
        }


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("evaluate", "bits per byte"), ("evaluate as another", "loss"), ("compare", "difference bits per byte"),
        ("prepare", "parts train num bytes"), ("plan", "final loss"), ("train", "validation loss"),
    ],
)  # fmt: skip
def test_what_the_functions_return(returned, name, line):
    result = returned[name]
    assert any(row.startswith(line) for row in str(result).splitlines())
    assert result._repr_html_().startswith("<table><caption>")
    assert f"<td>{line}" in result._repr_html_()
    assert isinstance(result.to_dict(), dict)
    assert isinstance(result, dict) is (name not in ("evaluate", "plan"))


def test_runs_are_what_the_command_lists(tiny_run, hornbook_in):
    listed = hornbook_in(tiny_run.folder)("runs", ".", "--json").json["runs"]
    ours = hornbook.runs(tiny_run.folder)
    assert [row | {"run": ""} for row in ours] == [row | {"run": ""} for row in listed]


def test_training_in_python_shows_its_progress_unless_it_is_quiet(tiny_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    small = {"steps": 1, "layers": 1, "width": 32, "context": 32, "batch": 4, "threads": 1}
    hornbook.train(str(tiny_run.folder / "text.txt"), quiet=True, **small)
    assert capfd.readouterr() == ("", "")
    hornbook.train(str(tiny_run.folder / "text.txt"), **small)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "step 1/1" in shown.err
