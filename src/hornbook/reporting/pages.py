"""A run as one HTML file: no script, no address of anything outside, readable on a phone, on paper and in the dark."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hornbook.facts.metrics import printed
from hornbook.facts.text_warnings import leak_warning, loss_of, lost_warning
from hornbook.facts.units import counted, format_bytes, format_count, format_duration, hesitation, perplexity_text
from hornbook.records.result import Report, exp_of_nats
from hornbook.reporting.curves import Rows, evaluations
from hornbook.reporting.heatmap import six_steps
from hornbook.reporting.html import collapsed, page
from hornbook.reporting.plots import COLOURS
from hornbook.reporting.verdict import Verdict

Row = Mapping[str, Any]
Links = Sequence[tuple[str, str]]

NGRAMS = {"uniform": "uniform guessing", "unigram": "unigram (token frequencies)"}
_SAMPLES_SHOWN = 7  # of one prompt: the first, the last, and some evenly between
_SAMPLE_CHARACTERS = 900
_DOCUMENTS_SHOWN = 40


def run_page(
    rows: Rows, samples: Sequence[Row], settings_toml: str, summary: Row, inspection_before: Sequence[Row] | None,
    inspection_after: Sequence[Row] | None, loss_svg: str, words: Sequence[str], *, verdict: Verdict | None = None,
    links: Links = (), proof: str | None = None,
) -> str:  # fmt: skip
    """Return the page of a run as HTML text.

    `summary`: any of title, text, model, optimizer, date, machine, num_parameters, vocabulary, step, tokens, epoch,
    wall_seconds, train_seconds, tokens_per_second, gpu_hours, price_usd, train_loss_nats_per_token, interval_method,
    conventions and environment (mappings), the LEAK_NUMBERS, and the results validation_loss_nats_per_token,
    perplexity, bits_per_byte, each with `<name>_interval_95`, and baselines (name -> loss_nats_per_token); what is
    absent or None is left out.
    `inspection_*`: one mapping for each token of the same sentence before and after training: text, id, logit,
    probability, log_probability, nats, rank, entropy_nats (numbers None where the token was not scored).
    `samples`: rows of samples.jsonl, whose text goes on where their prompt ends.
    `words`: the sentences of `conclusions`. `loss_svg`: what `loss_plot` returns. `proof`: what `prove` said.
    """
    before_and_after = [("Before training", inspection_before), ("After training", inspection_after)]
    points, text = evaluations(rows), summary.get("text")
    latest = max(samples, key=lambda sample: sample["step"], default=None)
    return page(
        "report.html", title=summary.get("title") or "A run",
        eyebrow=f"a language model{f' on {text}' if text else ''}",
        facts=_facts(summary), links=links, verdict=verdict, svg=Markup(inline_svg(loss_svg)) if loss_svg else "",
        latest=None if latest is None else {"prompt": latest.get("prompt") or "", "step": latest["step"],
                                            "text": _cut(latest["text"])},
        figures=_figures(summary), interval_method=summary.get("interval_method"),
        warnings=[warning for warning in (lost_warning(summary), leak_warning(summary)) if warning],
        words=words, proof=proof, bars=_bars(summary), six=six_steps(before_and_after, summary.get("vocabulary")),
        prompts=_samples(samples, [(point.step, point.validation_loss) for point in points]),
        titles=("step", "tokens", "probe validation loss", "perplexity", "probe training loss", "gap, bits per byte",
                "copied"),
        evaluated=collapsed(_evaluated(rows)), settings=settings_toml,
        conventions=_pairs(summary.get("conventions")), environment=_pairs(summary.get("environment")),
    )  # fmt: skip


# The parts, from the top.


def _facts(summary: Row) -> list[str]:
    facts = [str(summary["model"])] if summary.get("model") else []
    if summary.get("num_parameters") is not None:
        facts.append(f"{format_count(summary['num_parameters'])} parameters")
    if summary.get("vocabulary") is not None:
        facts.append(f"a vocabulary of {summary['vocabulary']:,} tokens")
    if summary.get("tokens") is not None:
        facts.append(f"{format_count(summary['tokens'])} training tokens")
    return facts + [str(summary[name]) for name in ("optimizer", "date", "machine") if summary.get(name)]


def _figures(summary: Row) -> list[tuple[Any, ...]]:
    meanings = _meanings(summary)
    if (loss := summary.get("validation_loss_nats_per_token")) is not None:
        summary = {**summary, "perplexity": exp_of_nats(loss)}  # JSON has none that is more than a number holds
    entries: list[tuple[Any, ...]] = [
        (known.title, value, known.unit_in_words, interval, meanings.get(known.name, known.sentence),
         _beside(summary) if known.name == "validation_loss_nats_per_token" else [])
        for known, value, interval in printed(summary)
    ]  # fmt: skip
    if not entries and (probe := summary.get("probe_validation_loss_nats_per_token")) is not None:
        meaning = "The latest probe: fixed windows of the validation text."
        entries.append(("Loss so far", f"{probe:.4f}", "nats per token", "", meaning, _beside(summary)))
        between = "On average like choosing among so many equally likely tokens."
        entries.append(("Perplexity", perplexity_text(probe), "tokens", "", between))
    if (seconds := summary.get("wall_seconds")) is not None:
        entries.append(("Time", format_duration(seconds), "", "", "", _cost(summary)))
    return entries


def _beside(summary: Row) -> list[tuple[str, str]]:
    """What the loss is to be compared with."""
    losses = [("on training windows", summary.get("train_loss_nats_per_token"))]
    if summary.get("validation_loss_nats_per_token") is not None:
        losses.append(
            ("on validation windows, where the curve ends", summary.get("probe_validation_loss_nats_per_token"))
        )
    if summary.get("vocabulary"):
        losses.append(("uniform guessing", math.log(summary["vocabulary"])))
    return [(name, f"{loss:.2f}") for name, loss in losses if loss is not None]


def _meanings(summary: Row) -> dict[str, str]:
    """What a number says of this model, where more can be said than what it is."""
    meanings = {}
    if (loss := summary.get("validation_loss_nats_per_token")) is not None:
        meaning = f"How surprised the model is, on average, by each token {loss_of(summary)}."
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


def _cost(summary: Row) -> list[tuple[str, str]]:
    parts = []
    if summary.get("step") is not None:
        parts.append(("trained", counted(summary["step"], "step")))
    if summary.get("epoch") is not None:
        parts.append(("passes over the text", f"{summary['epoch']:.1f}"))
    if summary.get("train_seconds") is not None:
        parts.append(("training alone", format_duration(summary["train_seconds"])))
    if summary.get("tokens_per_second") is not None:
        parts.append(("tokens a second", format_count(summary["tokens_per_second"])))
    if summary.get("gpu_hours"):
        parts.append(("device-hours", f"{summary['gpu_hours']:.3g}"))
    if summary.get("price_usd"):
        parts.append(("price", f"{summary['price_usd']:,.2f} USD"))
    return parts


def _bars(summary: Row) -> list[tuple[str, str, str, bool]]:
    """The n-gram baselines in order of n, and the model's loss below them: name, number, share of the longest bar."""
    loss = summary.get("validation_loss_nats_per_token")
    if loss is None or not summary.get("baselines"):
        return []
    rows = [(NGRAMS.get(name, name), numbers["loss_nats_per_token"]) for name, numbers in summary["baselines"].items()]
    rows.sort(key=lambda row: _order(row[0]))
    most = max(value for _, value in [*rows, ("", loss)])
    return [
        (name, f"{value:.3f}", f"{value / most:.3f}", name == "this model")
        for name, value in [*rows, ("this model", loss)]
    ]


def _order(name: str) -> tuple[int, str]:
    """
    >>> sorted(["5-gram", "bigram", "uniform guessing", "trigram", "4-gram", "unigram (token frequencies)"], key=_order)
    ['uniform guessing', 'unigram (token frequencies)', 'bigram', 'trigram', '4-gram', '5-gram']
    """
    words = ("uniform", "unigram", "bigram", "trigram")
    first = re.match(r"\d+|\w+", name)
    start = first[0] if first else ""
    return (int(start) if start.isdigit() else words.index(start) if start in words else 99), name


def inline_svg(svg: str, label: str = "Training and validation loss against training tokens") -> str:
    """Matplotlib's SVG as a part of a page: without prolog, namespaces, size and style sheet, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    head, rest = svg[: svg.index(">")], svg[svg.index(">") :]
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head) + rest
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.strip().replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _samples(samples: Sequence[Row], losses: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
    """The samples of each prompt, some of them, with what the model's loss was by then."""
    prompts: dict[str, dict[int, Row]] = {}
    for sample in samples:
        prompts.setdefault(str(sample.get("prompt") or ""), {})[sample["step"]] = sample
    shown = []
    for prompt, by_step in prompts.items():
        entries = []
        for step in _evenly(sorted(by_step), _SAMPLES_SHOWN):
            sample, known = by_step[step], [loss for at, loss in losses if at <= step]
            facts = [f"{format_count(sample['tokens'])} training tokens"] if sample.get("tokens") is not None else []
            facts += [f"probe loss {known[-1]:.2f}"] if known else []
            entries.append({"when": f"{step:,}", "facts": facts, "text": _cut(sample["text"])})
        more = f"{len(by_step) - len(entries):,}" if len(by_step) > len(entries) else ""
        shown.append({"text": prompt, "more": more, "samples": entries})
    return shown


def _cut(text: object) -> str:
    written = str(text)
    return f"{written[:_SAMPLE_CHARACTERS]}…" if len(written) > _SAMPLE_CHARACTERS else written


def _evenly(steps: list[int], most: int) -> list[int]:
    """The first, the last and evenly spaced ones between, `most` in all.

    >>> _evenly([0, 1, 2, 3, 4, 5, 6, 7, 8], 3)
    [0, 4, 8]
    """
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _evaluated(rows: Rows) -> list[list[str]]:
    return [
        [
            f"{point.step:,}", f"{point.tokens:,}", f"{point.validation_loss:.4f}",
            perplexity_text(point.validation_loss), "–" if point.train_loss is None else f"{point.train_loss:.4f}",
            "–" if point.gap is None else f"{point.gap:+.3f}", "–" if point.copied is None else f"{point.copied:.1%}",
        ]
        for point in evaluations(rows)
    ]  # fmt: skip


def _pairs(facts: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Names and values; a mapping inside a mapping is one line."""
    pairs = []
    for name, value in (facts or {}).items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items() if inner is not None)
        if value is not None:
            text = format_bytes(value) if name.endswith("_bytes") else str(value)
            pairs.append((str(name).removesuffix("_bytes").replace("_", " "), text))
    return pairs


def evaluation_page(report: Report, title: str, links: Links) -> str:
    """The page of an evaluation: its numbers, the hardest documents, the loss by position."""
    numbers = report.to_dict()
    figures = [
        (known.title, value, known.unit_in_words, interval, known.sentence)
        for known, value, interval in printed(numbers)
    ]
    tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = []
    if len(report.documents) > 1:
        rows = sorted(report.documents, key=lambda row: -row.bits_per_byte)
        cells = [
            (row.name, f"{row.bits_per_byte:.4f}", f"{row.nats / max(1, row.num_tokens):.4f}", f"{row.num_tokens:,}")
            for row in rows[:_DOCUMENTS_SHOWN]
        ]
        heading = "Documents, the most surprising first"
        heading += f" ({len(rows) - len(cells):,} more in evaluation.json)" if len(rows) > len(cells) else ""
        tables.append((heading, ("document", "bits per byte", "loss", "tokens"), collapsed(cells)))
    positions = [
        ("{:,} to {:,}".format(*row["context_tokens"]), f"{row['loss_nats_per_token']:.4f}", f"{row['num_tokens']:,}")
        for row in report.extra.get("by_position", [])
        if row["loss_nats_per_token"] is not None
    ]
    if positions:
        tables.append(("Loss by tokens of context", ("tokens before", "loss", "tokens"), collapsed(positions)))
    notes = [f"Warning: {warning}." for warning in (lost_warning(report.extra), leak_warning(report.extra)) if warning]
    notes += [f"Intervals: {report.interval_method}."] if report.interval_method else []
    return page(
        "evaluation.html", title=f"Evaluation: {title}", eyebrow="evaluation", links=links, figures=figures,
        facts=[report.text, f"{report.num_tokens:,} tokens", f"{report.num_bytes:,} bytes",
               counted(len(report.documents), "document")],
        conventions="; ".join(f"{name} {text}" for name, text in report.conventions.items()) + ".",
        notes=notes, tables=tables,
    )  # fmt: skip
