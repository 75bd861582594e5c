"""Options that several commands share, and how settings become options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args, get_origin

MODEL = "a run, a checkpoint, a Hugging Face folder or a .gguf file"


def value(kind: Any) -> Callable[[str], Any]:
    """Text -> a value of a setting's type; what is wrong becomes a sentence."""
    import msgspec

    from hornbook.facts.settings import Whole, expected

    kind = Whole if kind is int else kind

    def convert(text: str) -> Any:
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError as error:
            sentence = expected(str(error), kind).removesuffix(f", not {text!r}").partition(", got ")[0]
            raise argparse.ArgumentTypeError(f"{sentence}, not {text!r}") from None

    return convert


def count(text: str) -> int:
    """A number of tokens, as plan takes it: 600000, 600K, 2T."""
    from hornbook.facts.errors import InputError
    from hornbook.facts.units import parse_count

    try:
        return parse_count(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None


def add_settings(parser: argparse.ArgumentParser, wanted: Callable[[str], bool]) -> None:
    """An option for each setting whose dotted name is wanted, and its short name where the command has no such option.

    `normal` reads the other names of settings.
    """
    from hornbook.facts.settings import OFF, fields, names

    for field in fields():
        if field.name == "text.paths" or not wanted(field.name):
            continue
        short = f"--{field.key.replace('_', '-')}"
        taken = field.key not in names() or short in parser._option_string_actions
        listed, switch = get_origin(field.type) is list, field.type is bool
        default = "none" if field.name in OFF else "automatic" if field.optional else str(field.default)
        parser.add_argument(
            f"--{field.name}", *([] if taken else [short]), dest=field.name, default=argparse.SUPPRESS,
            action="append" if listed else "store", nargs="?" if switch else None, const=True if switch else None,
            type=count if field.name == "train.tokens" else value(get_args(field.type)[0] if listed else field.type),
            metavar="true|false" if switch else _one_of(field.type) or (field.unit or "value").upper(),
            help=f"{field.description} (default: {default.lower() if switch else default})".replace("%", "%%"),
        )  # fmt: skip
    parser.epilog = (
        "Settings also go by the names that other trainers use, such as --lr or --n_layer (docs/settings.md); a switch "
        "is --dedup or --no-dedup."
    )


def _one_of(kind: Any) -> str:
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else ""


def piped(text: str | None) -> str | None:
    """A text of the command line; "-" stands for stdin. Raises InputError where that is not UTF-8."""
    if text != "-":
        return text
    from hornbook.facts.errors import InputError

    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"what comes from stdin is not UTF-8 at byte {error.start}; convert it.") from None


@contextmanager
def piped_files(texts: Sequence[str]) -> Iterator[list[str]]:
    """The files of the command line; "-" stands for stdin, in a file for as long as it is needed."""
    with ExitStack() as stack:
        files = list(texts)
        if "-" in files:
            import shutil
            from tempfile import TemporaryDirectory

            file = f"{stack.enter_context(TemporaryDirectory(prefix='hornbook-'))}/stdin"
            with open(file, "wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
            files = [file if name == "-" else name for name in files]
        yield files


def normal(argv: Sequence[str], options: Mapping[str, argparse.Action]) -> list[str]:
    """The arguments with every option by a name of `options`: hyphens or underscores, any name of a setting, --x or
    --no-x of a switch. What is no option of these, or stands after "--", stays as it is."""
    end = argv.index("--") if "--" in argv else len(argv)
    words, read = list(argv[:end]), list[str]()
    while words:
        word = words.pop(0)
        given, equals, text = word.partition("=")
        name, off = _known(given, options)
        action = options.get(name)
        if action is None or (off and equals):
            read.append(word)
        elif action.nargs == "?":  # the switch of a setting
            if not off and not equals and words and words[0].lower() in ("true", "false"):
                text = words.pop(0)
            read.append(f"{name}={text or str(not off).lower()}")
        elif not off:
            read.append(f"{name}{equals}{text}")
    return read + list(argv[end:])


def _known(given: str, options: Mapping[str, argparse.Action]) -> tuple[str, bool]:
    """The name in `options` of a given one, and whether that turns a switch off."""
    from hornbook.facts.names import note_if_renamed
    from hornbook.facts.settings import names

    for off in (False, True):
        bare = given.removeprefix("--no-" if off else "--")
        if bare == given:
            continue
        setting = names().get(bare.replace("-", "_"))
        for name in (f"--{bare}", f"--{bare.replace('_', '-')}", *([] if setting is None else [f"--{setting.name}"])):
            if name in options and (not off or options[name].nargs in (0, "?")):
                if setting is not None:
                    note_if_renamed(given, setting)
                return name, off
    return given, False


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, by their dotted names."""
    return {name: value for name, value in vars(arguments).items() if "." in name}


def add_texts(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", default=None, help=help)  # None: not required


def is_reading(name: str) -> bool:
    return name in ("text.field", "text.separator", "text.errors")


def text_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name.removeprefix("text."): value for name, value in given_settings(arguments).items()}


def check_inputs(*models: str, texts: Sequence[str] = (), settings: dict[str, Any] | None = None) -> None:
    """Say what is wrong with names and files before torch is imported, which takes seconds."""
    from hornbook.records.listing import check_model
    from hornbook.setup.documents import named_documents
    from hornbook.setup.text import is_prepared

    for model in models:
        check_model(model)
    if texts and not is_prepared(texts):
        named_documents(texts, settings or {})
