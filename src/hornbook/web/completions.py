"""OpenAI's /v1/completions as a model's process is asked and answers: their JSON in, their JSON out. Torch-free."""

from __future__ import annotations

import re
import secrets
import time
from typing import Annotated, Any

import msgspec

from hornbook.facts.errors import InputError, SystemFailure, suggestion
from hornbook.web.model_process import Busy

MOST_COMPLETIONS = 256  # of one request, its prompts times n
NOTHING_ASKED: dict[str, tuple[Any, ...]] = {  # fields that are not supported, and their values that ask for nothing
    "best_of": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "suffix": ("",),
}  # fmt: skip
LEAST_LOG_PROBABILITY = -9999.0  # OpenAI's, for what has none: JSON has no infinity

_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    include_usage: bool = False


class CompletionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The fields that are supported; null is the default. `top_k` and `min_p` are not OpenAI's, but vLLM's."""

    prompt: Any
    model: str | None = None
    max_tokens: _Count = 16
    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_COMPLETIONS)] = 1
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] = ""
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    echo: bool = False
    user: str | None = None  # whose request it is; nothing depends on it

    @property
    def prompts(self) -> list[str | list[int]]:
        is_one = isinstance(self.prompt, str) or (bool(self.prompt) and isinstance(self.prompt[0], int))
        return [self.prompt] if is_one else self.prompt

    def asked(self) -> dict[str, Any]:
        """As `ModelProcess.stream` takes it."""
        words = [self.stop] if isinstance(self.stop, str) else self.stop
        return {
            "do": "complete", "prompts": self.prompts, "max_tokens": self.max_tokens, "n": self.n,
            "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p,
            "seed": secrets.randbits(31) if self.seed is None else self.seed, "stop": words,
            "logprobs": self.logprobs, "echo": self.echo,
        }  # fmt: skip


class NotAnswered(Exception):
    """A request that is not answered: the HTTP status and what OpenAI's error object says."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's error object."""
        names = {404: "not_found_error", 429: "rate_limit_error"}
        kind = names.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def read_request(body: bytes, model: str) -> CompletionRequest:
    """The request in `body` for the model served as `model`. Raises NotAnswered, which names the field."""
    try:
        fields = {key: value for key, value in msgspec.json.decode(body, type=dict).items() if value is not None}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAnswered(f"the body is not a JSON object ({error}).") from None
    for name, neutral in NOTHING_ASKED.items():
        if name in fields and (value := fields.pop(name)) not in neutral:
            raise NotAnswered(f"{name} is not supported: leave it out (it is {value!r:.60}).", param=name)
    allowed = [field.name for field in msgspec.structs.fields(CompletionRequest)]
    for name in fields.keys() - {*allowed}:
        raise NotAnswered(
            f"{name} is not supported{suggestion(name, allowed)}: there is {', '.join(allowed)}.", param=name
        )
    if "prompt" not in fields:
        raise NotAnswered("give a prompt.", param="prompt")
    try:
        request = msgspec.convert(fields, CompletionRequest)
    except msgspec.ValidationError as error:
        problem, _, name = str(error).partition(" - at `$.")
        name = name.rstrip("`")
        raise NotAnswered(f"{name}: {problem[0].lower()}{problem[1:]}.", param=re.split(r"[.\[]", name)[0]) from None
    _check_prompts(request.prompt)
    if request.model not in (None, model):
        message = f"there is no model {request.model!r:.80}: {model!r} is served."
        raise NotAnswered(message, param="model", status=404, code="model_not_found")
    if len(request.prompts) * request.n > MOST_COMPLETIONS:
        raise NotAnswered(f"prompts times n is at most {MOST_COMPLETIONS}.", param="n")
    return request


def _check_prompts(prompt: Any) -> None:
    def is_ids(value: Any) -> bool:
        return bool(value) and isinstance(value, list) and all(type(number) is int for number in value)

    is_many = isinstance(prompt, list) and bool(prompt) and all(isinstance(one, str) or is_ids(one) for one in prompt)
    if not (isinstance(prompt, str) or is_ids(prompt) or is_many):
        raise NotAnswered("prompt is a text, a list of texts, a list of token ids, or a list of those.", param="prompt")


class Answer:
    """What a request was answered so far: parts of the model's process -> OpenAI's objects."""

    def __init__(self, request: CompletionRequest, model: str) -> None:
        self.request = request
        self.choices: dict[int, dict[str, Any]] = {}
        self.num_tokens = {"prompt": dict[int, int](), "completion": dict[int, int]()}
        self._begun: dict[int, int] = {}  # by index, the characters before what is written: the echo's
        self._head = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def chunk(self, part: dict[str, Any]) -> dict[str, Any]:
        """A part as a chunk of a stream; it is counted and kept for `whole`."""
        index = part["index"]
        if "prompt" in part:  # of n completions the prompt is counted once
            self.num_tokens["prompt"][index // self.request.n] = part["prompt"]
            self._begun[index] = 0
        else:
            self.num_tokens["completion"][index] = part["num_tokens"]
        logprobs = None if self.request.logprobs is None else self._logprobs(part["tokens"], self._begun[index])
        if "prompt" in part:
            self._begun[index] = len(part["text"])
        choice = {"index": index, "text": part["text"], "logprobs": logprobs, "finish_reason": part.get("finish")}
        if (so_far := self.choices.setdefault(index, choice)) is not choice:
            so_far["text"] += choice["text"]
            so_far["finish_reason"] = choice["finish_reason"]
            for key, values in (logprobs or {}).items():
                so_far["logprobs"][key] = so_far["logprobs"][key] + values
        return self._object([dict(choice)])

    def whole(self) -> dict[str, Any]:
        """The answer of a request that is not streamed."""
        return self._object([self.choices[index] for index in sorted(self.choices)]) | {"usage": self._usage()}

    def last(self) -> dict[str, Any]:
        """The chunk with the usage that ends a stream."""
        return self._object([]) | {"usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        counts = {f"{name}_tokens": sum(numbers.values()) for name, numbers in self.num_tokens.items()}
        return counts | {"total_tokens": sum(counts.values())}

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "text_completion", "choices": choices}

    def _logprobs(self, tokens: list[dict[str, Any]], before: int) -> dict[str, list[Any]]:
        """Beside the most probable tokens stands the token itself, as OpenAI has it."""
        top: list[dict[str, float] | None] = []
        for token in tokens:
            if token["alternatives"] is None:
                top.append(None)
                continue
            names = {other["text"]: _finite(other["log_probability"]) for other in reversed(token["alternatives"])}
            top.append(dict(reversed(names.items())) | {token["text"]: _finite(token["log_probability"])})
        return {
            "tokens": [token["text"] for token in tokens],
            "token_logprobs": [_finite(token["log_probability"]) for token in tokens],
            "top_logprobs": top,
            "text_offset": [before + token["offset"] for token in tokens],
        }


def _finite(log_probability: float | None) -> float | None:
    return None if log_probability is None else max(log_probability, LEAST_LOG_PROBABILITY)


def in_openais_words(error: InputError | SystemFailure | Busy) -> NotAnswered:
    """An error of the model's process."""
    if isinstance(error, Busy):
        return NotAnswered(str(error), status=429, code="rate_limit_exceeded")
    return NotAnswered(str(error), status=400 if isinstance(error, InputError) else 500)
