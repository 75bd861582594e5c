"""The command line: parse, call, errors as sentences, exit codes. A command is its file in commands/ and a row here.

Only the file of the command that was named is imported.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, redirect_stderr
from functools import partial
from importlib import import_module
from typing import Any, NoReturn, cast

from hornbook import __version__
from hornbook.commands.options import normal
from hornbook.facts.errors import InputError, Interrupted, SystemFailure, in_words, suggestion
from hornbook.facts.printing import on_one_line, print, ready_streams
from hornbook.facts.settings import names
from hornbook.facts.threads import let_waiting_threads_sleep

COMMANDS = {
    "train": "train a model on your text: prepare, train, evaluate, sample, report",
    "prepare": "turn text into token shards, with a report on the data",
    "evaluate": "loss, perplexity and bits per byte of a text, with intervals",
    "inspect": "from logits to perplexity in six steps, token by token; without a text, the weights",
    "compare": "which of two models predicts a text better, by how much, and whether that could be chance",
    "export": "export a model as a Hugging Face folder or a GGUF file",
    "generate": "generate a continuation of a prompt",
    "memorize": "what a model has memorized, measured against held-out text",
    "plan": "estimate time, memory, energy, cost and loss of a run before it starts",
    "sweep": "train a ladder of small models and extrapolate the loss of a larger one",
    "report": "write the page of a run, also of one that goes on or was interrupted",
    "prove": "repeat a run with kills at random moments, and say whether it comes out the same",
    "runs": "list the runs in a folder",
    "plot": "draw the curves of several runs in one picture",
    "dashboard": "look at runs in a browser, live",
    "serve": "answer requests as OpenAI's completions do, on this machine",
}

IN_WEB = ("dashboard", "serve")  # the others have their file in commands/

MEANT = dict.fromkeys(("--accelerator", "--device", "--devices", "--gpu", "--hardware"), "--on")
MEANT |= {"-o": "--out", "-q": "--quiet", "-v": "--verbose"}

MAY_BE_EMPTY = ("prompt", "text", "stop", "text.separator", "watch.prompts")


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors are one sentence with the nearest valid name."""

    commands: dict[str, _Parser]  # of the whole command line, by name

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += " (write a value that begins with - as --option=VALUE)"
        raise InputError(f"{message[0].lower()}{message[1:]}; see {self.prog} --help.")

    def format_help(self) -> str:
        """On one screen; all of it after --help-all."""
        from hornbook.cli.help import brief, epilog, general

        name = self.prog.rpartition(" ")[2]
        if name == "hornbook":
            return general(list(COMMANDS.items()))
        return brief(self, name) or f"{self.full_help()}\n{epilog(name)}".rstrip("\n") + "\n"

    def full_help(self) -> str:
        return super().format_help()


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(cast(_Parser, parser).full_help(), end="")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad input, 1 for a failure of the world, 130 and 143."""
    argv = list(sys.argv[1:] if argv is None else argv)
    say = partial(_say, verbose="--verbose" in argv)
    ready_streams()
    let_waiting_threads_sleep()
    gc.set_threshold(700, 10, 1000)  # whole passes find nothing in hundreds of imported modules, a tenth of their time
    try:
        parser = build_parser([name for name in argv[:1] if name in COMMANDS])
        for word in argv:
            if re.search("[\ud800-\udfff]", word):  # Python's way to hold such bytes
                raise InputError(f"the argument {word} is not UTF-8: rename what it names, or give a pattern for it.")
        if argv[:1] == ["help"]:  # hornbook help train: as hornbook train --help
            argv = [*argv[1:], "--help"]
            parser = build_parser([name for name in argv[:1] if name in COMMANDS])
        if argv[:1] == ["completion"]:
            return _print_completion(argv[1:])
        if not argv:
            parser.print_help()
            return 0
        if argv[0] not in COMMANDS and not argv[0].startswith("-"):
            raise InputError(f'there is no command "{argv[0]}"{suggestion(argv[0], COMMANDS)}; see hornbook --help.')
        arguments = _parse(parser, argv)
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere) if arguments.quiet else nullcontext():
            _file(arguments.command).command(arguments)
        sys.stdout.flush()
    except InputError as error:
        return say(error, 2)
    except SystemFailure as error:
        return say(error, 1)
    except Interrupted as error:
        return say(error, 128 + error.signal_number)
    except KeyboardInterrupt:
        return say("interrupted; nothing was left half-written.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (sentence := in_words(error)) is None:
            raise
        return say(sentence, 1)
    return 0


def _file(command: str) -> Any:
    return import_module(f"hornbook.{'web' if command in IN_WEB else 'commands'}.{command}")


def _print_completion(shells: Sequence[str]) -> int:
    from hornbook.cli.completion import SHELLS, script

    if len(shells) != 1 or shells[0] not in SHELLS:
        raise InputError(f"name one shell: hornbook completion {'|'.join(SHELLS)}.")
    print(script(shells[0], build_parser().commands, COMMANDS), end="")
    return 0


def _say(sentence: object, code: int, *, verbose: bool) -> int:
    if verbose:
        print(traceback.format_exc(), end="", file=sys.stderr)
    print(f"hornbook: {on_one_line(sentence)}", file=sys.stderr)
    return code


def _parse(parser: _Parser, argv: list[str]) -> argparse.Namespace:
    argv = normal(argv, parser.commands.get(argv[0], parser)._option_string_actions)
    if "--" in argv:  # what follows is no option: argparse would know that only in some places
        end = argv.index("--")
        argv = argv[:end] + [f"\0{word}" for word in argv[end + 1 :]]
    argv = [re.sub("=--$", "=\0--", word) for word in argv]  # a value that argparse would lose
    arguments, unknown = parser.parse_known_args(argv)
    command = parser.commands.get(arguments.command, parser)
    for word in unknown:
        if word.startswith("-"):
            raise InputError(f"{_no_option(word.partition('=')[0], command)}; see {command.prog} --help.")
    _unmark(arguments, unknown)
    for action in command._positionals._group_actions:
        if unknown and action.nargs == "?" and getattr(arguments, action.dest) == action.default:
            setattr(arguments, action.dest, unknown.pop(0))  # one text after options
    if unknown and "texts" not in arguments:
        raise InputError(f'"{unknown[0]}" is one argument too many; see {command.prog} --help.')
    if unknown:
        arguments.texts += unknown  # texts after options
    if arguments.command is None:
        raise InputError("name a command; see hornbook --help.")
    for name, given in vars(arguments).items():
        if name not in MAY_BE_EMPTY and (given == "" or (isinstance(given, list) and "" in given)):
            raise InputError(
                f"{name.strip('_')} is empty: give it a value, or leave it out; see {command.prog} --help."
            )
    return arguments


def _unmark(arguments: argparse.Namespace, unknown: list[str]) -> None:
    """Take the marks off the words that stood after --."""
    for name, given in vars(arguments).items():
        if isinstance(given, str):
            setattr(arguments, name, given.removeprefix("\0"))
        elif isinstance(given, list) and all(isinstance(word, str) for word in given):
            setattr(arguments, name, [word.removeprefix("\0") for word in given])
    unknown[:] = [word.removeprefix("\0") for word in unknown]


def _no_option(option: str, command: _Parser) -> str:
    from hornbook.facts.elsewhere import ELSEWHERE

    known, name = command._option_string_actions, option.lstrip("-").replace("-", "_")
    setting, elsewhere = names().get(name) or names().get(name.rpartition(".")[2]), ELSEWHERE.get(name, "")
    if (meant := MEANT.get(option) or (setting and f"--{setting.name}")) in known:
        why = f' (did you mean "{meant}"?)'
    elif elsewhere:
        why = f": {elsewhere}" if set(re.findall(r"--[a-z._-]*[a-z]", elsewhere)) <= known.keys() else ""
    elif setting is not None:
        why = f": it is a setting of hornbook train, --{setting.name}"
    else:  # without the dashes, which would make --lr resemble --help
        read = [other.replace("_", "-") for other, field in names().items() if f"--{field.name}" in known]
        why = suggestion(option[2:], [flag[2:] for flag in known if flag[2:]] + read).replace('"', '"--', 1)
    takes_text = any(action.dest in MAY_BE_EMPTY for action in command._positionals._group_actions)
    return f'there is no option "{option}"{why}{"; a text that begins with - comes last, after --" * takes_text}'


def build_parser(named: Iterable[str] = COMMANDS) -> _Parser:
    """The command line, for parsing, help and shell completion, with the options of the commands `named`."""
    about = "Trains a small language model on your own text and evaluates it honestly."
    parser = _Parser(prog="hornbook", description=about, allow_abbrev=False)
    parser.add_argument("-V", "--version", action="version", version=f"hornbook {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, line in COMMANDS.items():
        sub = commands.add_parser(name, help=line, description=line, allow_abbrev=False)
        if name in named:
            _file(name).flags(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        sub.add_argument("--quiet", action="store_true", help="print the result and errors, no progress or notes")
        sub.add_argument("--verbose", action="store_true", help="show where an error was raised; train: all numbers")
        sub.add_argument("--help-all", action=_HelpAll, nargs=0, help="show all options")
    parser.commands = commands.choices
    return parser
