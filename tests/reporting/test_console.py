"""What a person sees of other people's text: signs instead of control sequences, and no markup of a library."""

import io
import json
import re

import pytest

from hornbook.facts.printing import on_one_line, print_json, printable
from hornbook.reporting.heatline import print_inspection
from hornbook.reporting.live import View
from hornbook.reporting.panel import panel_of
from hornbook.reporting.terminal import print_runs, print_table

FOREIGN = "[/b] [red]x[/red] :cat: \x1b]0;title\x07 \x1b[2J \x9b31m \x00 caf\udce9"
SHOWN = "[/b] [red]x[/red] :cat: ␛]0;title␇ ␛[2J \ufffd31m ␀ caf\\xe9"


def obeyed(text):
    """The control characters in a text, without the colours that the console itself sets."""
    return re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.sub(r"\x1b\[[0-9;]*m", "", text))


@pytest.fixture(params=["", "1"])
def on_a_terminal(request, monkeypatch):
    """stdout and stderr as a terminal that is wide, with colours or without."""
    wanted = {"TERM": "xterm-256color", "COLUMNS": "300", "FORCE_COLOR": "1", "NO_COLOR": request.param}
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)


def test_every_control_character_becomes_a_sign():
    everything = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0xD800, 0xDFFF]))
    assert obeyed(printable(everything)) == []
    assert re.findall(r"\s", printable(everything)) == ["\t", "\n"]
    assert re.findall(r"\s", on_one_line(everything)) == []
    ordinary = "".join(chr(c) for c in range(0x20, 0x30000) if not 0x7F <= c < 0xA0 and not 0xD800 <= c < 0xE000)
    assert printable(ordinary) == on_one_line(ordinary) == ordinary


@pytest.mark.usefixtures("on_a_terminal")
def test_tables_show_names_as_they_are(capsys):
    print_table([(FOREIGN, FOREIGN, FOREIGN)], FOREIGN)
    print_runs([{"run": FOREIGN, "state": FOREIGN}])
    said = capsys.readouterr().out
    assert obeyed(said) == []
    assert re.sub(r"\x1b\[[0-9;]*m", "", said).count(SHOWN) == 6


@pytest.mark.usefixtures("on_a_terminal")
def test_the_live_view_shows_samples_as_they_are(capsys):
    view = View()
    view.note(FOREIGN)
    view.show_sample(FOREIGN)
    view.latest = {"step": 1, "epoch": 0.1, "train_loss_nats_per_token": 2.0}
    view.console.print(panel_of(view))
    said = capsys.readouterr().err
    assert obeyed(said) == []
    assert re.sub(r"\x1b\[[0-9;]*m", "", said).count(SHOWN) == 3


@pytest.mark.usefixtures("on_a_terminal")
def test_a_look_shows_tokens_as_they_are(capsys):
    token = {
        "text": FOREIGN, "id": 1, "nats": 1.0, "logit": 0.0, "probability": 0.3, "log_probability": -1.0, "rank": 1,
        "entropy_nats": 1.0, "surplus_nats": 0.0, "alternatives": [{"text": FOREIGN, "probability": 0.3}],
    }  # fmt: skip
    view = {
        "model": FOREIGN, "step": None, "tokens": [token], "loss_nats_per_token": 1.0, "num_tokens": 1,
        "mean_entropy_nats": 1.0, "bits_per_byte": 1.0, "greedy": None, "gradients": None, "vocabulary": 9,
    }  # fmt: skip
    print_inspection([view])
    said = capsys.readouterr().out
    assert obeyed(said) == []
    assert re.sub(r"\x1b\[[0-9;]*m", "", said).count(SHOWN) >= 3


def test_json_escapes_what_a_terminal_would_obey(capsys):
    print_json({"name": "\x1b[31m \x7f \x9b31m é"})
    assert capsys.readouterr().out == '{\n  "name": "\\u001b[31m \\u007f \\u009b31m é"\n}\n'
    print_json({"a": [{"caf\udce9": ("caf\udce9", 1.5, None)}]})
    assert json.loads(capsys.readouterr().out) == {"a": [{"caf\\xe9": ["caf\\xe9", 1.5, None]}]}


def test_a_terminal_of_another_encoding(monkeypatch):
    """What it cannot show is written as a code, and nothing fails."""
    from hornbook.cli.parser import main

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stderr", stream)
    assert main(["evaluate", "ein-Modell-für-中文"]) == 2
    stream.flush()
    assert b"ein-Modell-f\\xfcr-\\u4e2d\\u6587" in stream.buffer.getvalue()
