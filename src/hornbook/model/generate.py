"""Continuing a text: logits -> one drawn token -> the next logits, streamed.

Beyond the context the window slides: when it is full, the last half of the context is read again from position 0 and
generation goes on from there. With or without the cache the same windows are read, so both give the same tokens.

Shape letters: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from hornbook.facts.errors import InputError
from hornbook.facts.settings import check_seed
from hornbook.model.decoder import Cache, Decoder

Decode = Callable[[Tensor], Tensor]  # one more token of each row (B, 1) -> logits (B, V); fills the cache


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. `None` switches a filter off; temperature 0 takes the most probable token.

    Applied in this order: temperature, top_k, top_p, min_p; probabilities are renormalised in between.
    Raises InputError when a value is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None  # keep the k most probable tokens
    top_p: float | None = None  # keep the fewest most probable tokens that together reach p (Holtzman et al. 2019)
    min_p: float | None = None  # keep the tokens at least min_p times as probable as the most probable one

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}, but must be 0 (greedy) or a positive number.")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}, but must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, but must be above 0 and at most 1.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}, but must be between 0 and 1.")


def probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that a token is drawn from, (B, V) in float64, rows summing to 1.

    Among equally probable tokens the lower id counts as the more probable one.

    >>> logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).log()
    >>> probabilities(logits, Sampling(top_k=2)).round(decimals=4).tolist()
    [[0.5714, 0.4286, 0.0, 0.0]]
    >>> probabilities(logits, Sampling(top_p=0.6)).round(decimals=4).tolist()  # 0.4 + 0.3 reach 0.6
    [[0.5714, 0.4286, 0.0, 0.0]]
    >>> probabilities(logits, Sampling(min_p=0.4)).round(decimals=4).tolist()
    [[0.4444, 0.3333, 0.2222, 0.0]]
    >>> probabilities(logits, Sampling(temperature=0)).tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    logits_BV = logits_BV.double()
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits_BV.argmax(-1), logits_BV.shape[-1]).double()
    # The greatest logit is taken off first: a tiny temperature would overflow otherwise.
    p_BV = ((logits_BV - logits_BV.amax(-1, keepdim=True)) / sampling.temperature).softmax(-1)
    if sampling.top_k is not None or sampling.top_p is not None:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        if sampling.top_k is not None:
            sorted_BV[:, sampling.top_k :] = 0
            sorted_BV /= sorted_BV.sum(-1, keepdim=True)
        if sampling.top_p is not None:
            before_BV = sorted_BV.cumsum(-1) - sorted_BV  # exactly 0 for the first, which is always kept
            sorted_BV = torch.where(before_BV < sampling.top_p, sorted_BV, 0.0)
        p_BV = torch.zeros_like(p_BV).scatter_(-1, order_BV, sorted_BV)
    if sampling.min_p is not None:
        p_BV = torch.where(p_BV >= sampling.min_p * p_BV.amax(-1, keepdim=True), p_BV, 0.0)
    return p_BV / p_BV.sum(-1, keepdim=True)


def draw(logits_BV: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """One token for each row, (B,), row b with `generators[b]`: one uniform number through the inverse of the
    cumulative distribution. Drawn on the CPU, so that the device does not show. Raises InputError for NaN logits.
    """
    if not logits_BV.amax(-1).isfinite().all():
        raise InputError("the model's logits are not numbers (NaN or infinite): its weights are damaged.")
    if sampling.temperature == 0:
        return logits_BV.argmax(-1).cpu()
    cumulative_BV = probabilities(logits_BV.cpu(), sampling).cumsum(-1)
    uniform_B1 = torch.stack([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    # Scaled by the last sum, which is 1 only up to rounding: the number drawn stays below it.
    return torch.searchsorted(cumulative_BV, uniform_B1 * cumulative_BV[:, -1:], right=True)[:, 0]


def generate(
    model: Decoder, prompt_ids: Sequence[int], *, max_tokens: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, min_p: float | None = None, seed: int = 0, stop_ids: Collection[int] = (),
    cache: bool = True, native: bool = False, int8: bool = False,
) -> Iterator[int]:  # fmt: skip
    """Yield up to `max_tokens` ids that continue `prompt_ids`; ends before an id of `stop_ids`, which is not yielded.

    Draws from its own generator: the same seed gives the same tokens, and no other randomness is touched. The model
    is used without dropout. `native`: decode with the kernel of `cpu/native.py` where it can be built, whose logits
    differ by rounding. `int8`: with weights of 8 bits, in the kernel or without.

    Raises InputError for an empty prompt, a prompt longer than the context (the caller keeps its last tokens), ids
    outside the vocabulary, and sampling values out of range.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p)
    drawn = generate_with_logits(
        model, prompt_ids, sampling, max_tokens=max_tokens, seed=seed, stop_ids=stop_ids, cache=cache, native=native,
        int8=int8,
    )  # fmt: skip
    return (token for token, _ in drawn)


def generate_with_logits(
    model: Decoder, prompt_ids: Sequence[int], sampling: Sampling, *, max_tokens: int, seed: int = 0,
    stop_ids: Collection[int] = (), cache: bool = True, native: bool = False, int8: bool = False,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """As `generate`, each id with the logits (V,) that it was drawn from, which the next step may overwrite."""
    check_seed(seed)
    ends = frozenset(stop_ids)
    prompt_BT = _checked(model, [list(prompt_ids)], max_tokens)
    kept = _cache(model, prompt_BT, max_tokens) if cache else None
    decode: Decode | None = None
    if (native and cache) or int8:
        from hornbook.model.cpu.native import native_decoder

        model, decode = native_decoder(model, kept, int8=int8)
    steps = _continue(model, prompt_BT, max_tokens, sampling, [torch.Generator().manual_seed(seed)], kept, decode)
    return takewhile(lambda drawn: drawn[0] not in ends, ((ids[0], logits_BV[0]) for ids, logits_BV in steps))


def generate_batch(
    model: Decoder, prompts: Sequence[Sequence[int]], *, max_tokens: int, seeds: Sequence[int] | None = None
) -> list[list[int]]:
    """Continue several prompts of one length together; row b is what `generate` gives with `seeds[b]` (default: b) at
    temperature 1.

    Equal to it up to the rounding of larger matrix products. Raises InputError as `generate`, and ValueError when the
    prompts differ in length.
    """
    prompts_BT = _checked(model, [list(prompt) for prompt in prompts], max_tokens)
    generators = [torch.Generator().manual_seed(seed) for seed in (range(len(prompts)) if seeds is None else seeds)]
    cache = _cache(model, prompts_BT, max_tokens)
    steps = [ids for ids, _ in _continue(model, prompts_BT, max_tokens, Sampling(), generators, cache)]
    return [[ids[row] for ids in steps] for row in range(len(prompts))]


def _checked(model: Decoder, prompts: list[list[int]], max_tokens: int) -> Tensor:
    """The prompts as a tensor (B, T); raises InputError or ValueError as `generate_batch` says."""
    shape = model.shape
    if max_tokens < 0:
        raise InputError(f"max_tokens is {max_tokens}, but must be 0 or more.")
    if not prompts or not all(prompts):
        raise InputError("the prompt is empty: give at least one token to continue.")
    if len({len(prompt) for prompt in prompts}) > 1:
        raise ValueError("prompts that are continued together must have the same number of tokens.")
    if len(prompts[0]) > shape.context:
        raise InputError(f"the prompt has {len(prompts[0])} tokens, but the context only {shape.context}: shorten it.")
    for token in (token for prompt in prompts for token in (min(prompt), max(prompt))):
        if not 0 <= token < shape.vocabulary:
            raise InputError(f"token {token} of the prompt is not in the model's vocabulary of {shape.vocabulary}.")
    return torch.tensor(prompts, dtype=torch.int64)


def _cache(model: Decoder, prompts_BT: Tensor, max_tokens: int) -> Cache:
    weight, capacity = model.embedding.weight, min(model.shape.context, prompts_BT.shape[1] + max_tokens)
    return Cache(model.shape, batch=len(prompts_BT), capacity=capacity, device=weight.device, dtype=weight.dtype)


def _continue(
    model: Decoder, read_BT: Tensor, max_tokens: int, sampling: Sampling, generators: list[torch.Generator],
    cache: Cache | None, decode: Decode | None = None,
) -> Iterator[tuple[list[int], Tensor]]:  # fmt: skip
    """Yield the next token of each row and the logits (B, V) it is drawn from, `max_tokens` times: the loop of
    generation."""
    device, context = model.embedding.weight.device, model.shape.context
    if cache is not None and device.type == "cuda" and not model.spread:
        from hornbook.model.graphed import graphed_decoder

        decode = graphed_decoder(model, cache, max_tokens)
    for _ in range(max_tokens):
        if read_BT.shape[1] > context:
            read_BT = read_BT[:, -max(1, context // 2) :]
            if cache is not None:
                cache.length = 0
        new_BT = read_BT if cache is None else read_BT[:, cache.length :]
        if decode is not None and new_BT.shape[1] == 1:
            logits_BV = decode(new_BT)
        else:
            logits_BV = _last_logits(model, new_BT.to(device), cache)
        next_B = draw(logits_BV, sampling, generators)
        read_BT = torch.cat([read_BT, next_B[:, None]], 1)
        yield next_B.tolist(), logits_BV


@torch.no_grad()
def _last_logits(model: Decoder, tokens_BT: Tensor, cache: Cache | None) -> Tensor:
    """Logits (B, V) after the last token, without dropout whatever mode the model is in."""
    drops = model.training and model.dropout > 0  # walking through the modules costs as much as a small layer
    if drops:
        model.eval()
    try:
        logits_BV: Tensor = model.head(model.hidden(tokens_BT, cache=cache)[:, -1])
    finally:
        if drops:
            model.train()
    return logits_BV
