"""Results on a terminal, on stdout: the summary of a run, a report, a data report, a list of runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hornbook.facts.metrics import interval_text, printed
from hornbook.facts.printing import console, on_one_line, print
from hornbook.facts.text_warnings import LEAKED, leak_warning, loss_of, lost_warning
from hornbook.facts.units import (
    counted,
    format_bytes,
    format_count,
    format_duration,
    format_number,
    format_usd,
    hesitation,
)
from hornbook.records.result import Report

FEW_WORDS = 1e9  # a perplexity per word beyond it is that of a script without spaces, which has hardly any words
FEW_TOKENS = 100  # so many have to be scored for their loss to be shown apart


def print_table(rows: Sequence[tuple[str, str, str]], title: str) -> None:
    """Name, value and note in three columns."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _surprise_rows(numbers: Mapping[str, Any], loss: str = "loss_nats_per_token") -> list[tuple[str, str, str]]:
    meaning = hesitation(numbers[loss], numbers.get("vocabulary")) or "equally likely tokens, in effect"
    across = "comparable across tokenizers" if lost_warning(numbers) is None else "not comparable across tokenizers"
    notes = {"perplexity": meaning, "bits_per_byte": across}
    return [
        (known.label, value, f"{notes.get(known.name, known.unit_in_words)}  {interval}".strip())
        for known, value, interval in printed(numbers)
    ]


def print_summary(summary: Mapping[str, Any]) -> None:
    """What a run came to, a sample, and where its report is."""
    rows: list[tuple[str, str, str]] = []
    if summary.get("validation_loss_nats_per_token") is not None:
        rows += _surprise_rows(summary, "validation_loss_nats_per_token")
    if summary.get("train_loss_nats_per_token") is not None:
        probe = summary.get("probe_validation_loss_nats_per_token")
        beside = "" if probe is None else f" ({probe:.4f} on windows {loss_of(summary)})"
        note = f"nats per token, on the probe's fixed windows{beside}"
        rows.append(("train loss", f"{summary['train_loss_nats_per_token']:.4f}", note))
    pace = f"{format_count(summary['tokens_per_second'])} tokens/s in {format_duration(summary['train_seconds'])}"
    rows += [
        ("steps", f"{summary['step']:,}", f"{format_count(summary['tokens'])} tokens, {summary['epoch']:.2f} epochs"),
        ("time", format_duration(summary["wall_seconds"]), f"the whole run; {pace} of training"),
    ]
    if summary.get("price_usd") is not None:
        rows.append(("price", format_usd(summary["price_usd"]), ""))
    if summary.get("energy_kwh") is not None:
        rows.append(("energy", f"{summary['energy_kwh']:.3g}", "kWh"))
    scored = summary.get("validation_loss_nats_per_token") is not None
    part = "the part outside the probe" if summary.get("outside_probe") else "all"
    print_table(rows, f"{summary['title']}: on {part} {loss_of(summary)}" if scored else summary["title"])
    _print_warnings(summary)
    if summary.get("interval_method"):
        print(f"intervals: {summary['interval_method']}")
    for sentence in summary["words"]:
        print(sentence)
    if summary.get("baselines"):
        print(baselines_in_words(summary["baselines"]))
    if summary.get("plan_score"):
        print(score_in_words(summary["plan_score"]))
    if summary.get("sample"):
        print(f"\nIt writes:\n{summary['sample'].strip()}\n")
    print(f"report: {summary['report']}")
    print(f'try:    hornbook generate {shlex.quote(summary["run"])} "..."')


def score_in_words(scored: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: planned and actual, and where that lies outside the planned range.

    >>> score_in_words({"wall_seconds": {"predicted": 100.0, "actual": 110.0, "factor": 1.1, "inside": True}})
    'planned vs actual: time 1 min 40 s vs 1 min 50 s'
    >>> score_in_words({"bits_per_byte": {"predicted": 1.92, "actual": 2.34, "factor": 1.22, "inside": False}})
    'planned vs actual: bits per byte 1.920 vs 2.340 (outside its range)'
    """
    forms: dict[str, tuple[str, Callable[[float], str]]] = {
        "wall_seconds": ("time", format_duration), "memory_bytes": ("memory", format_bytes),
        "energy_kwh": ("kWh", "{:.3g}".format), "price_usd": ("price", format_usd),
        "bits_per_byte": ("bits per byte", "{:.3f}".format),
    }  # fmt: skip
    compared = [
        f"{name} {form(scored[key]['predicted'])} vs {form(scored[key]['actual'])}"
        + (" (outside its range)" if scored[key].get("inside") is False else "")
        for key, (name, form) in forms.items()
        if key in scored and scored[key]["predicted"] is not None
    ]
    return f"planned vs actual: {', '.join(compared)}"


def print_report(report: Report) -> None:
    """Loss, perplexity and bits per byte with their intervals and conventions; the documents apart."""
    numbers = report.to_dict()
    rows = _surprise_rows(numbers)
    documents = counted(len(report.documents), "document")
    rows.append(("scored", f"{report.num_tokens:,}", f"tokens, {report.num_bytes:,} bytes, {documents}"))
    if report.perplexity_per_word is not None and report.perplexity_per_word < FEW_WORDS:
        note = f"perplexity; {report.bits_per_character:.4f} bits per character"
        rows.append(("per word", format_number(report.perplexity_per_word), note))
    if report.end_nats_per_document is not None:
        rows.append(("end of document", f"{report.end_nats_per_document:.3f}", "nats each, not in the loss"))
    print_table(rows, f"{report.model} on {report.text}")
    if report.extra.get("weights"):
        print(report.extra["weights"])
    if report.extra.get("outside_probe"):
        print("scored: the validation text outside the probe, on which the weights were chosen")
    if report.extra.get("chosen_on_this_text"):
        print("the weights were chosen on this text: its loss is slightly optimistic")
    _print_trained_on(report.extra, "the model")
    if report.interval_method:
        print(f"intervals: {report.interval_method}")
    print_conventions(report.conventions)
    if report.extra.get("baselines"):
        print(baselines_in_words(report.extra["baselines"]))
    print_answers(report.extra)
    _by_position(report.extra.get("by_position", []))
    sources = [
        (name, f"{source['bits_per_byte']:.4f}", f"bits per byte, {counted(source['num_documents'], 'document')}")
        for name, source in report.extra.get("by_source", {}).items()
        if source["bits_per_byte"] is not None
    ]
    if sources:
        print_table(sources, "by source")
    if 1 < len(report.documents) <= 40 and not any(row.name.endswith("]") for row in report.documents):
        rows = [
            (row.name, f"{row.bits_per_byte:.4f}", f"bits per byte, loss {row.nats / max(1, row.num_tokens):.4f}")
            for row in sorted(report.documents, key=lambda row: -row.bits_per_byte)
        ]
        print_table(rows, "by document")


def _by_position(rows: Sequence[Mapping[str, Any]]) -> None:
    """The loss of tokens that could see so many before them: it falls as long as context helps."""
    lines = []
    for row in rows:
        low, high = row["context_tokens"]
        if row["num_tokens"] >= FEW_TOKENS:
            label = f"{low:,}" + (f" to {high:,}" if high > low else "")
            lines.append((label, f"{row['loss_nats_per_token']:.4f}", counted(row["num_tokens"], "token")))
    if len(lines) > 1:
        few = "" if len(lines) == len(rows) else f", where at least {FEW_TOKENS} were scored"
        print_table(lines, f"loss by tokens of context{few}")


def print_conventions(conventions: Mapping[str, str]) -> None:
    print("convention: " + "; ".join(f"{name} {value}" for name, value in conventions.items()))


def _print_warnings(numbers: Mapping[str, Any], of_model: str = "") -> None:
    for warning in filter(None, (leak_warning(numbers), lost_warning(numbers))):
        print(f"warning: {of_model}{warning}")


def _print_trained_on(result: Mapping[str, Any], model: str) -> None:
    """A word where the text is, or may be, what the model was trained on, where a validation text leaked, and where the
    tokenizer loses some of it."""
    _print_warnings(result, f"{model}: ")
    share = result.get("trained_on_share", 0.0)
    if share is None:
        print(f"whether {model} was trained on this text is unknown: its prepared training text is no longer here")
    elif share >= LEAKED:
        print(
            f"warning: {share:.0%} of the bytes of this text are in text that {model} was trained on: this does not "
            "measure how it does on new text"
        )


def baselines_in_words(baselines: Mapping[str, Any]) -> str:
    """What n-gram baselines get on the same tokens, one sentence.

    >>> baselines_in_words({"uniform": {"loss_nats_per_token": 5.545}, "unigram": {"loss_nats_per_token": 3.1}})
    'n-gram baselines: uniform 5.545, unigram 3.100 nats per token'
    """
    losses = (f"{name} {numbers['loss_nats_per_token']:.3f}" for name, numbers in baselines.items())
    return f"n-gram baselines: {', '.join(losses)} nats per token"


def print_answers(result: Mapping[str, Any]) -> None:
    """What `evaluate` was asked besides: another program's numbers, tasks, calibration."""
    if "like" in result:
        names = (
            "loss_nats_per_token", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "num_tokens",
        )  # fmt: skip
        rows = [(name.replace("_", " "), f"{result[name]:,.6g}", "") for name in names if name in result]
        print_table(rows, f"{result['model']} on {result['text']}, as {result['like']} counts")
        _print_trained_on(result, "the model")
        print_conventions(result["conventions"])
    for task, numbers in result.get("tasks", {}).items():
        rows = [
            (name.replace("_", " "), f"{value:.4f}", interval_text(numbers, name, "{:.3f}".format))
            for name, value in numbers.items()
            if isinstance(value, float)
        ]
        print_table(rows, f"{task}: {counted(numbers['num_questions'], 'question')}")
        for question in numbers["refused"]:
            print(f"warning: question {question['question']:,} is left out: {question['reason']}")
    if result.get("tasks"):
        print("Each interval is for one number alone: about one in twenty misses.")
    if "calibration" in result:
        numbers = result["calibration"]
        rows = [
            ("entropy gap", f"{numbers['entropy_gap_nats']:+.4f}", "nats; above 0 the model is overconfident"),
            ("calibration error", f"{numbers['expected_calibration_error']:.4f}", "of its most probable token"),
            ("mean reciprocal rank", f"{numbers['mean_reciprocal_rank']:.4f}", ""),
            *((f"top-{k} accuracy", f"{share:.1%}", "") for k, share in numbers["top_accuracy"].items() if k != "1"),
        ]
        for name, value in numbers["samples"].items():
            if isinstance(value, float):
                human = numbers["samples_of_the_text"][name]
                rows.append((f"samples: {name.replace('_', ' ')}", f"{value:.4f}", f"of the text: {human:.4f}"))
        print_table(rows, "calibration metrics")


def print_comparison(result: Mapping[str, Any]) -> None:
    """The verdict, what it rests on, and in what the two differ."""
    rows = [(side.upper(), f"{result[side]['bits_per_byte']:.4f}", result[side]["model"]) for side in ("a", "b")]
    print_difference(result, rows)
    for side in ("a", "b"):
        _print_trained_on(result[side], side.upper())
        if result[side].get("chosen_on_this_text"):
            print(f"the weights of {side.upper()} were chosen on windows of this text: its loss is slightly optimistic")
    for name in result["differing_conventions"]:
        print(f"differing convention: {name}: {result['a']['conventions'][name]} / {result['b']['conventions'][name]}")
    if result["differing_settings"]:
        print_table([(name, str(a), str(b)) for name, (a, b) in result["differing_settings"].items()], "settings: A, B")


def print_difference(result: Mapping[str, Any], sides: Sequence[tuple[str, str, str]]) -> None:
    """A row of each side, that of B − A, the verdict, and what its interval is about."""
    interval = interval_text(result, "difference_bits_per_byte", "{:+.4f}".format)
    between = ("B − A", f"{result['difference_bits_per_byte']:+.4f}", f"bits per byte  {interval}".rstrip())
    print_table([*sides, between], f"bits per byte of {result['text']}")
    print(result["verdict"])
    if interval:
        print(f"The interval is about {result['interval_about']}.")


FOLLOWING = (  # settings that are chosen to fit others, where nobody gives them
    "schedule.warmup_steps", "watch.evaluate_every", "watch.sample_every", "checkpoint.every", "train.microbatch",
    "train.threads",
)  # fmt: skip
MOST_VALUES = 4  # of a setting, and runs of a value, that are told


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """One line a run below a header: of the whole validation text where it was scored, else (marked) of the probe's
    windows. Settings that are not the same in all of them follow."""
    if not runs:
        print("no runs here")
        return
    names = [str(run["run"]) for run in runs]
    rows = []
    for run, name in zip(runs, names, strict=True):
        whole = run.get("bits_per_byte") is not None
        bits = run.get("bits_per_byte" if whole else "probe_validation_bits_per_byte")
        loss, mark = run.get(f"{'' if whole else 'probe_'}validation_loss_nats_per_token"), "" if whole else "*"
        size, tokens = (run.get(key) for key in ("num_parameters", "tokens"))
        done = run["state"] == "length reached"
        rows.append((
            name, run.get("date", "")[:10], "-" if size is None else format_count(size),
            "-" if tokens is None else format_count(tokens), "-" if loss is None else f"{loss:.4f}{mark}",
            "-" if bits is None else f"{bits:.4f}{mark}",
            "done" if done else f"{run['state']}, step {run.get('step', 0):,}",
        ))  # fmt: skip
    _print_columns(("run", "date", "size", "tokens", "loss", "bits/byte", "state"), rows, right=range(2, 6))
    if any(run.get("bits_per_byte") is None for run in runs):
        print("* on the probe's windows, not on all of the validation text")
    known = [run.get("settings", {}) for run in runs]
    differing = []
    for key in dict.fromkeys(key for settings in known for key in settings if key not in FOLLOWING):
        having: dict[str, list[str]] = {}
        for settings, name in zip(known, names, strict=True):
            having.setdefault(_setting(settings.get(key)), []).append(name)
        if len(having) > MOST_VALUES:
            differing.append((key, f"{len(having)} values, in --json"))
        elif len(having) > 1:
            named = {
                value: ", ".join(who) if len(who) <= MOST_VALUES else f"{len(who)} runs"
                for value, who in having.items()
            }
            differing.append((key, "; ".join(f"{value}: {who}" for value, who in named.items())))
    if differing:
        print()
        _print_columns(("setting that differs", "value: runs"), differing)


def _print_columns(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A table with a header, in which nothing is cut: texts go on in the next line."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    widest = max(range(len(titles)), key=lambda column: max(len(row[column]) for row in rows))
    for number, title in enumerate(titles):  # the widest gives way
        table.add_column(
            title, justify="right" if number in right else "left", no_wrap=number != widest, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(on_one_line, row))
    console().print(table)


def _setting(value: Any) -> str:
    """
    >>> _setting(0.0012345678), _setting(["a.txt"]), _setting(None)
    ('0.001235', 'a.txt', 'automatic')
    """
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "automatic" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def print_memorization(result: Mapping[str, Any]) -> None:
    """The verdict, the measures that it rests on, each with its control or interval, and what is known best."""
    print(result["verdict"])
    conventions = result["conventions"]
    notes = {"generalization_gap_bits_per_byte": "",
             "excess_gap_bits_per_byte": f"bits per byte; {conventions['reference']} that read neither text",
             "membership_auc": "of pairs; 0.5 is chance"}  # fmt: skip
    rows = [
        ("continued word for word", f"{result['extraction_rate']:.1%}",
         f"of training passages; {result['control_extraction_rate']:.1%} of held-out ones"),
        ("copied in its samples", f"{result['copied_share']:.1%}",
         f"in {conventions['samples']} samples of {conventions['sample_tokens']} tokens, in spans from "
         f"{result['copied_span_threshold_tokens']:.0f}; {result['control_copied_share']:.1%} of held-out text"),
        ("loss on the training text", f"{result['train_loss_nats_per_token']:.3f}",
         f"nats per token in windows of {conventions['window_tokens']}, without context before them; "
         f"{result['heldout_loss_nats_per_token']:.3f} on held-out text, "
         f"{result['bigram_heldout_loss_nats_per_token']:.3f} for a bigram model there"),
        *((known.label, value, f"{notes[known.name]}  {interval}".strip())
          for known, value, interval in printed(result) if known.name in notes),
        _memorized(result),
        *((f"canary planted {counted(row['repetitions'], 'time')}", f"{row['exposure_bits']:.1f}",
           f"bits of exposure; {row['largest_possible_bits']:.1f} at most") for row in result["canaries"]),
    ]  # fmt: skip
    print_table(rows, "")
    best = result["passages"][0]
    print(f"\nKnown best, {best['document']} from byte {best['byte_in_document']:,}, {best['matched_tokens']} of "
          f"{best['num_tokens']} tokens:\n{best['prompt']}| {best['matched_text']}")  # fmt: skip
    if result.get("report"):
        print(f"\nreport: {result['report']}")


def _memorized(result: Mapping[str, Any]) -> tuple[str, str, str]:
    bits, against = result["memorized_bits"], result["conventions"]["memorized_bits_against"]
    if bits is None:
        return "memorized", "unknown", "the two texts cannot be compared"
    table = "uniform guessing" if against == "uniform" else f"a {against} model"
    beside = "" if against == "the model" else f"; against {table}, which predicts new text better than the model"
    number = f"{bits:,.0f}" if bits else "none"
    return "memorized", number, f"bits of about {result['capacity_bits']:,.0f} it can store{beside}"


def print_sweep(result: Mapping[str, Any]) -> None:
    """The runs of a ladder, and what the law fitted to them predicts for the given size."""
    rows = [
        (f"{format_count(run['num_parameters'])} parameters", f"{run['validation_loss_nats_per_token']:.4f}",
         f"after {format_count(run['tokens'])} tokens, {run['bits_per_byte']:.4f} bits per byte")
        for run in result["runs"]
    ]  # fmt: skip
    print_table(rows, "a ladder of runs: validation loss in nats per token")
    low, high = result["loss_nats_per_token_interval_90"]
    size, length = format_count(result["num_parameters"]), format_count(result["tokens"])
    print(
        f"{size} parameters after {length} tokens would reach about {result['loss_nats_per_token']:.3f} nats per token "
        f"(90 % range {low:.3f} to {high:.3f})."
    )
    for sentence in result["warnings"]:
        print(f"warning: {sentence}")
    for name, cause in (("alpha", "size"), ("beta", "length")):
        least, most = result[f"{name}_interval_90"]
        print(f"exponent of {cause}: {result[name]:.2f} ({least:.2f} to {most:.2f})")
