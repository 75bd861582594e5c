"""`hornbook.generate`: a model continues a text, streamed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from hornbook.commands.options import check_inputs, piped, value
from hornbook.facts.printing import print, print_json, whole_line_ends

if TYPE_CHECKING:
    from hornbook.setup.model import LoadedModel


def flags(parser: argparse.ArgumentParser) -> None:
    from hornbook.facts.settings import Seed

    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a .gguf file")
    parser.add_argument(
        "prompt", nargs="?", default="", metavar="PROMPT", help="the prompt, - for stdin (default: none)"
    )
    for names, kind, default, text in (
        ("--max-tokens --max-new-tokens", int, 200, "length in tokens"),
        ("--temperature", float, 0.8, "0 is greedy"),
        ("--top-k", int, None, "keep the k most probable tokens (default: all)"),
        ("--top-p", float, None, "keep the most probable tokens that together reach p (default: all)"),
        ("--min-p", float, None, "keep tokens at least p times as probable as the most probable one (default: all)"),
        ("--seed", Seed, 0, "the same seed gives the same text"),
        ("--step", int, None, "the run's checkpoint at this step (default: its best or newest)"),
    ):
        help_text = text if default is None else f"{text} (default: {default})"
        parser.add_argument(*names.split(), type=value(kind), default=default, metavar="N", help=help_text)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="stop before this text")
    parser.add_argument("--int8", action="store_true", help="8-bit weights: faster on a CPU, slightly less accurate")


def command(arguments: argparse.Namespace) -> None:
    prompt = piped(arguments.prompt) or ""
    check_inputs(arguments.model)
    from hornbook.setup.model import open_model, prompt_ids

    opened = open_model(arguments.model, step=arguments.step)
    if opened.note is not None and arguments.step is None:
        print(opened.note, file=sys.stderr)
    length, context = len(prompt_ids(opened, prompt)), opened.model.shape.context
    if length > context:
        print(f"the prompt has {length:,} tokens: only its last {context:,} are used.", file=sys.stderr)
    pieces = generate(
        opened, prompt, max_tokens=arguments.max_tokens, temperature=arguments.temperature,
        top_k=arguments.top_k, top_p=arguments.top_p, min_p=arguments.min_p, seed=arguments.seed, stop=arguments.stop,
        int8=arguments.int8,
    )  # fmt: skip
    if arguments.json:
        result = {"prompt": prompt, "text": "".join(pieces), "seed": arguments.seed, "model": opened.name}
        print_json(result | {"step": opened.step})
        return
    first = next(pieces, "")  # what is wrong is said before anything is written
    for piece in whole_line_ends(chain([prompt + first], pieces)):
        print(piece, end="", flush=True)
    print()


def generate(
    model: str | LoadedModel, prompt: str = "", *, max_tokens: int = 200, temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None, min_p: float | None = None, seed: int = 0, stop: Sequence[str] = (),
    step: int | None = None, int8: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Yield pieces of text that continue `prompt`, until `max_tokens`, the end of the document, or a `stop` string.

    A prompt longer than the context keeps its last tokens. An empty prompt starts a document. `int8` rounds the
    weights to 8 bits: faster on a CPU, with a slightly higher loss. Raises InputError.
    """
    from hornbook.model.generate import Sampling
    from hornbook.setup.completion import completion
    from hornbook.setup.model import open_model, prompt_ids

    opened = open_model(model, step=step) if isinstance(model, str) else model
    ids = prompt_ids(opened, prompt)[-opened.model.shape.context :]
    pieces = completion(
        opened, ids, Sampling(temperature, top_k, top_p, min_p), max_tokens=max_tokens, seed=seed, stop=stop,
        inside=bool(prompt), int8=int8,
    )  # fmt: skip
    for piece in pieces:
        yield piece.text
