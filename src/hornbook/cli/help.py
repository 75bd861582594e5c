"""`--help` on one screen, with examples; `--help-all` is all that argparse has."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

WIDTH = 79
# Of the many settings, those that a first run needs.
SHOWN = ("text.tokenizer", "model.preset", "train.budget", "train.epochs", "train.steps", "train.seed")
MANY = 10  # settings; a command with fewer shows them all
EXAMPLES = {
    "train": (
        "hornbook train my.txt --budget 10m", "hornbook train src/ --preset 6M --epochs 2 --out runs/code",
        "hornbook train new.txt --from runs/code",
    ),
    "prepare": ("hornbook prepare texts/ --tokenizer bpe:4096 --out prepared/mine",),
    "plan": (
        "hornbook plan my.txt --budget 10m", "hornbook plan --parameters 7B --tokens 2T --on 8xA100 --price 30/hour",
    ),
    "sweep": ("hornbook sweep my.txt --budget 20m --size 5M",),
    "evaluate": ("hornbook evaluate runs/x other.txt", "cat other.txt | hornbook evaluate runs/x -"),
    "generate": ('hornbook generate runs/x "Once upon"', "hornbook generate runs/x - < prompt.txt"),
    "inspect": ('hornbook inspect runs/x "One sentence"',),
    "compare": ("hornbook compare runs/a runs/b",),
}  # fmt: skip


def brief(parser: argparse.ArgumentParser, name: str) -> str | None:
    """The short help of a command; None where all of it is short."""
    options = [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]
    settings = [action for action in options if "." in action.dest]
    if len(settings) < MANY:
        return None
    shown = [action for action in options if action not in settings or action.dest in SHOWN]
    words = [action.metavar for action in parser._positionals._group_actions]
    lines = [
        f"usage: {parser.prog} {''.join(f'[{word} ...] ' for word in words)}[options]",
        parser.description or "",
        "",
    ]
    lines += [f"  {example}" for example in EXAMPLES.get(name, ())] + [""]
    lines += [_row(str(action.metavar), action.help) for action in parser._positionals._group_actions]
    lines += [_row(_option(action), action.help) for action in shown if "-h" not in action.option_strings]
    lines[-1] += f": {len(settings)} settings, with their choices"
    return "\n".join(lines) + "\n"


def epilog(name: str) -> str:
    return "".join(f"  {example}\n" for example in EXAMPLES.get(name, ()))


def _option(action: argparse.Action) -> str:
    flag = min(action.option_strings, key=len)
    return f"{flag} {action.metavar}" if action.metavar and action.nargs != "?" else flag


def _row(left: str, text: str | None) -> str:
    room = WIDTH - 24
    text = (text or "").partition(" (default")[0].replace("%%", "%")
    while len(text) > room:
        text = text[:room].rpartition("; ")[0] or text[:room].rpartition(", ")[0] or text[: room - 3] + "..."
    return f"  {left:<20}  {text}"


def general(commands: Sequence[tuple[str, str]]) -> str:
    """The help of the whole command line."""
    lines = [
        "usage: hornbook COMMAND [options]",
        "Trains a small language model on your own text and evaluates it honestly.",
        "",
    ]
    lines += [f"  {name:<10}  {line}" for name, line in commands]
    lines += [
        "", "  hornbook help COMMAND, COMMAND --help-all   its options, all of them",
        "  hornbook completion bash|zsh|fish           completion for a shell",
        "  hornbook -V, --version                      the version",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
