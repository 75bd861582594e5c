"""A text token by token on a page: colour is surprise, a tooltip holds the numbers, a table the six steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.metrics import metric
from hornbook.facts.text_warnings import lost_warning
from hornbook.facts.units import counted, hesitation, perplexity_text, probability_text, signed
from hornbook.reporting.html import escape, figures, header, page, section, table
from hornbook.reporting.weights import weights_section

Row = Mapping[str, Any]

_ROWS_SHOWN = 32  # tokens in a six-steps table; the averages below it are over all


def inspection_page(views: Sequence[Row]) -> str:
    """The page of what `inspect` saw with one model or with two, as `--json` has it; HTML text."""
    names = view_names(views)
    first = views[0]
    facts = [f"{first['num_parameters']:,} parameters", f"a vocabulary of {first['vocabulary']:,} tokens"]
    title = escape(" against ".join(names))
    if "tokens" not in first:
        sections = [weights_section(view, name) for view, name in zip(views, names, strict=True)]
    else:
        shown = [(name, view["tokens"]) for view, name in zip(views, names, strict=True)]
        sections = [_figures(first) if len(views) == 1 else "", _difference(views), six_steps(shown, scale_of(views))]
        for view, name in zip(views, names, strict=True):
            of_model = f": {escape(name)}" if len(views) > 1 else ""
            sections += [_greedy(view, of_model), _gradients(view, of_model)]
    conventions = "; ".join(f"{escape(key)} {escape(text)}" for key, text in first.get("conventions", {}).items())
    footer = f"<footer>Written by Hornbook. {f'Scored with {conventions}.' if conventions else ''}</footer>"
    return page(" against ".join(names), [header("a language model, inspected", title, *facts), *sections, footer])


def view_names(views: Sequence[Row]) -> list[str]:
    """What to call each view: the model, and the step where it has one."""
    return [view["model"] + ("" if view["step"] is None else f" at step {view['step']:,}") for view in views]


def scale_of(views: Sequence[Row]) -> int:
    """The vocabulary whose uniform guess is full heat."""
    return max(int(view["vocabulary"]) for view in views)


def six_steps(shown: Sequence[tuple[str, Sequence[Row] | None]], vocabulary: int | None) -> str:
    """The same text by one or two models: what the six steps are, a heat map of each, a table of each.

    Full heat is the surprise of a guess among the whole `vocabulary`, or the greatest there is where that is unknown.
    """
    cards = [(name, items) for name, items in shown if items]
    if not cards:
        return ""
    names = ("logit", "probability", "log_probability", None, "loss_nats_per_token", "perplexity")
    titles = ("Logit", "Softmax probability", "Log-probability", "Average", "Cross-entropy", "Perplexity")
    average = "Sum of the log-probabilities divided by the number of tokens."
    steps = "".join(
        f"<li>{_badge(number)}<span><b>{title}.</b> {escape(metric(name).sentence if name else average)}</span></li>\n"
        for number, (title, name) in enumerate(zip(titles, names, strict=True), 1)
    )
    worst = max([item["nats"] for _, items in cards for item in items if item["nats"] is not None], default=1.0)
    scale = math.log(vocabulary) if vocabulary else worst
    limit = f"{scale:.1f} nats{', uniform guessing' if vocabulary else ''}"
    legend = f'<p class="note scale"><span>0 nats, certain</span><i></i><span>{limit}</span></p>'
    body = "".join(_card(name, items, scale) for name, items in cards)
    intro = "One text, token by token. Colour shows surprise; point at a token for its numbers."
    return section(
        "From logits to perplexity, in six steps",
        f'<p>{intro}</p>\n<ol class="steps">\n{steps}</ol>\n{legend}\n<div class="pair">\n{body}</div>',
    )


# Parts.


def _card(name: str, items: Sequence[Row], scale: float) -> str:
    scored = [item for item in items if item["nats"] is not None]
    strip = "".join(_token(item, scale, _tip(item)) + "\n" * ("\n" in str(item["text"])) for item in items)
    foot = ""
    if len(items) > _ROWS_SHOWN:
        foot = f'<tr><td colspan="5">and {len(items) - _ROWS_SHOWN:,} more tokens</td></tr>\n'
    if scored:
        average = math.fsum(item["log_probability"] for item in scored) / len(scored)
        foot += "".join(
            f'<tr><td colspan="3">{_badge(number)} {text}</td><td colspan="2">{value}</td></tr>\n'
            for number, text, value in (
                (4, f"average over {len(scored):,} tokens", signed(average)),
                (5, "negative average: cross-entropy", signed(-average)),
                (6, f"exp({-average:.3f}): perplexity", perplexity_text(-average)),
            )
        )
    titles = ("token", f"{_badge(1)} logit", f"{_badge(2)} probability", f"{_badge(3)} ln p", "rank")
    rows = (_token_row(item, scale) for item in items[:_ROWS_SHOWN])
    strip = f'<p class="tokens" dir="auto">{strip}</p>'
    return f"<div><h3>{escape(name)}</h3>\n{strip}\n{table(titles, rows, foot=foot, style='sums')}</div>\n"


def _token(item: Row, scale: float, tip: str = "") -> str:
    text = escape(str(item["text"]).replace("\n", "↵"))
    if item["nats"] is None:
        return f'<bdi class="token unscored" style="--n:0" title="not scored">{text}</bdi>'
    heat = min(1.0, item["nats"] / scale) if scale > 0 else 0.0
    return f'<bdi class="token" style="--n:{heat:.3f}"{" tabindex=-1" if tip else ""}>{text}{tip}</bdi>'


def _tip(item: Row) -> str:
    """Everything about a token, shown where it is pointed at or tapped; no script."""
    if item["nats"] is None:
        return ""
    facts = [("surprise", f"{item['nats']:.3f} nats")]
    if item.get("entropy_nats") is not None:
        facts.append(("expected", f"{item['entropy_nats']:.3f} nats"))
    facts += [("probability", probability_text(item["probability"])), ("rank", f"{item['rank']:,g}")]
    facts.append(("id", str(item["id"])))
    if item.get("own_logit_gradient") is not None:
        facts.append(("d loss / d logit", f"{item['own_logit_gradient']:+.2e}"))
    lines = "".join(f"<span>{name}</span><span>{escape(value)}</span>" for name, value in facts)
    others = "".join(
        f'<span dir="auto">{_visible(other["text"])}</span><span class="bar" style="--p:{other["probability"]:.3f}">'
        f"{probability_text(other['probability'])}</span>"
        for other in item.get("alternatives") or []
    )
    guesses = f'<span class="rule">most probable here</span>{others}' if others else ""
    return f'<span class="tip"><b dir="auto">{_visible(item["text"])}</b>{lines}{guesses}</span>'


def visible(text: object) -> str:
    """Blanks at the ends and tabs as signs."""
    return re.sub(r"^ +| +$", lambda spaces: "␣" * len(spaces[0]), str(text)).replace("\t", "⇥")


def _visible(text: object) -> str:
    return escape(visible(text).replace("\n", "↵"))


def _token_row(item: Row, scale: float) -> list[str]:
    token = _token({**item, "text": visible(item["text"])}, scale)
    if item["nats"] is None:
        return [token, *"––––"]
    probability = probability_text(item["probability"])
    return [token, signed(item["logit"], 2), probability, signed(item["log_probability"], 2), f"{item['rank']:,g}"]


def _badge(number: int) -> str:
    return f'<span class="step">{number}</span>'


def _figures(view: Row) -> str:
    loss, entropy, lost = view["loss_nats_per_token"], view["mean_entropy_nats"], lost_warning(view)
    gap = loss - entropy
    verdict = "overconfident" if gap > 0.02 else "underconfident" if gap < -0.02 else "calibrated"
    worse = hesitation(loss, view.get("vocabulary"))
    return figures((
        ("Loss", f"{loss:.3f}", "nats per token", "", "How surprised the model was, on average."),
        ("Expected", f"{entropy:.3f}", "nats per token", "",
         f"How surprised it expected to be (its entropy): {verdict} on this text."),
        ("Perplexity", perplexity_text(loss), "tokens", "",
         "Like choosing among this many equally likely tokens." if worse is None else f"{worse.capitalize()}."),
        ("Bits per byte", f"{view['bits_per_byte']:.3f}", "", "",
         "Comparable between models with different tokenizers." if lost is None else f"Not comparable: {lost}."),
    ))  # fmt: skip


def _difference(views: Sequence[Row]) -> str:
    """Token by token, which of two models was less surprised; only their sums where their tokens differ."""
    if len(views) < 2:
        return ""
    title, lede = "Which is less surprised", f'<p class="lede">{escape(difference_in_words(views))}</p>'
    a, b = (view["tokens"] for view in views)
    if [token["id"] for token in a] != [token["id"] for token in b]:
        return section(title, lede)
    tokens = ""
    for one, other in zip(a, b, strict=True):
        change = 0.0 if one["nats"] is None or other["nats"] is None else other["nats"] - one["nats"]
        side = "better" if change < 0 else "worse"
        tip = f"{change:+.3f} nats, rank {one['rank']:,g} to {other['rank']:,g}" if change else "no difference"
        text = escape(str(one["text"]).replace("\n", "↵\n"))
        tokens += f'<bdi class="token {side}" style="--n:{min(1.0, abs(change) / 4):.3f}" title="{tip}">{text}</bdi>'
    scale = '<p class="note scale"><span>4 nats less</span><i class="better"></i><i></i><span>4 nats more</span></p>'
    return section(title, lede, scale, f'<p class="tokens" dir="auto">{tokens}</p>')


def difference_in_words(views: Sequence[Row]) -> str:
    """One sentence on two models and this one text.

    >>> difference_in_words([{"bits_per_byte": 2.0, "num_bytes": 9}, {"bits_per_byte": 1.5, "num_bytes": 9}])
    'The second model is less surprised by this text, by 0.500 bits per byte: 1.500 against 2.000.'
    """
    a, b = (view["bits_per_byte"] for view in views)
    if views[0]["num_bytes"] != views[1]["num_bytes"]:
        return "The two did not score the same bytes: one of them cannot predict the first token."
    if a == b:
        return f"Both are equally surprised by this text: {a:.3f} bits per byte."
    better, by = ("second", f"{b:.3f} against {a:.3f}") if b < a else ("first", f"{a:.3f} against {b:.3f}")
    return f"The {better} model is less surprised by this text, by {abs(a - b):.3f} bits per byte: {by}."


def greedy_in_words(greedy: Row) -> str:
    """How far greedy continuation keeps to the text."""
    given = f"Greedy continuation from the first {counted(greedy['prompt_tokens'], 'token')}"
    rest, kept = greedy["num_tokens"], greedy["num_tokens_before_departure"]
    if greedy["departs_at_token"] is None:
        return f"{given} reproduces the rest of the text, all {counted(rest, 'token')} of it."
    start = f"reproduces the next {counted(kept, 'token')} of {rest:,}, then gives" if kept else "immediately gives"
    later = greedy["num_tokens_equal"] - kept
    after = f"; of what follows, {counted(later, 'token')} agree{'s' * (later == 1)} with the text" if later else ""
    return f"{given} {start} {greedy['wrote']!r} where the text has {greedy['instead_of']!r}{after}."


def _greedy(view: Row, title: str) -> str:
    greedy = view["greedy"]
    if greedy is None:
        return ""
    tokens, start = [token["text"] for token in view["tokens"]], greedy["prompt_tokens"]
    given = escape("".join(tokens[:start]))
    rows = "".join(
        f'<p class="tokens" dir="auto"><span class="given">{given}</span><b>{escape(text)}</b></p>'
        f'<p class="note">{name}</p>'
        for name, text in (("the text", "".join(tokens[start:])), ("the model", greedy["text"]))
    )
    return section(f"Greedy continuation{title}", f"<p>{escape(greedy_in_words(greedy))}</p>", rows)


def _gradients(view: Row, title: str) -> str:
    gradients = view["gradients"]
    if gradients is None:
        return ""
    update = "update_norm" in gradients["parts"][0]
    titles = ["part", "gradient norm", "weight norm", *(["update norm", "update / weight"] if update else [])]
    rows = []
    for row in gradients["parts"]:
        numbers = [row["gradient_norm"], row["weight_norm"]]
        if update:
            numbers += [row["update_norm"], row["update_norm"] / row["weight_norm"] if row["weight_norm"] else math.nan]
        rows.append([escape(row["part"]), *(f"{number:.3g}" for number in numbers)])
    lede = "How the loss of this text changes with each part of the model; with a token's own logit: (p − 1) / N."
    lede += " Update: one step of the run's own optimizer on this text alone." if update else ""
    return section(f"Gradients{title}", f"<p>{lede}</p>", table(titles, rows))
