"""The process that holds a model: lines of JSON in, lines of JSON out. `model_process.py` starts and asks it."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from hornbook.facts.errors import InputError, SystemFailure

if TYPE_CHECKING:
    from hornbook.evaluation.copying import CopyProbe
    from hornbook.setup.model import LoadedModel

MODELS = 2  # that stay open, the last used


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to stderr
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    stopped: set[int] = set()
    threading.Thread(target=_read, args=(requests, stopped), daemon=True).start()
    while True:
        request = requests.get()
        number = request.pop("number")

        def say(number: int = number, **part: Any) -> None:
            answers.write(msgspec.json.encode({"number": number, **part}) + b"\n")
            answers.flush()

        try:
            for part in _answer(**request):
                if number in stopped:
                    break
                say(part=part)
            say(end=True)
        except (InputError, SystemFailure) as error:
            say(error=str(error), is_input=isinstance(error, InputError))
        except (MemoryError, RuntimeError, OSError) as error:
            say(error=f"the model could not answer ({' '.join(str(error).split())[:200]}).", is_input=False)
        stopped.discard(number)


def _read(requests: queue.SimpleQueue[dict[str, Any]], stopped: set[int]) -> None:
    """Also while an answer is computed: what is to stop stops, and the process ends with the one that asks."""
    try:
        for line in sys.stdin.buffer:
            request = msgspec.json.decode(line)
            if "cancel" in request:
                stopped.add(request["cancel"])
            else:
                requests.put(request)
    finally:
        os._exit(0)


@lru_cache(maxsize=MODELS)
def _opened(model: str, step: int | None) -> LoadedModel:
    from hornbook.setup.model import open_model

    return open_model(model, step=step)


def _answer(do: str, model: str, step: int | None = None, **options: Any) -> Iterator[dict[str, Any]]:
    """The parts of one answer; `ModelProcess` lists what may be asked."""
    return ANSWERS[do](_opened(model, step), **options)


def _describe(opened: LoadedModel) -> Iterator[dict[str, Any]]:
    shape = opened.model.shape
    yield {
        "name": opened.name, "step": opened.step, "note": opened.note, "context": shape.context,
        "vocabulary": shape.vocabulary, "num_parameters": shape.parameters, "tokenizer": opened.tokenizer.kind,
    }  # fmt: skip


@lru_cache(maxsize=2 * MODELS)
def _view(opened: LoadedModel, text: str, top_k: int) -> dict[str, Any]:
    from hornbook.commands.inspect import inspect

    return inspect(opened, text, top_k=top_k).to_dict()


def _inspect(opened: LoadedModel, text: str, top_k: int = 5) -> Iterator[dict[str, Any]]:
    yield _view(opened, text, top_k)


def _softmax(opened: LoadedModel, text: str, token: int, top_k: int = 5) -> Iterator[dict[str, Any]]:
    from hornbook.evaluation.inspection import softmax_row

    tokens = _view(opened, text, top_k)["tokens"]
    if not 0 <= token < len(tokens) or tokens[token]["nats"] is None:
        raise InputError(f"token {token} was not scored: give one of 0 to {len(tokens) - 1} that has a probability.")
    yield softmax_row(tokens[token], opened.model.shape.vocabulary)


def _complete(
    opened: LoadedModel, prompts: list[str | list[int]], max_tokens: int = 16, n: int = 1, temperature: float = 1.0,
    top_k: int | None = None, top_p: float | None = None, min_p: float | None = None, seed: int = 0,
    stop: tuple[str, ...] = (), logprobs: int | None = None, echo: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Completion k of a prompt draws with `seed` + k; its index is that of the prompt, times `n`, plus k."""
    from hornbook.model.generate import Sampling
    from hornbook.setup.completion import completion, prompt_tokens

    sampling = Sampling(temperature, top_k, top_p, min_p)
    read = [_read_prompt(opened, prompt) for prompt in prompts]  # before the first word of an answer
    for number, (text, ids, hidden) in enumerate(read):
        asked = prompt_tokens(opened, ids, logprobs)[hidden:] if echo and logprobs is not None else []
        for k in range(n):
            pieces = completion(
                opened, ids, sampling, max_tokens=max_tokens, seed=seed + k, stop=stop, alternatives=logprobs,
                inside=bool(text),
            )  # fmt: skip
            index = number * n + k
            yield {"index": index, "text": text * echo, "tokens": asked, "prompt": len(ids) - hidden}
            for piece in pieces:
                yield {
                    "index": index, "text": piece.text, "finish": piece.finish, "num_tokens": piece.num_tokens,
                    "tokens": piece.tokens if logprobs is not None else [],
                }  # fmt: skip


def _read_prompt(opened: LoadedModel, prompt: str | list[int]) -> tuple[str, list[int], int]:
    """Its text, its ids, and how many of them are not the prompt's own: the token that stands before a document, where
    the tokenizer as others have it does not put it there. Ids are read as they are. Raises InputError."""
    from hornbook.setup.model import prompt_ids

    shape, tokenizer, hidden = opened.model.shape, opened.tokenizer, 0
    if isinstance(prompt, str):
        text, ids = prompt, prompt_ids(opened, prompt)
        hidden = 0 if tokenizer.around[0] else len(ids) - len(tokenizer.encode(prompt))
    elif min(prompt) >= 0 and max(prompt) < shape.vocabulary:
        text, ids = tokenizer.decode(prompt), prompt
    else:
        raise InputError(f"the prompt has ids that the model does not have: it has 0 to {shape.vocabulary - 1}.")
    if len(ids) > shape.context:
        raise InputError(f"the prompt has {len(ids):,} tokens, but the context only {shape.context:,}: shorten it.")
    return text, ids, hidden


def _copied(opened: LoadedModel, texts: list[str]) -> Iterator[dict[str, Any]]:
    probe = _copy_probe(opened)
    yield {"spans": [None if probe is None else probe.spans(opened.tokenizer, text) for text in texts]}


@lru_cache(maxsize=MODELS)
def _copy_probe(opened: LoadedModel) -> CopyProbe | None:
    from hornbook.evaluation.copying import CopyProbe
    from hornbook.setup.scoring import training_text

    prepared = None if opened.run is None else training_text(opened)
    if prepared is None or prepared.validation.num_tokens < 2:
        return None
    return CopyProbe(prepared.train, prepared.validation, opened.tokenizer, sample_tokens=opened.model.shape.context)


ANSWERS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "describe": _describe, "inspect": _inspect, "softmax": _softmax, "copied": _copied, "complete": _complete,
}  # fmt: skip

if __name__ == "__main__":
    main()
