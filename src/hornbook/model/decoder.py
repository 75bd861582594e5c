"""The decoder, one for all families: tokens -> hidden states -> logits. It never computes a loss.

Shape letters: B sequences, T new tokens, S tokens attended to (cached and new), D width, H heads, K key/value heads,
W width of a head, V vocabulary. Weights are plain: `model.parameters()`, `block.mlp.down.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hornbook.facts.shape import GPTShape, RotaryScaling
from hornbook.model.cpu import functional as fast

if TYPE_CHECKING:
    from hornbook.model.compiled import Compiled

Rotary = tuple[Tensor, Tensor]  # cos and sin, each (T, W)
Score = Callable[[Tensor], Tensor]  # hidden states -> what is asked of them, by means of the head
Append = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # keys and values of new tokens -> of all so far


class Linear(nn.Linear):
    """x @ weight.T + bias: nn.Linear, left uninitialised."""

    def reset_parameters(self) -> None:
        """Nothing: random numbers that are overwritten take as long as a step of a small model."""

    def forward(self, x: Tensor) -> Tensor:
        return fast.linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """nn.Embedding, left uninitialised."""

    def reset_parameters(self) -> None:
        """Nothing, as in `Linear`."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019). Computed in float32 whatever the input."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.to(self.weight.dtype), (x.shape[-1],), self.weight, self.epsilon)


def make_norm(shape: GPTShape, width: int) -> nn.Module:
    if shape.kind.norm == "layer":
        return nn.LayerNorm(width, eps=shape.norm_epsilon)
    return RMSNorm(width, shape.norm_epsilon)


def rotary_frequencies(width: int, base: float, scaling: RotaryScaling | None) -> Tensor:
    """Radians per position of each pair of features, (W/2,) float32 (Su et al. 2021, equation 15).

    `llama3` keeps the fast frequencies, divides the slow ones by the factor and blends between (Llama 3.1).
    """
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    blend = ((scaling.original_context / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies


def rotary_table(positions_T: Tensor, frequencies: Tensor) -> Rotary:
    """cos and sin of each position and pair, both (T, W): computed when needed, never stored with the weights."""
    angles = positions_T.float()[:, None] * frequencies
    return torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)


def rotate(x_BHTW: Tensor, rotary: Rotary) -> Tensor:
    """Features j and j + W/2 turned by the angle of their pair (Su et al. 2021, equation 34)."""
    cos_TW, sin_TW = rotary
    low, high = x_BHTW.chunk(2, -1)
    return torch.addcmul(x_BHTW * cos_TW, torch.cat([high, low], -1), sin_TW)


class Cache:
    """Keys and values of `length` tokens for each layer, (batch, kv_heads, capacity, head_width), filled in place."""

    def __init__(
        self, shape: GPTShape, *, batch: int, capacity: int, device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        size = (shape.layers, 2, batch, shape.kv_heads, capacity, shape.head_width)
        self.store = torch.empty(size, device=device, dtype=dtype)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new (batch, kv_heads, T, head_width) keys and values; return all so far. `length` moves later."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, not {end}.")
        store = self.store[layer]
        store[0, :, :, self.length : end] = keys
        store[1, :, :, self.length : end] = values
        return store[0, :, :, :end], store[1, :, :, :end]


def autocast(x: Tensor) -> Tensor:
    """`x` in the precision of autocast, once for all products that it enters, if autocast is on."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, section 3.2.2) with grouped queries (Ainslie et al. 2023)."""

    def __init__(self, shape: GPTShape, dropout: float) -> None:
        super().__init__()
        width, bias = shape.width, shape.kind.qkv_bias
        self.head_width, self.dropout = shape.head_width, dropout
        self.query = Linear(width, shape.heads * shape.head_width, bias=bias)
        self.key = Linear(width, shape.kv_heads * shape.head_width, bias=bias)
        self.value = Linear(width, shape.kv_heads * shape.head_width, bias=bias)
        self.output = Linear(shape.heads * shape.head_width, width, bias=shape.kind.bias)
        self.query_norm = RMSNorm(shape.head_width, shape.norm_epsilon) if shape.kind.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(shape.head_width, shape.norm_epsilon) if shape.kind.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, rotary: Rotary | None, mask: Tensor | None, append: Append | None) -> Tensor:
        q, k, v = self.project(x_BTD, rotary)
        if append is not None:
            k, v = append(k, v)
        mixed: Tensor = self.output(self.mix(q, k, v, mask).transpose(1, 2).flatten(2))
        return mixed

    def project(self, x_BTD: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, W), keys and values (B, K, T, W), normed and rotated."""
        size = (*x_BTD.shape[:2], -1, self.head_width)
        q = self.query_norm(self.query(x_BTD).view(size)).transpose(1, 2)
        k = self.key_norm(self.key(x_BTD).view(size)).transpose(1, 2)
        v = self.value(x_BTD).view(size).transpose(1, 2)
        return (q, k, v) if rotary is None else (rotate(q, rotary), rotate(k, rotary), v)

    def mix(self, q_BHTW: Tensor, k_BKSW: Tensor, v_BKSW: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q k^T / sqrt(W)) v, (B, H, T, W); causal where no mask, as of `attention_mask`, says otherwise."""
        if mask is not None and mask.dim() == 1:
            from hornbook.model.packed import attention

            return attention(q_BHTW, k_BKSW, v_BKSW, mask)
        return fast.attention(q_BHTW, k_BKSW, v_BKSW, mask, self.dropout if self.training else 0.0)


class MLP(nn.Module):
    """Two linear layers around an activation; a gate multiplies it in the gated families (Shazeer 2020)."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        bias = shape.kind.bias
        self.up = Linear(shape.width, shape.hidden, bias=bias)
        self.gate = Linear(shape.width, shape.hidden, bias=bias) if shape.kind.gated_mlp else None
        self.down = Linear(shape.hidden, shape.width, bias=bias)
        self.activate = ACTIVATIONS[shape.activation or "silu"]

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activate(self.up(x) if self.gate is None else self.gate(x))
        out: Tensor = self.down(inner if self.gate is None else fast.multiply(inner, self.up(x)))
        return out


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": fast.silu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh"),
}  # fmt: skip


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-norm, as GPT-2 and all after it."""

    def __init__(self, shape: GPTShape, dropout: float) -> None:
        super().__init__()
        self.attention_norm = make_norm(shape, shape.width)
        self.attention = Attention(shape, dropout)
        self.mlp_norm = make_norm(shape, shape.width)
        self.mlp = MLP(shape)
        self.dropout = dropout

    def forward(self, x: Tensor, rotary: Rotary | None, mask: Tensor | None, append: Append | None = None) -> Tensor:
        x = x + self._drop(self.attention(autocast(self.attention_norm(x)), rotary, mask, append))
        return x + self._drop(self.mlp(autocast(self.mlp_norm(x))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Head(nn.Module):
    """Hidden states -> logits: the last norm and the projection onto the vocabulary."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.norm = make_norm(shape, shape.width)
        self.projection = Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, hidden: Tensor, score: Score | None = None) -> Tensor:
        """Logits, or what `score` makes of the hidden states. It is called here so that weights that lie on several
        processes are together while it computes."""
        logits: Tensor = self.projection(self.norm(hidden)) if score is None else score(hidden)
        return logits


class Decoder(nn.Module):
    """tokens (B, T) int64 -> logits (B, T, V), in two named halves: `hidden` and `head`.

    The weights are whatever memory holds until `initialise` or a file fills them.
    """

    def __init__(self, shape: GPTShape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = Embedding(shape.vocabulary, shape.width)
        self.positions = Embedding(shape.context, shape.width) if shape.kind.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))
        self.head = Head(shape)
        if shape.tied:
            self.head.projection.weight = self.embedding.weight
        self.dropout = dropout
        self.compiled: Compiled | None = None  # by `compile_training`
        self.frequencies: Tensor | None = None  # of the rotary table, once they are on the model's device
        self.spread = False  # whether its weights are spread over processes, which meet where its modules are called
        self.recompute = False  # in training, keep only each block's input and compute the rest again when needed

    def hidden(self, tokens_BT: Tensor, *, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Hidden states (B, T, D) before the last norm.

        Attention never crosses `documents`: the number of each token's, (B, T), or where they begin, as in `packed.py`.
        With a `cache` the tokens continue what it holds. Raises ValueError beyond the context of learned positions.
        """
        start, T = 0 if cache is None else cache.length, tokens_BT.shape[1]
        self.check_length(start + T)
        x, rotary = self.embed(tokens_BT, torch.arange(start, start + T, device=tokens_BT.device))
        if x.device.type != "cpu":  # the residual stream is read and written far more often than computed with
            x = autocast(x)
        mask = attention_mask(T, start, documents, tokens_BT.device)
        trains = torch.is_grad_enabled() and cache is None
        blocks: Iterable[Callable[..., Tensor]] = self.compiled.blocks if self.compiled and trains else self.blocks
        for layer, block in enumerate(blocks):
            append = None if cache is None else partial(cache.append, layer)
            if self.recompute and torch.is_grad_enabled():
                from torch.utils.checkpoint import checkpoint

                x = checkpoint(block, x, rotary, mask, append, use_reentrant=False, preserve_rng_state=self.dropout > 0)
            else:
                x = block(x, rotary, mask, append)
        if cache is not None:
            cache.length += T
        return x

    def check_length(self, length: int) -> None:
        """Raise ValueError where positions are learned and `length` tokens are more than the context."""
        if self.positions is not None and length > self.shape.context:
            raise ValueError(f"{length} tokens do not fit the context of {self.shape.context}.")

    def embed(self, tokens_BT: Tensor, positions_T: Tensor) -> tuple[Tensor, Rotary | None]:
        """What enters the first block, (B, T, D), and the rotary table, None where positions are learned."""
        x: Tensor = self.embedding(tokens_BT)
        if self.positions is None:
            shape = self.shape
            if self.frequencies is None or self.frequencies.device != x.device:
                frequencies = rotary_frequencies(shape.head_width, shape.rope_base, shape.rope_scaling)
                self.frequencies = frequencies.to(x.device)
            cos, sin = rotary_table(positions_T, self.frequencies)
            return x, (cos.to(x.dtype), sin.to(x.dtype))
        x = x + self.positions(positions_T)
        return (F.dropout(x, self.dropout, self.training) if self.dropout else x), None

    def forward(self, tokens_BT: Tensor, *, documents: Tensor | None = None, score: Score | None = None) -> Tensor:
        logits: Tensor = self.head(self.hidden(tokens_BT, documents=documents), score)
        return logits


def attention_mask(T: int, start: int, documents: Tensor | None, device: torch.device) -> Tensor | None:
    """Which of S = start + T tokens each new token attends to: None where plain causality says it all.

    (T, S) with a cache, (B, 1, T, T) with documents; True is attended to. Where they begin, (N + 1,), stays what it is.
    """
    if documents is None or documents.dim() == 1:
        return torch.ones(T, start + T, dtype=torch.bool, device=device).tril(start) if start and T > 1 else documents
    same_BTT = documents[:, :, None] == documents[:, None, :]
    return (same_BTT & torch.ones(T, T, dtype=torch.bool, device=device).tril())[:, None]
