"""The page of an inspection and the terminal view: numbers that agree, text that stays text, nothing from outside."""

import io
import math
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.reporting.heatline import print_inspection
from hornbook.reporting.heatmap import inspection_page
from hornbook.reporting.html import shown_as
from hornbook.reporting.weights import sparkline, weight_rows

HOSTILE = '</span></bdi></script><img src="http://evil.example/x" onerror=alert(1)>\x1b[31m\x00'


def token(text, nats, **more):
    alternatives = [{"text": HOSTILE, "id": 1, "probability": 0.5}, {"text": text, "id": 2, "probability": 0.25}]
    known = {
        "logit": 1.0, "probability": math.exp(-nats), "log_probability": -nats, "nats": nats, "rank": 3,
        "entropy_nats": 1.5, "surplus_nats": nats - 1.5, "alternatives": alternatives,
    } if nats is not None else dict.fromkeys(
        ("logit", "probability", "log_probability", "nats", "rank", "entropy_nats", "surplus_nats", "alternatives")
    )  # fmt: skip
    return {"text": text, "id": 2, **known, **more}


def view(tokens, **more):
    nats = math.fsum(each["nats"] or 0.0 for each in tokens)
    count = sum(each["nats"] is not None for each in tokens)
    return {
        "model": "m", "step": 3, "vocabulary": 256, "num_parameters": 1234, "tokens": tokens, "num_tokens": count,
        "num_bytes": 10, "loss_nats_per_token": nats / count, "perplexity": math.exp(nats / count),
        "mean_entropy_nats": 1.5, "bits_per_byte": nats / math.log(2) / 10, "greedy": None, "gradients": None,
        "conventions": {"window": "32 tokens"}, **more,
    }  # fmt: skip


def test_every_token_has_its_numbers_where_it_is_pointed_at():
    page = inspection_page([view([token("a", 1.0), token(" b", 3.0), token("c", None)])])
    strip = page[page.index('<p class="tokens"') : page.index("</p>", page.index('<p class="tokens"'))]
    assert strip.count('class="tip"') == 2  # not the token that was not scored
    assert "<span>surprise</span><span>1.000 nats</span><span>expected</span><span>1.500 nats</span>" in strip
    assert "<span>probability</span><span>0.0498</span>" in strip
    assert '<b dir="auto">␣b</b>' in strip
    assert f"--n:{3 / math.log(256):.3f}" in strip
    assert "exp(2.000): perplexity" in page


@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=20))
def test_any_token_stays_text(text):
    page = inspection_page([view([token(text + HOSTILE, 1.0)], model=HOSTILE)])
    assert not re.search(r"<(img|script)", page)
    page.encode("utf-8", "strict")
    assert "\x00" not in page
    assert shown_as(HOSTILE) in page


def test_the_page_asks_for_nothing():
    page = inspection_page([view([token("a", 1.0, alternatives=[])])])
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe)|https?:|@import|url\(", page.replace("http-equiv", ""))


def test_two_models_and_which_is_less_surprised():
    page = inspection_page([view([token("a", 3.0), token("b", 1.0)]), view([token("a", 1.0), token("b", 1.5)], step=9)])
    assert "m at step 3 against m at step 9" in page
    assert re.search(r'class="token better" style="--n:0.500" title="-2.000 nats, rank 3 to 3">a', page)
    assert re.search(r'class="token worse" style="--n:0.125" title="\+0.500 nats, rank 3 to 3">b', page)
    assert "The second model is less surprised by this text, by 0.216 bits per byte: 0.361 against 0.577." in page
    other = view([token("a", 1.0), token("c", 1.5, id=7)])
    assert 'class="token better"' not in inspection_page([view([token("a", 3.0), token("b", 1.0)]), other])


def test_gradients_and_a_departure():
    greedy = {
        "prompt_tokens": 1, "num_tokens": 2, "departs_at_token": 2, "num_tokens_before_departure": 1,
        "num_tokens_equal": 1, "instead_of": " b", "wrote": " x", "text": "a x",
    }  # fmt: skip
    slopes = {"parts": [{"part": "blocks.0", "gradient_norm": 0.5, "weight_norm": 4.0, "update_norm": 0.01}]}
    tokens = [token("a", 1.0, own_logit_gradient=-0.25), token(" b", 1.0)]
    page = inspection_page([view(tokens, greedy=greedy, gradients=slopes)])
    assert "reproduces the next 1 token of 2, then gives &#39; x&#39; where the text has &#39; b&#39;." in page
    assert "<td>blocks.0</td><td>0.5</td><td>4</td><td>0.01</td><td>0.0025</td>" in page
    assert "-2.50e-01" in page


WEIGHTS = {
    "model": "m", "step": None, "vocabulary": 256, "num_parameters": 6, "num_parameters_by_part": {"embedding": 6},
    "tied": True, "weights": [{
        "name": "embedding.weight", "shape": [3, 2], "num_parameters": 6, "norm": 2.0, "mean": 0.5,
        "standard_deviation": 0.25, "minimum": -1.0, "maximum": 1.0, "histogram": [1, 0, 5], "trainable": False,
        "tied_to": ["head.projection.weight"],
    }],
}  # fmt: skip


def test_weights_as_a_table():
    assert weight_rows(WEIGHTS)[0][:3] == ("embedding (also the head) (frozen)", "3×2", "6")
    page = inspection_page([WEIGHTS])
    assert "6 parameters: embedding 6; the head is the embedding." in page
    assert sparkline([1, 0, 5]) in page


@pytest.fixture
def printed(monkeypatch):
    """What is printed on a terminal of a given width, with or without colour."""

    def run(views, *, width=80, colour=False):
        shown = io.StringIO()
        monkeypatch.setattr(sys, "stdout", shown)
        monkeypatch.setenv("COLUMNS", str(width))
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TERM"):
            monkeypatch.delenv(name, raising=False)
        if colour:
            monkeypatch.setenv("FORCE_COLOR", "1")
            monkeypatch.setenv("COLORTERM", "truecolor")
            monkeypatch.setenv("TERM", "xterm-256color")
        print_inspection(views)
        return shown.getvalue()

    return run


def test_colour_on_a_terminal_and_bars_without(printed):
    views = [view([token("sure", 0.0), token(" guess", math.log(256)), token("line\n", 1.0)])]
    coloured = printed(views, colour=True)
    assert "48;2;255;95;60m guess" in coloured  # a guess among all tokens is as hot as it gets
    plain = printed(views)
    assert "\x1b" not in plain
    assert "████████" in plain
    assert "line↵" in plain
    assert all(len(line) <= 80 for line in plain.splitlines() if "═" not in line and "bits per byte" not in line)


def test_a_terminal_is_not_steered_by_a_text(printed):
    for colour in (False, True):
        shown = printed([view([token(HOSTILE, 2.0), token("\u202ea\r", 1.0)])], colour=colour, width=140)
        assert "\x1b[31m" not in shown.replace("\x1b[0m", "")
        assert not set(shown) & {"\x00", "\r", "\u202e"}


def test_two_models_in_one_table(printed):
    views = [view([token("a", 3.0)]), view([token("a", 1.0)], step=9)]
    shown = printed(views)
    assert re.search(r"a +3\.00 +3 +\S+ +1\.00 +3 +\S+ +-2\.00", shown)
    assert "The second model is less surprised" in shown


def test_of_a_long_text_the_most_surprising_tokens(printed):
    shown = printed([view([token(f"t{i}", 0.01 * i) for i in range(150)])])
    assert "the 100 most surprising tokens of 150:" in shown
    assert "t149" in shown
    assert "t49 " not in shown
