"""The page of a run: sound HTML without anything from outside, hostile text shown as text, numbers that agree."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.reporting.html import shown_as
from hornbook.reporting.pages import inline_svg, run_page
from hornbook.reporting.plots import loss_plot
from hornbook.reporting.words import conclusions

HOSTILE = '</script></pre></style><img src="http://evil.example/x" onerror=alert(1)>&amp;\'"\x00\ud800'
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags, attributes and text; fails on a tag that closes what is not open."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(text)


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(21):
        at = {"step": step, "tokens": 100 * step}
        loss = 3 + 5 * math.exp(-step / 5)
        rows.append({"event": "step", **at, "train_loss_nats_per_token": loss - 0.1})
        rows.append({"event": "evaluation", **at, "probe_validation_loss_nats_per_token": loss})
    return rows


def _inspection(nats: list[float | None], texts: list[str] | None = None) -> list[dict[str, Any]]:
    return [
        {
            "text": " token" if texts is None else texts[i],
            "id": i,
            "logit": None if value is None else 1.5 - value,
            "probability": None if value is None else math.exp(-value),
            "log_probability": None if value is None else -value,
            "nats": value,
            "rank": None if value is None else 7,
            "entropy_nats": None if value is None else 2.0,
        }
        for i, value in enumerate(nats)
    ]


def _page(word: str = "word", **more: Any) -> str:
    summary = {
        "title": word,
        "text": word,
        "model": word,
        "num_parameters": 1_234_567,
        "vocabulary": 4096,
        "validation_loss_nats_per_token": 3.25,
        "validation_loss_nats_per_token_interval_95": [3.1, 3.4],
        "bits_per_byte": 1.5,
        "wall_seconds": 182.0,
        "interval_method": word,
        "conventions": {word: word},
        "environment": {word: {word: word}, "memory_bytes": 2**31},
        **more.pop("summary", {}),
    }
    rows = _rows()
    given: dict[str, Any] = {
        "rows": rows,
        "samples": [{"step": step, "tokens": step, "prompt": word, "text": word + "!" + word} for step in (0, 20)],
        "settings_toml": word,
        "inspection_before": _inspection([8.0, None, 8.5], [word, word, word]),
        "inspection_after": _inspection([1.0, None, 2.0], [word, word, word]),
        "loss_svg": loss_plot(rows, path_png=None, path_svg=None, tokens_per_epoch=500, uniform_loss=8.3, title=word)
        if word == "word"
        else "",
        "words": [one.sentence for one in conclusions(rows, tokens_per_epoch=500)] if word == "word" else [word],
        **more,
    }
    return run_page(summary=summary, **given)


def test_the_page_is_sound_and_needs_nothing_from_outside() -> None:
    page = _page()
    reader = Reader(page)
    assert page.startswith("<!doctype html>")
    names = {tag for tag, _ in reader.tags}
    assert {"svg", "table", "details", "dl"} <= names
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignobject"}
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    policy = next(attributes for tag, attributes in reader.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in str(policy["content"])
    assert page.encode() == page.encode("utf-8", "strict")


def test_hostile_text_is_shown_and_never_obeyed() -> None:
    page = _page(HOSTILE)
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "img"}
    shown = "".join(reader.text)
    visible = HOSTILE.replace("\x00", "␀").replace("\ud800", "\ufffd")
    # title twice, eyebrow, lede, method, words, 3 tokens of 2 inspections twice, samples, conventions, settings ...
    assert shown.count(visible) >= 20
    assert shown_as(HOSTILE) in page


@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_any_text_comes_through_or_becomes_a_visible_sign(text: str) -> None:
    page = f"<p>{shown_as(text)}</p>"
    reader = Reader(page)
    assert [tag for tag, _ in reader.tags] == ["p"]
    page.encode()
    bytes_in_text = sum("\udc80" <= sign <= "\udcff" for sign in text)  # of a name that is not UTF-8: four signs, \xNN
    assert len("".join(reader.text)) == len(text.replace("\r\n", "\n")) + 3 * bytes_in_text


def test_the_six_steps_agree_with_each_other() -> None:
    shown = "".join(Reader(_page()).text)
    for nats in ((8.0, 8.5), (1.0, 2.0)):
        mean = sum(nats) / 2
        assert f"−{mean:.3f}" in shown
        assert f"exp({mean:.3f}): perplexity{'3,828' if mean > 8 else '4.48'}" in shown
    assert "average over 2 tokens" in shown
    assert "0.368" in shown
    assert "2.0·10⁻⁴" not in shown


def test_surprise_is_heat_and_an_unscored_token_is_cold() -> None:
    page = _page(inspection_before=None, inspection_after=_inspection([0.0, math.log(4096) / 2, 20.0, None]))
    heats = [str(attributes["style"]) for tag, attributes in Reader(page).tags if tag == "bdi"]
    assert heats[:4] == ["--n:0.000", "--n:0.500", "--n:1.000", "--n:0"]
    assert "not scored" in page


def test_white_space_tokens_are_visible() -> None:
    page = _page(inspection_before=None, inspection_after=_inspection([1.0, 1.0, 1.0], ["  ", "\n\n", "\t"]))
    shown = "".join(Reader(page).text)
    assert all(sign in shown for sign in ("␣␣", "↵↵", "⇥"))


def test_a_perplexity_above_the_vocabulary_is_no_hesitation() -> None:
    shown = "".join(Reader(_page(summary={"validation_loss_nats_per_token": 9.0})).text)
    assert "More than the 4,096 there are: worse than uniform guessing." in shown
    assert "choosing among" not in shown


def test_the_headline_says_numbers_with_their_interval_and_meaning() -> None:
    shown = "".join(Reader(_page()).text)
    for words in (
        "3.2500 nats per token",
        "95 % interval 3.1000 to 3.4000",
        "choosing among 25.8 equally likely tokens",
        "uniform guessing8.32",
        "19% of its size",
        "3 min 2 s",
        "1.23M parameters",
        "2 GiB",
    ):
        assert words in shown, words


def test_what_is_unknown_is_left_out() -> None:
    page = run_page([], [], "", {}, None, None, "", [])
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"section", "table", "details", "dl"}
    assert "None" not in page
    assert "nan" not in "".join(reader.text)
    partial = _page(summary={"validation_loss_nats_per_token_interval_95": [3.1, None], "vocabulary": None})
    assert "95 % interval" not in partial
    assert "None" not in "".join(Reader(partial).text)


@pytest.mark.parametrize("count", [1, 7, 8, 100])
def test_the_timeline_shows_first_and_last_and_says_how_many_it_left_out(count: int) -> None:
    samples = [{"step": step, "prompt": "Once", "text": " upon a time" * 200} for step in range(count)]
    page = _page(samples=samples)
    shown = "".join(Reader(page).text)
    assert page.count("<blockquote") == min(count, 7) + 1  # and the last one at the top
    assert f"step {count - 1:,}" in shown
    assert "step 0" in shown
    assert ("more in samples.jsonl" in shown) == (count > 7)
    assert "Once upon a time" in shown


def test_a_sample_goes_on_where_its_prompt_ends() -> None:
    page = _page(samples=[{"step": 0, "prompt": "Once", "text": " upon, Once"}])
    assert '<span class="given">Once</span> upon, Once</blockquote>' in page


def test_long_sentences_keep_their_averages_over_all_tokens() -> None:
    page = _page(inspection_before=_inspection([1.0] * 40 + [42.0]), inspection_after=None)
    shown = "".join(Reader(page).text)
    assert "and 9 more tokens" in shown
    assert "average over 41 tokens" in shown
    assert "exp(2.000): perplexity7.39" in shown


def test_an_inlined_svg_takes_the_colours_of_the_page() -> None:
    rows = _rows()
    svg = inline_svg(loss_plot(rows, path_png=None, path_svg=None, tokens_per_epoch=500, title="t"))
    assert svg.startswith('<svg role="img"')
    assert "var(--validation)" in svg
    assert "#0072b2" not in svg
    assert "xmlns" not in svg
    assert "<style" not in svg
    assert 'viewBox="' in svg
