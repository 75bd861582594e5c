"""The decoder, one for all families: tokens -> hidden states -> logits. It never computes a loss.

Shape letters: B sequences, T new tokens, S tokens attended to (cached and new), D width, H heads, K key/value heads,
W width of a head, V vocabulary. Weights are plain: `model.parameters()`, `block.mlp.down.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hornbook.facts.shape import GPTShape, RotaryScaling

FEW_ROWS = 32  # up to here a product is left to PyTorch's default,
LARGE, FEWEST_ROWS = 2**20, 3  # but of weights that leave a core's cache only up to here: sampling side by side


class Linear(nn.Linear):
    """x @ weight.T + bias, with the weights that memory holds until they are filled.

    Without a gradient, on a CPU and in float32, oneDNN multiplies: a tenth faster than PyTorch's default inside the
    blocks, up to twice as fast where the table of a vocabulary leaves the cache (decision 17).
    """

    def reset_parameters(self) -> None:
        """Nothing: random numbers that are overwritten take as long as a step of a small model."""

    def forward(self, x: Tensor) -> Tensor:
        few = FEW_ROWS if self.weight.numel() < LARGE else min(FEW_ROWS, FEWEST_ROWS)
        if not torch.is_grad_enabled() and x.numel() > few * self.in_features and self._can_use_onednn(x):
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return product
        return super().forward(x)

    def _can_use_onednn(self, x: Tensor) -> bool:
        on_cpu = self.weight.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return on_cpu and x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class Embedding(nn.Embedding):
    """Rows of `weight`, which is whatever memory holds until it is filled."""

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


def rotary_table(positions_T: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of each position and pair, both (T, W): computed when needed, never stored with the weights."""
    angles = positions_T.float()[:, None] * frequencies
    return torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)


def rotate(x_BHTW: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos_TW, sin_TW = rotary
    low, high = x_BHTW.chunk(2, -1)
    return torch.addcmul(x_BHTW * cos_TW, torch.cat([high, low], -1), sin_TW)


class KeysAndValues(Protocol):
    """Where attention leaves the keys and values of new tokens, and finds all so far."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


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
    """Causal self-attention with grouped queries."""

    def __init__(self, shape: GPTShape, dropout: float) -> None:
        super().__init__()
        kind, width = shape.kind, shape.width
        self.heads, self.kv_heads, self.head_width, self.dropout = (
            shape.heads, shape.kv_heads, shape.head_width, dropout,
        )  # fmt: skip
        self.query = Linear(width, shape.heads * shape.head_width, bias=kind.qkv_bias)
        self.key = Linear(width, shape.kv_heads * shape.head_width, bias=kind.qkv_bias)
        self.value = Linear(width, shape.kv_heads * shape.head_width, bias=kind.qkv_bias)
        self.output = Linear(shape.heads * shape.head_width, width, bias=kind.bias)
        self.query_norm = RMSNorm(shape.head_width, shape.norm_epsilon) if kind.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(shape.head_width, shape.norm_epsilon) if kind.qk_norm else nn.Identity()

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: KeysAndValues | None,
        layer: int,
    ) -> Tensor:  # fmt: skip
        q, k, v = self.project(x_BTD, rotary)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        mixed: Tensor = self.output(self.mix(q, k, v, mask).transpose(1, 2).flatten(2))
        return mixed

    def project(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, W), keys and values (B, K, T, W), normed and rotated."""
        B, T, _ = x_BTD.shape
        q = self.query_norm(self.query(x_BTD).view(B, T, self.heads, self.head_width)).transpose(1, 2)
        k = self.key_norm(self.key(x_BTD).view(B, T, self.kv_heads, self.head_width)).transpose(1, 2)
        v = self.value(x_BTD).view(B, T, self.kv_heads, self.head_width).transpose(1, 2)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return q, k, v

    def mix(self, q_BHTW: Tensor, k_BKSW: Tensor, v_BKSW: Tensor, mask: Tensor | None) -> Tensor:
        """Values mixed by attention, (B, H, T, W); causal where no mask says otherwise."""
        if mask is None and self._is_faster_in_products(q_BHTW, k_BKSW):
            return causal_mix(q_BHTW, k_BKSW, v_BKSW)
        return F.scaled_dot_product_attention(
            q_BHTW, k_BKSW, v_BKSW, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None and q_BHTW.shape[2] > 1, enable_gqa=self.kv_heads != self.heads,
        )  # fmt: skip

    def _is_faster_in_products(self, q: Tensor, k: Tensor) -> bool:
        """PyTorch's fused kernel computes bfloat16 on a CPU no faster than float32, products are three times as fast;
        a long context loses that to scores above the diagonal and in memory (decision 20)."""
        short = q.shape == k.shape and q.shape[2] <= 8 * self.head_width
        return short and torch.is_autocast_enabled("cpu") and q.device.type == "cpu" and not self.dropout


def causal_mix(q_BHTW: Tensor, k_BHTW: Tensor, v_BHTW: Tensor) -> Tensor:
    """Causal attention as two batched products, (B, H, T, W), with scores in the precision of autocast."""
    B, H, T, W = q_BHTW.shape
    later_TT = torch.full((T, T), -math.inf, device=q_BHTW.device).triu(1)
    q, k, v = (autocast(x).reshape(B * H, T, W) for x in (q_BHTW, k_BHTW, v_BHTW))
    scores = torch.baddbmm(later_TT, q, k.transpose(1, 2), alpha=1 / math.sqrt(W))
    return (scores.softmax(-1) @ v).view(B, H, T, W)


class MLP(nn.Module):
    """Two linear layers around an activation; a gate multiplies it in the gated families (Shazeer 2020)."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        bias = shape.kind.bias
        self.up = Linear(shape.width, shape.hidden, bias=bias)
        self.gate = Linear(shape.width, shape.hidden, bias=bias) if shape.kind.gated_mlp else None
        self.down = Linear(shape.hidden, shape.width, bias=bias)
        self.activation = shape.activation

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x) if self.gate is None else self.gate(x)
        in_place = not torch.is_grad_enabled()
        if self.activation == "silu":
            inner = F.silu(inner, inplace=in_place)
        else:
            inner = F.gelu(inner, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        if self.gate is not None:
            inner = inner.mul_(self.up(x)) if in_place else inner * self.up(x)
        out: Tensor = self.down(inner)
        return out


Compute = Callable[[Tensor, tuple[Tensor, Tensor] | None, Tensor | None], Tensor]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-norm, as GPT-2 and all after it."""

    def __init__(self, shape: GPTShape, dropout: float) -> None:
        super().__init__()
        self.attention_norm = make_norm(shape, shape.width)
        self.attention = Attention(shape, dropout)
        self.mlp_norm = make_norm(shape, shape.width)
        self.mlp = MLP(shape)
        self.dropout = dropout
        self.compiled: Compute | None = None  # `compute`, compiled for the one shape of training

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: KeysAndValues | None,
        layer: int,
    ) -> Tensor:  # fmt: skip
        if self.compiled is not None and cache is None and torch.is_grad_enabled():
            return self.compiled(x, rotary, mask)
        return self.compute(x, rotary, mask, cache, layer)

    def compute(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Tensor | None,
        cache: KeysAndValues | None = None, layer: int = 0,
    ) -> Tensor:  # fmt: skip
        x = x + self._drop(self.attention(autocast(self.attention_norm(x)), rotary, mask, cache, layer))
        return x + self._drop(self.mlp(autocast(self.mlp_norm(x))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Head(nn.Module):
    """Hidden states -> logits: the last norm and the projection onto the vocabulary."""

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.norm = make_norm(shape, shape.width)
        self.projection = Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.projection(self.norm(hidden))
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
        self.differentiate: Callable[[Tensor, Tensor, int], Tensor] | None = None  # compiled, of `model.compiled`
        self.frequencies: Tensor | None = None  # of the rotary table, once they are on the model's device
        self.recompute = False  # in training, keep only each block's input and compute the rest again when needed

    def hidden(self, tokens_BT: Tensor, *, documents_BT: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Hidden states (B, T, D) before the last norm.

        `documents_BT` numbers the document of each token: attention then never crosses a document. With a `cache`
        the tokens continue the sequence it holds. Raises ValueError beyond the context where positions are learned.
        """
        start = cache.length if cache is not None else 0
        T = tokens_BT.shape[1]
        self.check_length(start + T)
        x, rotary = self.embed(tokens_BT, torch.arange(start, start + T, device=tokens_BT.device))
        if (
            x.device.type != "cpu"
        ):  # what flows between the blocks is read and written far more often than computed with
            x = autocast(x)
        mask = attention_mask(T, start, documents_BT, tokens_BT.device)
        for layer, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled():
                from torch.utils.checkpoint import checkpoint

                x = checkpoint(
                    block, x, rotary, mask, cache, layer, use_reentrant=False, preserve_rng_state=self.dropout > 0
                )
            else:
                x = block(x, rotary, mask, cache, layer)
        if cache is not None:
            cache.length += T
        return x

    def check_length(self, length: int) -> None:
        """Raise ValueError where positions are learned and `length` tokens are more than the context."""
        if self.positions is not None and length > self.shape.context:
            raise ValueError(f"{length} tokens do not fit the context of {self.shape.context}.")

    def embed(self, tokens_BT: Tensor, positions_T: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
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

    def forward(self, tokens_BT: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(tokens_BT))
        return logits


def attention_mask(T: int, start: int, documents_BT: Tensor | None, device: torch.device) -> Tensor | None:
    """Which of S = start + T tokens each new token attends to: None where plain causality says it all.

    (T, S) with a cache, (B, 1, T, T) with documents; True is attended to.
    """
    if documents_BT is not None:
        same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
        return (same_BTT & torch.ones(T, T, dtype=torch.bool, device=device).tril())[:, None]
    if start and T > 1:
        return torch.ones(T, start + T, dtype=torch.bool, device=device).tril(start)
    return None
