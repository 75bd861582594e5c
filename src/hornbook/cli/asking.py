"""Commands that ask what a run needs, and what it has learned: plan and memorize."""

from __future__ import annotations

import argparse

from hornbook.cli.options import print_json, value


def describe_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a TOML file of settings with a model preset")
    parser.add_argument("--parameters", metavar="N", help="size of the model, such as 7B")
    parser.add_argument("--tokens", metavar="N", help="length of the training, such as 2T")
    parser.add_argument("--context", type=value(int), metavar="N", help="tokens that the model can see at once")
    parser.add_argument("--on", metavar="DEVICES", help="what it runs on, such as 8xA100")
    parser.add_argument("--peak", metavar="FLOPS", help="FLOP/s of a device that is not known by name, such as 300T")
    parser.add_argument("--price", metavar="PRICE", help="of all devices together, such as 30/hour")


def plan_command(arguments: argparse.Namespace) -> None:
    """hours, memory, energy, money and loss of a training, before it is paid for"""
    from hornbook.planning.plan import render
    from hornbook.session.costs import plan

    made = plan(
        arguments.recipe, parameters=arguments.parameters, tokens=arguments.tokens, on=arguments.on,
        price=arguments.price, peak=arguments.peak, context=arguments.context,
    )  # fmt: skip
    if arguments.json:
        print_json(made)
    else:
        print("\n".join(render(made)))


def describe_memorize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, or any model with --train and --heldout")
    parser.add_argument("--train", metavar="TEXT", help="what it was trained on")
    parser.add_argument("--heldout", metavar="TEXT", help="text of the same kind that it has not seen")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--seed", type=value(int), default=0, metavar="N", help="which passages are drawn")


def memorize_command(arguments: argparse.Namespace) -> None:
    """what a model has learned by heart, against a held-out control"""
    from hornbook.session.memory import memorize

    found = memorize(
        arguments.model, train=arguments.train, heldout=arguments.heldout, step=arguments.step, seed=arguments.seed
    )
    if arguments.json:
        print_json(found.to_dict())
    else:
        from hornbook.report.terminal import print_memorization

        print_memorization(found.to_dict())
