"""Commands that make something: train, prepare, generate; and runs, which lists what was made."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import chain

from hornbook.commands.options import add_settings, add_texts, check_inputs, given_settings, text_settings, value
from hornbook.facts.printing import print, print_json, whole_line_ends

STARTED = time.monotonic()


def describe_train(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "files, folders, globs or a prepared folder; none: the built-in corpus")
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file of settings; flags override it")
    parser.add_argument("--out", metavar="FOLDER", help="the run folder; that of an earlier run goes on")
    parser.add_argument("--from", dest="from_", metavar="MODEL", help="start from given weights")
    add_settings(parser, lambda name: True)


def train_command(arguments: argparse.Namespace) -> None:
    """train a model on your text: prepare, train, watch, evaluate, sample, report"""
    from hornbook.commands.train import train
    from hornbook.reporting.live import View

    summary = train(
        *arguments.texts, recipe=arguments.recipe, out=arguments.out, from_=arguments.from_,
        view=View(quiet=False), started=STARTED, **given_settings(arguments),
    )  # fmt: skip
    if arguments.json:
        print_json(summary)
    else:
        from hornbook.reporting.terminal import print_summary

        print_summary(summary)


def describe_prepare(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "files, folders or globs; none: the built-in corpus")
    parser.add_argument("--out", metavar="FOLDER", help="the prepared folder")
    parser.add_argument(
        "--parameters", "--size", metavar="N", help="size of the model that the outlook is for, such as 124M"
    )
    add_settings(parser, lambda name: name.startswith("text."))


def prepare_command(arguments: argparse.Namespace) -> None:
    """turn text into token shards, with a report on the data"""
    from hornbook.commands.prepare import prepare
    from hornbook.reporting.live import View

    with View().progress("preparing") as progress:
        result = prepare(
            *arguments.texts, out=arguments.out, parameters=arguments.parameters, progress=progress,
            **text_settings(arguments),
        )  # fmt: skip
    if arguments.json:
        print_json(result)
    else:
        from hornbook.reporting.prepared import print_prepared

        print_prepared(result)


def describe_generate(parser: argparse.ArgumentParser) -> None:
    from hornbook.facts.settings import Seed

    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a .gguf file")
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="what to continue; none: a document")
    for flag, kind, default, text in (
        ("--max-tokens", int, 200, "length in tokens"),
        ("--temperature", float, 0.8, "0 is greedy"),
        ("--top-k", int, None, "keep the k most probable tokens (default: all)"),
        ("--top-p", float, None, "keep the most probable tokens that together reach p (default: all)"),
        ("--min-p", float, None, "keep tokens at least p times as probable as the most probable one (default: all)"),
        ("--seed", Seed, 0, "the same seed gives the same text"),
        ("--step", int, None, "the run's checkpoint at this step (default: its best or newest)"),
    ):
        said = text if default is None else f"{text} (default: {default})"
        parser.add_argument(flag, type=value(kind), default=default, metavar="N", help=said)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    parser.add_argument("--int8", action="store_true", help="weights of 8 bits: faster on a CPU, a little less exact")


def generate_command(arguments: argparse.Namespace) -> None:
    """let a model continue a text"""
    check_inputs(arguments.model)
    from hornbook.commands.generate import generate, prompt_ids
    from hornbook.setup.model import open_model

    opened = open_model(arguments.model, step=arguments.step)
    if opened.note is not None and arguments.step is None:
        print(opened.note, file=sys.stderr)
    length, context = len(prompt_ids(opened, arguments.prompt)), opened.model.shape.context
    if length > context:
        print(f"the prompt has {length:,} tokens: only its last {context:,} are read.", file=sys.stderr)
    pieces = generate(
        opened, arguments.prompt, max_tokens=arguments.max_tokens, temperature=arguments.temperature,
        top_k=arguments.top_k, top_p=arguments.top_p, min_p=arguments.min_p, seed=arguments.seed, stop=arguments.stop,
        int8=arguments.int8,
    )  # fmt: skip
    if arguments.json:
        found = {"prompt": arguments.prompt, "text": "".join(pieces), "seed": arguments.seed, "model": opened.name}
        print_json(found | {"step": opened.step})
        return
    first = next(pieces, "")  # what is wrong is said before anything is written
    for piece in whole_line_ends(chain([arguments.prompt + first], pieces)):
        print(piece, end="", flush=True)
    print()


def describe_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="where runs lie (default: runs)")


def runs_command(arguments: argparse.Namespace) -> None:
    """list the runs of a folder"""
    from hornbook.records.listing import runs

    found = runs(arguments.folder)
    if arguments.json:
        print_json({"runs": found})
    else:
        from hornbook.reporting.terminal import print_runs

        print_runs(found)
