"""Commands that ask what a run needs, and what it has learned: plan and memorize."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hornbook.commands.options import add_settings, add_texts, check_inputs, given_settings, value
from hornbook.facts.errors import SystemFailure
from hornbook.facts.printing import print, print_json


def describe_plan(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "texts as for train, or a recipe (a .toml file); none: the built-in corpus")
    parser.add_argument("--parameters", "--size", metavar="N", help="only a size, such as 7B, without recipe and text")
    parser.add_argument("--tokens", "--train.tokens", metavar="N", help="length of the training, such as 2T")
    parser.add_argument(
        "--context", "--model.context", type=value(int), metavar="N", help="tokens that the model can see at once"
    )
    parser.add_argument("--on", metavar="DEVICES", help="what it runs on, such as 8xA100 (default: this machine)")
    parser.add_argument("--peak", metavar="FLOPS", help="FLOP/s of a device that is not known by name, such as 300T")
    parser.add_argument("--price", metavar="PRICE", help="of all devices together, such as 30/hour")
    parser.add_argument("--hours", metavar="N", help="reported device-hours: prints the implied utilisation and cost")
    parser.add_argument("--measure", action="store_true", help="try this machine for some seconds first")
    parser.add_argument("--plot", metavar="FILE", help="draw the best loss against its cost, as .png or .svg")
    add_settings(parser, lambda name: name not in ("train.tokens", "model.context"))


def plan_command(arguments: argparse.Namespace) -> None:
    """hours, memory, energy, money and loss of a training, before it is paid for"""
    import msgspec

    from hornbook.commands.plan import plan
    from hornbook.planning.plan import render

    made = plan(
        *arguments.texts, parameters=arguments.parameters, tokens=arguments.tokens, on=arguments.on,
        price=arguments.price, peak=arguments.peak, context=arguments.context, hours=arguments.hours,
        measure=arguments.measure, **given_settings(arguments),
    )  # fmt: skip
    if arguments.plot is not None:
        from hornbook.reporting.plots import cost_plot

        cost_plot([msgspec.to_builtins(point) for point in made.frontier], arguments.plot)
    if arguments.json:
        print_json(made.to_dict())
    else:
        print("\n".join(render(made)))


def describe_memorize(parser: argparse.ArgumentParser) -> None:
    from hornbook.facts.settings import Seed

    parser.add_argument("model", metavar="MODEL", help="a run, or any model with --train and --heldout")
    parser.add_argument("--train", metavar="TEXT", help="what it was trained on (default: a run's own)")
    parser.add_argument(
        "--heldout", metavar="TEXT", help="text of the same kind that it has not seen (default: a run's own)"
    )
    parser.add_argument("--reference", metavar="MODEL", help="a model trained alike that has read neither text")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--seed", type=value(Seed), default=0, metavar="N", help="which free samples are drawn")
    parser.add_argument("--html", metavar="FILE", help="write the page here; of a run, it is among its reports anyway")


def memorize_command(arguments: argparse.Namespace) -> None:
    """what a model has learned by heart, against a held-out control"""
    check_inputs(arguments.model)
    from hornbook.commands.memorize import memorize

    found = memorize(
        arguments.model, train=arguments.train, heldout=arguments.heldout, reference=arguments.reference,
        step=arguments.step, seed=arguments.seed,
    )  # fmt: skip
    if arguments.json:
        print_json(found)
    else:
        from hornbook.reporting.terminal import print_memorization

        print_memorization(found)
    sys.stdout.flush()  # what was computed is shown, whatever becomes of the pages
    if arguments.html is not None:
        from hornbook.facts.io import write_aside
        from hornbook.reporting.memorization import memory_page

        write_aside(Path(arguments.html), memory_page(found))
    if "report_problem" in found:
        raise SystemFailure(found["report_problem"])


def describe_sweep(parser: argparse.ArgumentParser) -> None:
    add_texts(parser, "texts as for train; none: the built-in corpus")
    parser.add_argument("--budget", default="10m", metavar="TIME", help="wall time of all runs (default: 10m)")
    parser.add_argument(
        "--size", "--parameters", metavar="N", help="parameters to be asked about (default: 4 times the largest run)"
    )
    parser.add_argument("--tokens", metavar="N", help="tokens to be asked about (default: those of the runs)")
    parser.add_argument("--out", default="sweep", metavar="FOLDER", help="where the runs lie (default: sweep)")
    add_settings(parser, lambda name: name.startswith(("text.", "optimizer.")) or name == "train.seed")


def sweep_command(arguments: argparse.Namespace) -> None:
    """train a ladder of small models and say what a larger one would reach on this text"""
    from hornbook.commands.sweep import sweep
    from hornbook.reporting.live import View

    found = sweep(
        *arguments.texts, budget=arguments.budget, size=arguments.size, tokens=arguments.tokens, out=arguments.out,
        view=View(), **given_settings(arguments),
    )  # fmt: skip
    if arguments.json:
        print_json(found)
    else:
        from hornbook.reporting.terminal import print_sweep

        print_sweep(found)
