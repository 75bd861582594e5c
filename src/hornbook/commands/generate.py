"""`hornbook.generate`: a model continues a text, streamed."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence

from hornbook.facts.errors import InputError
from hornbook.model.generate import generate as continue_ids
from hornbook.setup.model import LoadedModel, open_model
from hornbook.text.tokenizer import Tokenizer


def generate(
    model: str | LoadedModel, prompt: str = "", *, max_tokens: int = 200, temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None, min_p: float | None = None, seed: int = 0, stop: Sequence[str] = (),
    step: int | None = None, int8: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Yield pieces of text that continue `prompt`, until `max_tokens`, the end of the document, or a `stop` string.

    A prompt longer than the context keeps its last tokens. An empty prompt starts a document. `int8` rounds the
    weights to 8 bits: faster on a CPU, a little more surprised. Raises InputError.
    """
    opened = open_model(model, step=step) if isinstance(model, str) else model
    ids = prompt_ids(opened, prompt)
    end = opened.tokenizer.end_of_text
    tokens = continue_ids(
        opened.model, ids[-opened.model.shape.context :], max_tokens=max_tokens, temperature=temperature, top_k=top_k,
        top_p=top_p, min_p=min_p, seed=seed, stop_ids=() if end is None else (end,), native=True, int8=int8,
    )  # fmt: skip
    yield from until(_decoded(opened.tokenizer, tokens, inside=bool(prompt)), [word for word in stop if word])


def _decoded(tokenizer: Tokenizer, tokens: Iterable[int], *, inside: bool) -> Iterator[str]:
    """The text of each token; bytes of a character that is not complete yet wait for the next one. `inside`: after a
    prompt, where the space that a tokenizer has before a first word is one."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        data = tokenizer.token_bytes(token)
        yield decoder.decode(data if inside else tokenizer.spelled_at_start(data))
        inside = inside or bool(data)
    yield decoder.decode(b"", final=True)


def prompt_ids(opened: LoadedModel, prompt: str) -> list[int]:
    """The prompt as ids, with the token that begins a document in front where the tokenizer has one."""
    tokenizer = opened.tokenizer
    first = tokenizer.end_of_text if tokenizer.kind != "foreign" else tokenizer.beginning
    ids = ([] if first is None else [first]) + [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        raise InputError(f"give a prompt: {opened.name} has no token that begins a document.")
    return ids


def until(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """Pieces up to, and without, the first of the `stop` strings; holds back what may be the start of one.

    >>> list(until(iter(["one t", "wo th", "ree"]), ["two"]))
    ['one ', '']
    """
    held = ""
    for piece in pieces:
        held += piece
        found = [at for word in stop if (at := held.find(word)) >= 0]
        if found:
            yield held[: min(found)]
            return
        keep = max((n for word in stop for n in range(1, len(word)) if held.endswith(word[:n])), default=0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held
