"""The command line: parse, call, print. Nothing else; heavy imports stand inside the commands."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args, get_origin

from hornbook import __version__
from hornbook.facts.errors import InputError, Interrupted, WorldError, suggestion

STARTED = time.monotonic()


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors are one sentence with the nearest valid name."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].lower()}{message[1:]}; see {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad input, 1 for a failure of the world, 130 and 143."""
    argv = [_normal(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        commands = {name: command for name, (_, command) in COMMANDS.items()}
        parser = build_parser()
        if not argv:
            parser.print_help()
            return 0
        if argv[0] not in commands and not argv[0].startswith("-"):
            raise InputError(f'there is no command "{argv[0]}"{suggestion(argv[0], commands)}; see hornbook --help.')
        arguments = _parse(parser, argv)
        if arguments.print_completion is not None:
            _print_completion(parser, arguments.print_completion)
            return 0
        commands[arguments.command](arguments)
        sys.stdout.flush()
    except InputError as error:
        return _say(error, 2)
    except WorldError as error:
        return _say(error, 1)
    except Interrupted as error:
        return _say(error, 128 + error.signal_number)
    except KeyboardInterrupt:
        return _say("interrupted; nothing was left half-written.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _say(f"cannot go on: {error}.", 1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _say("out of memory: try a smaller --model.width, --model.context or --train.microbatch.", 1)
    return 0


def _out_of_memory(error: Exception) -> bool:
    """PyTorch says so in words: its allocator on the CPU raises a plain RuntimeError."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )


def _print_completion(parser: argparse.ArgumentParser, shell: str) -> None:
    try:
        import shtab
    except ModuleNotFoundError:
        raise InputError('completion needs the package shtab: pip install "hornbook[completion]".') from None
    print(shtab.complete(parser, shell=shell))


def _say(sentence: object, code: int) -> int:
    print(f"hornbook: {sentence}", file=sys.stderr)
    return code


def _normal(word: str) -> str:
    """--train.early-stop is --train.early_stop."""
    name, equals, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if word.startswith("--") and "." in name else word


def _parse(parser: _Parser, argv: list[str]) -> argparse.Namespace:
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [word for word in unknown if word.startswith("-")]
        if options:
            option = options[0].partition("=")[0]
            known = parser.known[arguments.command or ""]  # type: ignore[attr-defined]
            raise InputError(f'there is no option "{option}"{suggestion(option, known)}; see hornbook --help.')
        texts = getattr(arguments, "texts", None)
        if texts is None:
            raise InputError(f'"{unknown[0]}" is one argument too many; see hornbook {arguments.command} --help.')
        texts += unknown  # texts after options
    if arguments.command is None and arguments.print_completion is None:
        raise InputError("name a command; see hornbook --help.")
    return arguments


def build_parser() -> _Parser:
    """The whole command line, for parsing, help and shell completion."""
    about = "Teaches a language model to read your text, and tells the truth about it."
    parser = _Parser(prog="hornbook", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hornbook {__version__}")
    parser.add_argument("--print-completion", choices=["bash", "zsh", "tcsh"], help="print a shell completion script")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    known = {"": [option for action in parser._actions for option in action.option_strings]}
    for name, (describe, command) in COMMANDS.items():
        line = (command.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, help=line, description=line, allow_abbrev=False)
        sub.set_defaults(print_completion=None)
        describe(sub)
        sub.add_argument("--json", action="store_true", help="print one machine-readable object and nothing else")
        known[name] = [option for action in sub._actions for option in action.option_strings]
    parser.known = known  # type: ignore[attr-defined]
    return parser


# ---- Options


def _value(kind: Any) -> Callable[[str], Any]:
    """Text -> a value of a setting's type; what is wrong becomes a sentence."""
    import msgspec

    def convert(text: str) -> Any:
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError as error:
            sentence = str(error).replace("`", "")
            raise argparse.ArgumentTypeError(f"{sentence[0].lower()}{sentence[1:]}, not {text!r}") from None

    return convert


# Flags that scripts rely on, for settings that are asked for most.
_SHORT = {
    "budget": "train.budget", "epochs": "train.epochs", "steps": "train.steps", "tokens": "train.tokens",
    "seed": "train.seed", "threads": "train.threads", "tokenizer": "text.tokenizer", "split": "text.split",
    "field": "text.field", "separator": "text.separator", "errors": "text.errors",
}  # fmt: skip


def _add_settings(parser: argparse.ArgumentParser, names: Callable[[str], bool]) -> None:
    """An option for each setting whose dotted name is wanted; the short flag stands beside the dotted one."""
    from hornbook.facts.settings import fields

    shorts = {dotted: f"--{short}" for short, dotted in _SHORT.items()}
    for field in fields():
        if field.name == "text.paths" or not names(field.name):
            continue
        flags = [f"--{field.name}"] + ([shorts[field.name]] if field.name in shorts else [])
        listed = get_origin(field.type) is list
        default = "automatic" if field.optional else field.default
        parser.add_argument(
            *flags, dest=field.name, default=argparse.SUPPRESS, action="append" if listed else "store",
            type=_value(get_args(field.type)[0] if listed else field.type), metavar="VALUE",
            help=f"{field.description} (default: {default})".replace("%", "%%"),
        )  # fmt: skip


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, by their dotted names."""
    return {name: value for name, value in vars(arguments).items() if "." in name}


def _texts(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", help=help)


def _reading(name: str) -> bool:
    return name in ("text.field", "text.separator", "text.errors")


def _text_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name.removeprefix("text."): value for name, value in _settings(arguments).items()}


# ---- Commands: how each is described, then the command itself


def _describe_train(parser: argparse.ArgumentParser) -> None:
    _texts(parser, "files, folders, globs or a prepared folder; none: the built-in corpus")
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file of settings; flags override it")
    parser.add_argument("--out", metavar="FOLDER", help="the run folder; that of an earlier run goes on")
    parser.add_argument("--from", dest="from_", metavar="MODEL", help="start from given weights")
    _add_settings(parser, lambda name: True)


def _train(arguments: argparse.Namespace) -> None:
    """train a model on your text: prepare, train, watch, evaluate, sample, report"""
    from hornbook.session.job import train
    from hornbook.session.live import View

    summary = train(
        *arguments.texts, recipe=arguments.recipe, out=arguments.out, from_=arguments.from_,
        view=View(quiet=False), started=STARTED, **_settings(arguments),
    )  # fmt: skip
    if arguments.json:
        _print_json(summary)
    else:
        from hornbook.report.terminal import print_summary

        print_summary(summary)


def _describe_prepare(parser: argparse.ArgumentParser) -> None:
    _texts(parser, "files, folders or globs; none: the built-in corpus")
    parser.add_argument("--out", metavar="FOLDER", help="the prepared folder")
    _add_settings(parser, lambda name: name.startswith("text."))


def _prepare(arguments: argparse.Namespace) -> None:
    """turn text into token shards, with a report on the data"""
    from hornbook.session.live import View
    from hornbook.session.texts import prepare

    with View().progress("preparing") as progress:
        result = prepare(*arguments.texts, out=arguments.out, progress=progress, **_text_settings(arguments))
    if arguments.json:
        _print_json(result)
    else:
        from hornbook.report.terminal import print_prepared

        print_prepared(result)


def _describe_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a .gguf file")
    _texts(parser, "what to score; none: the validation side of the run")
    parser.add_argument("--window", type=_value(int), metavar="N", help="tokens read at once (default: the context)")
    parser.add_argument("--stride", type=_value(int), metavar="N", help="tokens a window moves (default: half of it)")
    parser.add_argument("--per-document", action="store_true", help="disjoint windows of the context")
    parser.add_argument("--step", type=_value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--batch-size", type=_value(int), default=256, metavar="N", help="windows at once; same bits")
    _add_settings(parser, _reading)


def _evaluate(arguments: argparse.Namespace) -> None:
    """loss, perplexity and bits per byte of a text, with intervals"""
    from hornbook.session.live import View
    from hornbook.session.scores import evaluate

    with View().progress("scoring") as progress:
        report = evaluate(
            arguments.model, *arguments.texts, window=arguments.window, stride=arguments.stride,
            per_document=arguments.per_document, step=arguments.step, batch_size=arguments.batch_size,
            progress=progress, **_text_settings(arguments),
        )  # fmt: skip
    if arguments.json:
        print(report.to_json(), end="")
    else:
        from hornbook.report.terminal import print_report

        print_report(report)


def _describe_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a .gguf file")
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="what to continue; none: a document")
    for flag, kind, default, text in (
        ("--max-tokens", int, 200, "length in tokens"),
        ("--temperature", float, 0.8, "0 is greedy"),
        ("--top-k", int, None, "keep the k most probable tokens"),
        ("--top-p", float, None, "keep the most probable tokens that together reach p"),
        ("--min-p", float, None, "keep tokens at least p times as probable as the most probable one"),
        ("--seed", int, 0, "the same seed gives the same text"),
        ("--step", int, None, "the run's checkpoint at this step"),
    ):
        parser.add_argument(flag, type=_value(kind), default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")


def _generate(arguments: argparse.Namespace) -> None:
    """let a model continue a text"""
    from hornbook.session.models import open_model
    from hornbook.session.writing import generate, prompt_ids

    opened = open_model(arguments.model, step=arguments.step)
    length, context = len(prompt_ids(opened, arguments.prompt)), opened.model.shape.context
    if length > context:
        print(f"the prompt has {length:,} tokens: only its last {context:,} are read.", file=sys.stderr)
    if not arguments.json:
        print(arguments.prompt, end="", flush=True)
    text = ""
    for piece in generate(
        opened, arguments.prompt, max_tokens=arguments.max_tokens, temperature=arguments.temperature,
        top_k=arguments.top_k, top_p=arguments.top_p, min_p=arguments.min_p, seed=arguments.seed, stop=arguments.stop,
    ):  # fmt: skip
        if not arguments.json:
            print(piece, end="", flush=True)
        text += piece
    if arguments.json:
        _print_json({"prompt": arguments.prompt, "text": text, "seed": arguments.seed, "model": opened.name})
    else:
        print()


def _describe_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="where runs lie (default: runs)")


def _runs(arguments: argparse.Namespace) -> None:
    """list the runs of a folder"""
    from hornbook.records.listing import list_runs

    found = list_runs(arguments.folder)
    if arguments.json:
        _print_json({"runs": found})
    else:
        from hornbook.report.terminal import print_runs

        print_runs(found)


def _print_json(result: Any) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]]] = {
    "train": (_describe_train, _train),
    "prepare": (_describe_prepare, _prepare),
    "evaluate": (_describe_evaluate, _evaluate),
    "generate": (_describe_generate, _generate),
    "runs": (_describe_runs, _runs),
}
