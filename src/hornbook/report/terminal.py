"""Results on a terminal, on stdout: the summary of a run, a report, a data report, a list of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.facts.quantities import format_count, format_duration
from hornbook.records.result import Report
from hornbook.report.numbers import perplexity_text


def _table(rows: Sequence[tuple[str, str, str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, soft_wrap=True).print(table)


def _between(pair: Sequence[float] | None, form: str = "{:.3f}") -> str:
    return "" if not pair else f"95 % {form.format(pair[0])} to {form.format(pair[1])}"


def _surprise_rows(numbers: Mapping[str, Any], loss: str = "loss_nats_per_token") -> list[tuple[str, str, str]]:
    rows = [
        ("loss", f"{numbers[loss]:.4f}", f"nats per token  {_between(numbers.get(f'{loss}_interval_95'), '{:.4f}')}"),
        ("perplexity", perplexity_text(numbers[loss]),
         f"tokens it hesitates between  {_between(numbers.get('perplexity_interval_95'), '{:.4g}')}"),
        ("bits per byte", f"{numbers['bits_per_byte']:.4f}",
         f"comparable across tokenizers  {_between(numbers.get('bits_per_byte_interval_95'), '{:.4f}')}"),
    ]  # fmt: skip
    return [(name, value, note.rstrip()) for name, value, note in rows]


def print_summary(summary: Mapping[str, Any]) -> None:
    """What a run came to, a sample, and where its report is."""
    rows: list[tuple[str, str, str]] = []
    if summary.get("validation_loss_nats_per_token") is not None:
        rows += _surprise_rows(summary, "validation_loss_nats_per_token")
    if summary.get("train_loss_nats_per_token") is not None:
        rows.append(("train loss", f"{summary['train_loss_nats_per_token']:.4f}", "nats per token, on a fixed probe"))
    rows += [
        ("steps", f"{summary['step']:,}", f"{format_count(summary['tokens'])} tokens, {summary['epoch']:.2f} epochs"),
        (
            "time",
            format_duration(summary["wall_seconds"]),
            f"{format_count(summary['tokens_per_second'])} tokens/s while training",
        ),
    ]
    _table(rows, f"{summary['title']}: on text it has not seen")
    for sentence in summary["words"]:
        print(sentence)
    if summary.get("sample"):
        print(f"\nIt writes:\n{summary['sample'].strip()}\n")
    print(f"report: {summary['report']}")
    print(f'try:    hornbook generate {summary["run"]} "..."')


def print_report(report: Report) -> None:
    """Loss, perplexity and bits per byte with their intervals and conventions; the documents apart."""
    numbers = report.to_dict()
    rows = _surprise_rows(numbers)
    rows.append(
        ("scored", f"{report.num_tokens:,}", f"tokens, {report.num_bytes:,} bytes, {len(report.documents)} documents")
    )
    if report.end_nats_per_document is not None:
        rows.append(("end of document", f"{report.end_nats_per_document:.3f}", "nats each, in no other sum"))
    _table(rows, f"{report.model} on {report.text}")
    if report.interval_method:
        print(f"intervals: {report.interval_method}")
    print("convention: " + "; ".join(f"{name} {value}" for name, value in report.conventions.items()))
    if 1 < len(report.documents) <= 40:
        documents = [
            (row.name, f"{row.bits_per_byte:.4f}", f"bits per byte, loss {row.nats / max(1, row.num_tokens):.4f}")
            for row in sorted(report.documents, key=lambda row: -row.bits_per_byte)
        ]
        _table(documents, "by document")


def print_prepared(manifest: Mapping[str, Any]) -> None:
    """What a prepared folder holds."""
    rows = []
    for side, counts in manifest["parts"].items():
        rows.append(
            (side, f"{counts['num_tokens']:,}",
             f"tokens, {counts['num_documents']:,} documents, {counts['num_bytes']:,} bytes")
        )  # fmt: skip
    _table(
        rows, f"{manifest['prepared']}: {manifest['tokenizer']['kind']}, {manifest['tokenizer']['vocabulary']:,} ids"
    )


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """One line a run."""
    rows = []
    for run in runs:
        loss = run.get("validation_loss_nats_per_token")
        rows.append(
            (run["run"], f"{loss:.4f}" if loss is not None else "-", f"step {run.get('step', 0):,}, {run['state']}")
        )
    _table(rows, "runs: validation loss in nats per token" if rows else "no runs here")
