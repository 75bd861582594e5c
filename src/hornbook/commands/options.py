"""Options that several commands share, and how settings become options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin


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


# Flags that scripts rely on, for settings that are asked for most.
_SHORT = {
    "budget": "train.budget", "epochs": "train.epochs", "steps": "train.steps", "tokens": "train.tokens",
    "seed": "train.seed", "threads": "train.threads", "tokenizer": "text.tokenizer", "split": "text.split",
    "field": "text.field", "separator": "text.separator", "errors": "text.errors",
}  # fmt: skip

_SWITCHES = {"text.dedup": "dedup", "text.canaries": "canaries"}  # flags without a value


def add_settings(parser: argparse.ArgumentParser, names: Callable[[str], bool]) -> None:
    """An option for each setting whose dotted name is wanted; the short flag stands beside the dotted one."""
    from hornbook.facts.settings import OFF, fields

    shorts = {dotted: f"--{short}" for short, dotted in _SHORT.items()}
    for field in fields():
        if field.name == "text.paths" or not names(field.name):
            continue
        flags = [f"--{field.name}"] + ([shorts[field.name]] if field.name in shorts else [])
        listed = get_origin(field.type) is list
        default = "none" if field.name in OFF else "automatic" if field.optional else field.default
        parser.add_argument(
            *flags, dest=field.name, default=argparse.SUPPRESS, action="append" if listed else "store",
            type=count if field.name == "train.tokens" else value(get_args(field.type)[0] if listed else field.type),
            metavar="VALUE",
            help=f"{field.description} (default: {default})".replace("%", "%%"),
        )  # fmt: skip
        if field.name in _SWITCHES:
            parser.add_argument(
                f"--{_SWITCHES[field.name]}", dest=field.name, default=argparse.SUPPRESS, action="store_const",
                const=True, help=field.description,
            )  # fmt: skip


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
