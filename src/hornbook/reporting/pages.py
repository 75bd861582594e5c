"""A run as one HTML file: no script, no address of anything outside, readable on a phone, on paper and in the dark."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.looks import Evaluation
from hornbook.facts.metrics import printed
from hornbook.facts.text_warnings import leak_warning, loss_of, lost_warning
from hornbook.facts.units import counted, format_bytes, format_count, format_duration, hesitation, perplexity_text
from hornbook.records.result import exp_of_nats
from hornbook.reporting.curves import Rows, evaluations
from hornbook.reporting.heatmap import six_steps
from hornbook.reporting.html import escape, figures, header, page, section, table
from hornbook.reporting.plots import COLOURS

Row = Mapping[str, Any]

PROOF = "<!-- proof -->"  # before where the verdict of `hornbook prove` stands
_SAMPLES_SHOWN = 7  # of one prompt: the first, the last, and some evenly between
_SAMPLE_CHARACTERS = 900


def run_page(
    rows: Rows, samples: Sequence[Row], settings_toml: str, summary: Row, inspection_before: Sequence[Row] | None,
    inspection_after: Sequence[Row] | None, loss_svg: str, words: Sequence[str],
) -> str:  # fmt: skip
    """Return the page of a run as HTML text.

    `summary`: any of title, text, model, num_parameters, vocabulary, step, tokens, epoch, wall_seconds,
    train_seconds, tokens_per_second, gpu_hours, price_usd, train_loss_nats_per_token, interval_method, conventions
    and environment (mappings), the LEAK_NUMBERS, and the results validation_loss_nats_per_token,
    perplexity, bits_per_byte, each with `<name>_interval_95`, and baselines (name -> loss_nats_per_token); what is
    absent or None is left out.
    `inspection_*`: one mapping for each token of the same sentence before and after training: text, id, logit,
    probability, log_probability, nats, rank, entropy_nats (numbers None where the token was not scored).
    `samples`: rows of samples.jsonl, whose text goes on where their prompt ends.
    `words`: the sentences of `conclusions`. `loss_svg`: what `loss_plot` returns.
    """
    title = str(summary.get("title") or "A run")
    before_and_after = [("Before training", inspection_before), ("After training", inspection_after)]
    body = [
        _header(title, summary),
        _headline(summary),
        _curves(words, loss_svg),
        _baselines(summary),
        six_steps(before_and_after, summary.get("vocabulary")),
        _samples(samples, evaluations(rows)),
        _folded(rows, settings_toml, summary),
        "<footer>Written by Hornbook. Everything on this page is in the run's folder: metrics.jsonl, samples.jsonl, "
        "settings.toml, environment.json.</footer>",
    ]
    return page(title, body)


# The sections, from the top.


def _header(title: str, summary: Row) -> str:
    facts = [escape(summary["model"])] if summary.get("model") else []
    if summary.get("num_parameters") is not None:
        facts.append(f"{format_count(summary['num_parameters'])} parameters")
    if summary.get("vocabulary") is not None:
        facts.append(f"a vocabulary of {summary['vocabulary']:,} tokens")
    if summary.get("tokens") is not None:
        facts.append(f"{format_count(summary['tokens'])} training tokens")
    text = f" on {escape(summary['text'])}" if summary.get("text") else ""
    return header(f"a language model{text}", escape(title), *facts)


def _headline(summary: Row) -> str:
    meanings = _meanings(summary)
    if (loss := summary.get("validation_loss_nats_per_token")) is not None:
        summary = {**summary, "perplexity": exp_of_nats(loss)}  # JSON has none that is more than a number holds
    entries = [
        (known.title, value, known.unit_in_words, interval, meanings.get(known.name, known.sentence))
        for known, value, interval in printed(summary)
    ]
    if (seconds := summary.get("wall_seconds")) is not None:
        entries.append(("Time", format_duration(seconds), "", "", _cost(summary)))
    if not entries:
        return ""
    method = summary.get("interval_method")
    note = f'<p class="note">Intervals: {escape(method)}.</p>' if method else ""
    for warning in filter(None, (lost_warning(summary), leak_warning(summary))):
        note = f'<p class="note">Warning: {escape(warning)}.</p>\n{note}'
    return f"{figures(entries)}\n{note}"


def _meanings(summary: Row) -> dict[str, str]:
    """What a number says of this model, where more can be said than what it is."""
    meanings = {}
    if (loss := summary.get("validation_loss_nats_per_token")) is not None:
        meaning = f"How surprised the model is, on average, by each token {loss_of(summary)}."
        if summary.get("train_loss_nats_per_token") is not None:
            meaning += f" On its training text: {summary['train_loss_nats_per_token']:.2f}."
        if (there := summary.get("probe_validation_loss_nats_per_token")) is not None:
            meaning += f" The curve ends at {there:.2f}, on fixed windows of the same text."
        if summary.get("vocabulary"):
            meaning += f" Uniform guessing: {math.log(summary['vocabulary']):.2f}."
        meanings["validation_loss_nats_per_token"] = meaning
        worse = hesitation(loss, summary.get("vocabulary"))
        between = f"On average like choosing among {perplexity_text(loss)} equally likely tokens."
        meanings["perplexity"] = between if worse is None else f"{worse.capitalize()}."
    if (bits := summary.get("bits_per_byte")) is not None:
        meaning = f"The model could compress the text to {bits / 8:.0%} of its size. "
        if bits > 8:
            meaning = "The model could not compress the text. "
        if lost_warning(summary) is None:
            meaning += "Only this number compares models with different tokenizers."
        meanings["bits_per_byte"] = meaning
    return meanings


def _cost(summary: Row) -> str:
    parts = []
    if summary.get("step") is not None:
        parts.append(counted(summary["step"], "step"))
    if summary.get("epoch") is not None:
        parts.append(f"{summary['epoch']:.1f} epochs")
    if summary.get("tokens_per_second") is not None:
        training = f" in {format_duration(summary['train_seconds'])} of training" if "train_seconds" in summary else ""
        parts.append(f"{format_count(summary['tokens_per_second'])} tokens a second{training}")
    if summary.get("gpu_hours"):
        parts.append(f"{summary['gpu_hours']:.3g} device-hours")
    if summary.get("price_usd"):
        parts.append(f"{summary['price_usd']:,.2f} USD")
    sentence = ", ".join(parts)
    return f"{sentence}." if sentence else ""


def _curves(words: Sequence[str], loss_svg: str) -> str:
    if not words and not loss_svg:
        return ""
    sentences = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in words)
    plot = f'<figure class="plot">{inline_svg(loss_svg)}</figure>' if loss_svg else ""
    return section("What the loss curves say", f'<ul class="said">\n{sentences}{PROOF}</ul>', plot)


def with_proof(page: str, verdict: str) -> str:
    """The page of a run with the verdict of `hornbook prove`, in place of an earlier one."""
    return re.sub(f"{PROOF}(<li>.*?</li>\n)?", lambda found: f"{PROOF}<li>{escape(verdict)}</li>\n", page, count=1)


def _baselines(summary: Row) -> str:
    """The model's loss among those of the n-gram baselines, the highest first."""
    loss = summary.get("validation_loss_nats_per_token")
    if loss is None or not summary.get("baselines"):
        return ""
    names = {"uniform": "uniform guessing", "unigram": "unigram (token frequencies)"}
    others = [
        (names.get(name, name), numbers["loss_nats_per_token"])
        for name, numbers in summary["baselines"].items()
    ]  # fmt: skip
    rows = sorted([*others, ("<b>this model</b>", loss)], key=lambda row: -row[1])
    most = rows[0][1]
    lines = "".join(
        f'<tr><td>{name}</td><td class="bar" style="--p:{value / most:.3f}">{value:.3f}</td></tr>\n'
        for name, value in rows
    )
    lede = "<p>N-gram baselines of the training text on the same tokens, in nats per token.</p>"
    return section("How does this loss compare?", lede, f'<table class="bars">\n<tbody>\n{lines}</tbody>\n</table>')


def inline_svg(svg: str, label: str = "Training and validation loss against training tokens") -> str:
    """Matplotlib's SVG as a part of a page: without prolog, namespaces, size and style sheet, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    head, rest = svg[: svg.index(">")], svg[svg.index(">") :]
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head) + rest
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.strip().replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _samples(samples: Sequence[Row], points: list[Evaluation]) -> str:
    prompts: dict[str, dict[int, Row]] = {}
    for sample in samples:
        prompts.setdefault(str(sample.get("prompt") or ""), {})[sample["step"]] = sample
    if not prompts:
        return ""
    parts = []
    for prompt, by_step in prompts.items():
        chosen = _evenly(sorted(by_step), _SAMPLES_SHOWN)
        left_out = len(by_step) - len(chosen)
        heading = f"Prompt: “{escape(prompt)}”" if prompt else "Without a prompt"
        heading += f" ({left_out:,} more in samples.jsonl)" if left_out else ""
        entries = "".join(_sample(by_step[step], prompt, points) for step in chosen)
        parts.append(f'<p class="note prompt" dir="auto">{heading}</p>\n<ol class="timeline">\n{entries}</ol>\n')
    return section("Samples during training", *parts)


def _evenly(steps: list[int], most: int) -> list[int]:
    """The first, the last and evenly spaced ones between, `most` in all.

    >>> _evenly([0, 1, 2, 3, 4, 5, 6, 7, 8], 3)
    [0, 4, 8]
    """
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _sample(sample: Row, prompt: str, points: list[Evaluation]) -> str:
    written = str(sample["text"])
    if len(written) > _SAMPLE_CHARACTERS:
        written = f"{written[:_SAMPLE_CHARACTERS]}…"
    known = [point.validation_loss for point in points if point.step <= sample["step"]]
    facts = [f"{format_count(sample['tokens'])} training tokens"] if sample.get("tokens") is not None else []
    facts += [f"probe loss {known[-1]:.2f}"] if known else []
    when = f"<b>step {sample['step']:,}</b> " + " ".join(f"<span>{fact}</span>" for fact in facts)
    given = f'<span class="given">{escape(prompt)}</span>' if prompt else ""
    return f'<li><div class="when">{when}</div><blockquote dir="auto">{given}{escape(written)}</blockquote></li>\n'


def _folded(rows: Rows, settings_toml: str, summary: Row) -> str:
    parts = [
        ("Every evaluation", _evaluation_table(rows)),
        ("How the numbers were measured", _facts(summary.get("conventions"))),
        ("Settings", f"<pre>{escape(settings_toml)}</pre>" if settings_toml else ""),
        ("Machine and versions", _facts(summary.get("environment"))),
    ]
    folded = "".join(f"<details><summary>{name}</summary>{content}</details>\n" for name, content in parts if content)
    return f'<section class="folded">\n{folded}</section>' if folded else ""


def _evaluation_table(rows: Rows) -> str:
    points = evaluations(rows)
    if not points:
        return ""
    titles = (
        "step", "tokens", "probe validation loss", "perplexity", "probe training loss", "gap, bits per byte", "copied",
    )  # fmt: skip
    cells = (
        (
            f"{point.step:,}", f"{point.tokens:,}", f"{point.validation_loss:.4f}",
            perplexity_text(point.validation_loss), "–" if point.train_loss is None else f"{point.train_loss:.4f}",
            "–" if point.gap is None else f"{point.gap:+.3f}", "–" if point.copied is None else f"{point.copied:.1%}",
        )
        for point in points
    )  # fmt: skip
    return table(titles, cells)


def _facts(facts: Mapping[str, Any] | None) -> str:
    """A definition list; a mapping inside a mapping is one line."""
    if not facts:
        return ""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items() if inner is not None)
        if value is not None:
            text = format_bytes(value) if name.endswith("_bytes") else value
            name = str(name).removesuffix("_bytes").replace("_", " ")
            lines.append(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n")
    return f'<dl class="facts">\n{"".join(lines)}</dl>'
