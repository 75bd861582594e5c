"""What `inspect` saw, on a terminal: the text in colours of surprise, then the six steps token by token."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from hornbook.facts.printing import console, on_one_line, printable
from hornbook.facts.text_warnings import lost_warning
from hornbook.facts.units import perplexity_text, probability_text, signed
from hornbook.reporting.heatmap import difference_in_words, greedy_in_words, scale_of, view_names
from hornbook.reporting.html import visible
from hornbook.reporting.weights import COLUMNS, weight_rows, weights_in_words

Row = Mapping[str, Any]

ROWS = 100  # tokens in a table; of a longer text, the most surprising ones


def print_inspection(views: Sequence[Row], lists_alternatives: bool = False) -> None:
    """Print one view, or two side by side. Colour only where the terminal has it; bars say the same without. The most
    probable tokens are listed where the terminal is wide, or asked for."""
    screen = console()
    scale = math.log(scale_of(views))
    for view, name in zip(views, view_names(views), strict=True):
        screen.print(Text(printable(name), style="bold"))
        if "weights" in view:
            screen.print(weights_in_words(view))
            screen.print(_weights(view, wide=screen.width >= 130))
            continue
        if screen.color_system is not None and not screen.no_color:
            screen.print(_heat_line(view["tokens"], scale))
        screen.print()
    if "weights" in views[0]:
        return
    tokens = [view["tokens"] for view in views]
    alike = len({tuple(token["id"] for token in view_tokens) for view_tokens in tokens}) == 1
    if max(map(len, tokens)) > ROWS:
        screen.print(f"the {ROWS} most surprising tokens of {max(map(len, tokens)):,}:")
    if len(views) == 2 and alike:
        screen.print(_two(tokens[0], tokens[1], scale))
        screen.print()
    for view in views:
        if len(views) == 1 or not alike:
            screen.print(_six(view["tokens"], scale, wide=screen.width >= 110 and not lists_alternatives))
            screen.print()
        if lists_alternatives:
            screen.print(_alternatives(view["tokens"]))
            screen.print()
        if "softmax" in view:
            screen.print(_shifted(view["tokens"], view["softmax"]["token"]))
            screen.print(_softmax(view["softmax"], view["vocabulary"]))
            screen.print()
        screen.print(_sums(view))
    if len(views) == 2:
        screen.print(difference_in_words(views))


def _visible(text: object) -> str:
    """White space and control characters as signs, so that nothing moves the cursor."""
    return re.sub(r"[\u202a-\u202e\u2066-\u2069]", "�", on_one_line(visible(text).replace("\n", "↵")))


def _heat_line(tokens: Sequence[Row], scale: float) -> Any:
    line = Text()
    for token in tokens:
        text = "".join(part if part == "\n" else _visible(part) for part in re.split(r"(\n)", str(token["text"])))
        shown = re.sub("^␣+|␣+$", lambda signs: " " * len(signs[0]), text)
        line.append(shown, _style(token["nats"], scale))
    return line


def _style(nats: float | None, scale: float) -> str:
    """From nothing over grey to orange and red: more colour is more surprise, on a light and on a dark terminal."""
    if nats is None:
        return "dim"
    heat = min(1.0, nats / scale)
    if heat < 0.06:
        return ""
    cold, warm, hot = (150, 143, 130), (240, 160, 40), (255, 95, 60)
    ends, share = ((cold, warm), heat * 2) if heat < 0.5 else ((warm, hot), heat * 2 - 1)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(*ends, strict=True))
    return f"#141414 on #{red:02x}{green:02x}{blue:02x}"


def _bar(value: float, scale: float, width: int = 8) -> str:
    eighths = round(min(1.0, max(0.0, value / scale)) * width * 8)
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])


def _table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[Any]], show_header: bool = True) -> Any:
    """`columns`: (title, whether its texts begin at the left)."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_header=show_header)
    for title, left in columns:
        table.add_column(title, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*row)
    return table


def _weights(view: Row, *, wide: bool) -> Any:
    kept = [i for i, name in enumerate(COLUMNS) if wide or name in ("weight", "shape", "norm", "spread", "histogram")]
    rows = [tuple(row[i] for i in kept) for row in weight_rows(view)]
    return _table([(COLUMNS[i], COLUMNS[i] in ("weight", "shape", "histogram")) for i in kept], rows)


def _chosen(tokens: Sequence[Row]) -> list[int]:
    """Which tokens the table shows, in order: the most surprising ROWS."""
    return sorted(sorted(range(len(tokens)), key=lambda i: -(tokens[i]["nats"] or 0.0))[:ROWS])


def _token(token: Row, scale: float) -> Any:
    return Text(_visible(token["text"]), _style(token["nats"], scale))


def _six(tokens: Sequence[Row], scale: float, *, wide: bool) -> Any:
    columns = [("token", True), ("① logit", False), ("② p", False), ("③ ln p", False), ("surprise", True),
               ("rank", False), ("expected", False), ("surplus", False)]  # fmt: skip
    columns += [("most probable", True)] if wide else []
    rows = []
    for token in (tokens[i] for i in _chosen(tokens)):
        if token["nats"] is None:
            rows.append([_token(token, scale), *["–"] * (len(columns) - 1)])
            continue
        row = [
            _token(token, scale), signed(token["logit"], 2), probability_text(token["probability"]),
            signed(token["log_probability"]), _bar(token["nats"], scale), f"{token['rank']:,g}",
            signed(token["entropy_nats"], 2), signed(token["surplus_nats"], 2),
        ]  # fmt: skip
        best = "  ".join(f"{_visible(o['text'])} {o['probability']:.2f}" for o in token["alternatives"][:4])
        rows.append([*row, *([Text(best, "dim")] if wide else [])])
    return _table(columns, rows)


def _alternatives(tokens: Sequence[Row]) -> Any:
    """The most probable tokens at each place, as many as there are, in as many lines as they need."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("token", no_wrap=True)
    table.add_column("most probable")
    for token in (tokens[i] for i in _chosen(tokens) if tokens[i]["nats"] is not None):
        best = [
            f"{_visible(other['text'])} {probability_text(other['probability'])}" for other in token["alternatives"]
        ]
        table.add_row(Text(_visible(token["text"])), Text("   ".join(best)))
    return table


def _shifted(tokens: Sequence[Row], number: int, shown: int = 6) -> Any:
    """The last inputs up to where token `number` is predicted, and below each its target: the same text, one later."""
    texts = [Text(_visible(token["text"])) for token in tokens]
    if tokens[0]["nats"] is not None:
        texts.insert(0, Text("<start>", "dim"))
    end = len(texts) - len(tokens) + number
    first = max(0, end - 1 - shown)
    rows = [["input", *texts[first : end - 1]], ["target", *texts[first + 1 : end]]]
    return _table([("", True)] * (end - first), rows, show_header=False)


def _softmax(softmax: Row, vocabulary: int) -> Any:
    """The row of a softmax: logit, e^logit, and its share of the sum, p."""

    def row(name: Any, entry: Row) -> list[Any]:
        logit, power = entry.get("logit"), entry["exp_logit"]
        return [name, "" if logit is None else signed(logit, 3), "beyond 1e300" if power is None else f"{power:,.4g}",
                probability_text(entry["probability"])]  # fmt: skip

    rows = [row(Text(_visible(entry["text"]) + (" ← target" if entry["is_target"] else "")), entry)
            for entry in softmax["rows"]]  # fmt: skip
    rows.append(row(f"{softmax['others']['num_tokens']:,} others", softmax["others"]))
    rows.append(row("sum", softmax["sum"]))
    title = f"softmax over {vocabulary:,} tokens"
    return _table([(title, True), ("logit", False), ("e^logit", False), ("p", False)], rows)


def _two(a: Sequence[Row], b: Sequence[Row], scale: float) -> Any:
    columns = [("token", True), ("first: nats", False), ("rank", False), ("", True),
               ("second: nats", False), ("rank", False), ("", True), ("change", False)]  # fmt: skip
    rows = []
    for one, other in ((a[i], b[i]) for i in _chosen(b)):
        row: list[Any] = [_token(other, scale)]
        for token in (one, other):
            known = token["nats"] is not None
            row += (
                [signed(token["nats"], 2), f"{token['rank']:,g}", _bar(token["nats"], scale, 6)] if known else ["–"] * 3
            )
        rows.append([*row, f"{other['nats'] - one['nats']:+.2f}" if one["nats"] is not None else "–"])
    return _table(columns, rows)


def _sums(view: Row) -> str:
    """The last three of the six steps, and what else is known of the whole text."""
    loss, count = view["loss_nats_per_token"], view["num_tokens"]
    gap = loss - view["mean_entropy_nats"]
    lines = [
        f"④ average of ln p over {count:,} tokens   {signed(-loss, 4)}",
        f"⑤ its negative: cross-entropy (loss)   {loss:.4f} nats per token",
        f"⑥ exp({loss:.4f}): perplexity   {perplexity_text(loss)}",
        f"  {view['bits_per_byte']:.4f} bits per byte; it expected {view['mean_entropy_nats']:.4f} nats per token"
        + (f", {abs(gap):.4f} {'too few' if gap > 0 else 'too many'}" if abs(gap) >= 5e-5 else ""),
    ]
    if (warning := lost_warning(view)) is not None:
        lines.append(f"  warning: {warning}")
    if view["greedy"] is not None:
        lines.append(f"  {greedy_in_words(view['greedy'])}")
    if view["gradients"] is not None:
        lines.append("gradient of the loss, by part:")
        for row in view["gradients"]["parts"]:
            update = f", update {row['update_norm']:.3g}" if "update_norm" in row else ""
            lines.append(
                f"  {row['part']:<12} gradient {row['gradient_norm']:.3g}, weights {row['weight_norm']:.3g}{update}"
            )
    return "\n".join(lines)
