"""Commands that look at models: evaluate."""

from __future__ import annotations

import argparse

from hornbook.cli.options import add_settings, add_texts, is_reading, text_settings, value


def describe_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a .gguf file")
    add_texts(parser, "what to score; none: the validation side of the run")
    parser.add_argument("--window", type=value(int), metavar="N", help="tokens read at once (default: the context)")
    parser.add_argument("--stride", type=value(int), metavar="N", help="tokens a window moves (default: half of it)")
    parser.add_argument("--per-document", action="store_true", help="disjoint windows of the context")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--batch-size", type=value(int), default=256, metavar="N", help="windows at once; same bits")
    add_settings(parser, is_reading)


def evaluate_command(arguments: argparse.Namespace) -> None:
    """loss, perplexity and bits per byte of a text, with intervals"""
    from hornbook.session.live import View
    from hornbook.session.scores import evaluate

    with View().progress("scoring") as progress:
        report = evaluate(
            arguments.model, *arguments.texts, window=arguments.window, stride=arguments.stride,
            per_document=arguments.per_document, step=arguments.step, batch_size=arguments.batch_size,
            progress=progress, **text_settings(arguments),
        )  # fmt: skip
    if arguments.json:
        print(report.to_json(), end="")
    else:
        from hornbook.report.terminal import print_report

        print_report(report)
