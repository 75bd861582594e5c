"""A model continues a prompt: tokens become text, up to a stop string, each with its log-probability if asked for."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hornbook.evaluation.score import Request, score_tokens
from hornbook.likelihood import token_nats
from hornbook.model.generate import Sampling, generate_with_logits
from hornbook.setup.model import LoadedModel
from hornbook.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """Text as it comes, and the tokens that begin in it: text, id, offset (in characters of the whole), log_probability
    and alternatives (the most probable tokens: text, id, log_probability), the last two where they were asked for.

    `finish` of the last piece: "stop" at a stop string or the end of the document, whose token is listed but spells
    nothing; "length" after max_tokens. `num_tokens`: how many were drawn so far.
    """

    text: str
    tokens: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    num_tokens: int = 0


def completion(
    opened: LoadedModel, ids: Sequence[int], sampling: Sampling, *, max_tokens: int, seed: int = 0,
    stop: Sequence[str] = (), alternatives: int | None = None, inside: bool = True, int8: bool = False,
) -> Iterator[Piece]:  # fmt: skip
    """Continue `ids` and yield what is written, one piece a token; a character waits for its last byte, and what may
    begin a stop string for the next token. The end of the document ends it, as a string of `stop` does, which is not
    yielded.

    `alternatives`: how many of the most probable tokens come with each, in nats of the model's own distribution,
    whatever the temperature; None: not even its own. `inside`: after a text, where the space that a tokenizer has
    before a first word is one. Raises InputError as `model.generate.generate`.
    """
    tokenizer, end = opened.tokenizer, opened.tokenizer.end_of_text
    drawn = generate_with_logits(
        opened.model, ids, sampling, max_tokens=max_tokens, seed=seed, native=True, int8=int8
    )  # fmt: skip
    decoder, stop = codecs.getincrementaldecoder("utf-8")("replace"), [word for word in stop if word]
    held, waiting, at, num_tokens, is_end = "", list[dict[str, Any]](), 0, 0, False
    for token, logits_V in drawn:
        num_tokens += 1
        waiting.append(named_token(tokenizer, token, at + len(held)))
        if alternatives is not None:
            waiting[-1] |= _drawn(tokenizer, logits_V, token, alternatives)
        if is_end := token == end:
            break
        data = tokenizer.token_bytes(token)
        held += decoder.decode(data if inside else tokenizer.spelled_at_start(data))
        inside = inside or bool(data)
        length, is_stop = until(held, stop)
        begun = [item for item in waiting if item["offset"] < at + length]
        yield Piece(held[:length], begun, "stop" if is_stop else None, num_tokens)
        if is_stop:
            return
        waiting, held, at = waiting[len(begun) :], held[length:], at + length
    held += decoder.decode(b"", final=True)
    yield Piece(held, waiting, "stop" if is_end else "length", num_tokens)


def until(text: str, stop: Sequence[str]) -> tuple[int, bool]:
    """How many characters stand before the first of the `stop` strings, or before what may be the start of one; and
    whether one was found.

    >>> until("one two", ["two"]), until("one tw", ["two"]), until("one twi", ["two"])
    ((4, True), (4, False), (7, False))
    """
    ends = [at for word in stop if (at := text.find(word)) >= 0]
    if ends:
        return min(ends), True
    begun = (n for word in stop for n in range(1, len(word)) if text.endswith(word[:n]))
    return len(text) - max(begun, default=0), False


def named_token(tokenizer: Tokenizer, token: int, offset: int) -> dict[str, Any]:
    """A token as an answer lists it; of bytes that are no text by themselves, as OpenAI writes them: bytes:\\xc3."""
    data = tokenizer.token_bytes(token)
    try:
        text = data.decode() or tokenizer.token_text(token)
    except UnicodeDecodeError:
        text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    return {"text": text, "id": token, "offset": offset}


def prompt_tokens(opened: LoadedModel, ids: Sequence[int], alternatives: int | None) -> list[dict[str, Any]]:
    """The tokens of a prompt, as those of a completion; the first has no log-probability: nothing stands before it.

    Scored in the shapes of `evaluate`, whose nats they have. Raises InputError for ids that the model does not have.
    """
    tokenizer, decoder, tokens, offset = opened.tokenizer, codecs.getincrementaldecoder("utf-8")("replace"), [], 0
    for token in ids:
        tokens.append(named_token(tokenizer, token, offset))
        data = tokenizer.token_bytes(token)
        offset += len(decoder.decode(data if offset else tokenizer.spelled_at_start(data)))
    if alternatives is None:
        return tokens
    tokens[0] |= {"log_probability": None, "alternatives": None}
    if len(ids) > 1:
        most = min(alternatives, opened.model.shape.vocabulary)

        def measure(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
            best = logits.log_softmax(-1).topk(most, -1)
            return {"nats": token_nats(logits, targets), "ids": best.indices, "log_probabilities": best.values}

        (records,) = score_tokens(opened.model, [Request(ids, len(ids) - 1)], measure)
        for item, record in zip(tokens[1:], records, strict=True):
            best = zip(record["ids"].tolist(), record["log_probabilities"].tolist(), strict=True)
            item |= _listed(tokenizer, -float(record["nats"]), best)
    return tokens


def _drawn(tokenizer: Tokenizer, logits_V: Tensor, token: int, most: int) -> dict[str, Any]:
    log_p = logits_V.double().log_softmax(-1)
    best = log_p.topk(min(most, len(log_p)))
    return _listed(tokenizer, float(log_p[token]), zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _listed(tokenizer: Tokenizer, own: float, best: Iterable[tuple[int, float]]) -> dict[str, Any]:
    others = [named_token(tokenizer, token, 0) | {"log_probability": log_p} for token, log_p in best]
    return {"log_probability": own, "alternatives": others}
