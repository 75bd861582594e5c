"""A text token by token on a page: colour is surprise, a tooltip holds the numbers, a table the six steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.metrics import metric
from hornbook.facts.text_warnings import lost_warning
from hornbook.facts.units import counted, hesitation, perplexity_text, probability_text, signed
from hornbook.reporting.html import page, visible
from hornbook.reporting.weights import COLUMNS, weight_rows, weights_in_words

Row = Mapping[str, Any]

_ROWS_SHOWN = 32  # tokens in a six-steps table; the averages below it are over all


def inspection_page(views: Sequence[Row], links: Sequence[tuple[str, str]] = ()) -> str:
    """The page of what `inspect` saw with one model or with two, as `--json` has it; HTML text."""
    names, first = view_names(views), views[0]
    facts = [f"{first['num_parameters']:,} parameters", f"a vocabulary of {first['vocabulary']:,} tokens"]
    values: dict[str, Any] = {"weights": [], "details": []}
    for view, name in zip(views, names, strict=True):
        if "tokens" not in view:
            values["weights"].append((name, weights_in_words(view), COLUMNS, weight_rows(view)))
            continue
        parts = {"greedy": _greedy(view), "gradients": _gradients(view)}
        values["details"].append(parts | {"of_model": f": {name}" if len(views) > 1 else ""})
    if "tokens" in first:
        shown = [(name, view["tokens"]) for view, name in zip(views, names, strict=True)]
        values |= {"figures": _figures(first) if len(views) == 1 else [], "difference": _difference(views),
                   "six": six_steps(shown, scale_of(views))}  # fmt: skip
    conventions = "; ".join(f"{key} {text}" for key, text in first.get("conventions", {}).items())
    return page(
        "inspection.html", title=" against ".join(names), eyebrow="a language model, inspected", facts=facts,
        links=links, conventions=f"Scored with {conventions}." if conventions else "", **values,
    )  # fmt: skip


def view_names(views: Sequence[Row]) -> list[str]:
    """What to call each view: the model, and the step where it has one."""
    return [view["model"] + ("" if view["step"] is None else f" at step {view['step']:,}") for view in views]


def scale_of(views: Sequence[Row]) -> int:
    """The vocabulary whose uniform guess is full heat."""
    return max(int(view["vocabulary"]) for view in views)


def six_steps(shown: Sequence[tuple[str, Sequence[Row] | None]], vocabulary: int | None) -> dict[str, Any]:
    """The same text by one or two models, for the template: what the six steps are, a heat map and a table of each.

    Full heat is the surprise of a guess among the whole `vocabulary`, or the greatest there is where that is unknown.
    """
    cards = [(name, items) for name, items in shown if items]
    names = ("logit", "probability", "log_probability", None, "loss_nats_per_token", "perplexity")
    titles = ("Logit", "Softmax probability", "Log-probability", "Average", "Cross-entropy", "Perplexity")
    average = "Sum of the log-probabilities divided by the number of tokens."
    steps = [(title, metric(name).sentence if name else average) for title, name in zip(titles, names, strict=True)]
    worst = max([item["nats"] for _, items in cards for item in items if item["nats"] is not None], default=1.0)
    scale = math.log(vocabulary) if vocabulary else worst
    limit = f"{scale:.1f} nats{', uniform guessing' if vocabulary else ''}"
    return {"cards": [_card(*card) for card in cards], "steps": steps, "scale": scale, "limit": limit}


# Parts.


def _card(name: str, items: Sequence[Row]) -> dict[str, Any]:
    scored = [item for item in items if item["nats"] is not None]
    sums: list[tuple[int, str, str]] = []
    if scored:
        average = math.fsum(item["log_probability"] for item in scored) / len(scored)
        sums = [
            (4, f"average over {len(scored):,} tokens", signed(average)),
            (5, "negative average: cross-entropy", signed(-average)),
            (6, f"exp({-average:.3f}): perplexity", perplexity_text(-average)),
        ]
    rows = [({**item, "text": visible(item["text"])}, _numbers(item)) for item in items[:_ROWS_SHOWN]]
    more = f"{len(items) - _ROWS_SHOWN:,}" if len(items) > _ROWS_SHOWN else ""
    return {"name": name, "tokens": items, "rows": rows, "more": more, "sums": sums}


def _numbers(item: Row) -> list[str]:
    if item["nats"] is None:
        return list("––––")
    probability = probability_text(item["probability"])
    return [signed(item["logit"], 2), probability, signed(item["log_probability"], 2), f"{item['rank']:,g}"]


def _figures(view: Row) -> list[tuple[str, ...]]:
    loss, entropy, lost = view["loss_nats_per_token"], view["mean_entropy_nats"], lost_warning(view)
    gap = loss - entropy
    verdict = "overconfident" if gap > 0.02 else "underconfident" if gap < -0.02 else "calibrated"
    worse = hesitation(loss, view.get("vocabulary"))
    return [
        ("Loss", f"{loss:.3f}", "nats per token", "", "How surprised the model was, on average."),
        ("Expected", f"{entropy:.3f}", "nats per token", "",
         f"How surprised it expected to be (its entropy): {verdict} on this text."),
        ("Perplexity", perplexity_text(loss), "tokens", "",
         "Like choosing among this many equally likely tokens." if worse is None else f"{worse.capitalize()}."),
        ("Bits per byte", f"{view['bits_per_byte']:.3f}", "", "",
         "Comparable between models with different tokenizers." if lost is None else f"Not comparable: {lost}."),
    ]  # fmt: skip


def _difference(views: Sequence[Row]) -> dict[str, Any] | None:
    """Token by token, which of two models was less surprised; only their sums where their tokens differ."""
    if len(views) < 2:
        return None
    a, b = (view["tokens"] for view in views)
    tokens: list[tuple[str, str, str, str]] = []
    if [token["id"] for token in a] == [token["id"] for token in b]:
        for one, other in zip(a, b, strict=True):
            change = 0.0 if one["nats"] is None or other["nats"] is None else other["nats"] - one["nats"]
            tip = f"{change:+.3f} nats, rank {one['rank']:,g} to {other['rank']:,g}" if change else "no difference"
            text, heat = str(one["text"]).replace("\n", "↵\n"), f"{min(1.0, abs(change) / 4):.3f}"
            tokens.append((text, "better" if change < 0 else "worse", heat, tip))
    return {"words": difference_in_words(views), "tokens": tokens}


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


def _greedy(view: Row) -> dict[str, Any] | None:
    greedy = view["greedy"]
    if greedy is None:
        return None
    tokens, start = [token["text"] for token in view["tokens"]], greedy["prompt_tokens"]
    texts = [("the text", "".join(tokens[start:])), ("the model", greedy["text"])]
    return {"words": greedy_in_words(greedy), "given": "".join(tokens[:start]), "texts": texts}


def _gradients(view: Row) -> dict[str, Any] | None:
    gradients = view["gradients"]
    if gradients is None:
        return None
    update = "update_norm" in gradients["parts"][0]
    titles = ["part", "gradient norm", "weight norm", *(["update norm", "update / weight"] if update else [])]
    rows = []
    for row in gradients["parts"]:
        numbers = [row["gradient_norm"], row["weight_norm"]]
        if update:
            numbers += [row["update_norm"], row["update_norm"] / row["weight_norm"] if row["weight_norm"] else math.nan]
        rows.append([row["part"], *(f"{number:.3g}" for number in numbers)])
    words = "How the loss of this text changes with each part of the model; with a token's own logit: (p − 1) / N."
    words += " Update: one step of the run's own optimizer on this text alone." if update else ""
    return {"words": words, "titles": titles, "rows": rows}
