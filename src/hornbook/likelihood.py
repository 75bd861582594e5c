"""Logits -> nats -> loss, perplexity, bits per byte. The heart: every loss that is reported comes through here.

The six steps, each visible: logits -> softmax probabilities -> probability of the target -> its log -> the mean ->
the negative mean, which is the cross-entropy. Summed over tokens, the negative logs are nats; `Surprise` keeps the
sum and the counts apart, so that what is merged is exact and means exist only where they are printed.

Shape letters: B sequences, T tokens, N = B*T positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hornbook.data.packing import IGNORE
from hornbook.facts.limits import LOGITS_BYTES

CACHED_BYTES = 2 * 2**20  # 8 rows of logits, or what fits here in float64, are raised at once: they stay in the cache


def token_nats(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Nats -ln p(target) of each position, (N,); 0 where the target is IGNORE.

    Half-precision logits are raised to float32 first; float64 logits give float64 nats.

    >>> uniform = torch.zeros(2, 50)  # a model that knows nothing is as surprised as its vocabulary is large
    >>> token_nats(uniform, torch.tensor([3, IGNORE])).exp().round(decimals=3).tolist()
    [50.0, 1.0]
    """
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE, reduction="none")


def chunk_rows(vocabulary: int, *, bytes_per_logit: int = 4) -> int:
    """How many positions' logits fit into LOGITS_BYTES: a multiple of 64, for the matrix products' sake."""
    return max(64, LOGITS_BYTES // (vocabulary * bytes_per_logit) // 64 * 64)


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64; Apple's GPUs and some of Intel's do not."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def head_logits(head: Callable[[Tensor], Tensor], hidden_ND: Tensor, vocabulary: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield (which positions, their logits in float64, (n, V)) in chunks, so that all logits never exist at once; on
    the CPU where the device has no float64.

    For evaluation (no gradient). The head always sees the same number of rows, the last chunk padded with zeros:
    the bits of a matrix product depend on its number of rows, and so the grouping of the input cannot show. The
    logits are overwritten by the next: what is taken from them must be copied.
    """
    # A power of two, as positions mostly come. More rows than these are not faster (decision 17).
    on_cpu = hidden_ND.device.type == "cpu"
    rows = min(256 if on_cpu else 1024, 1 << chunk_rows(vocabulary, bytes_per_logit=8).bit_length() - 1)
    raised = max(8, CACHED_BYTES // (vocabulary * 8)) if on_cpu else rows
    # One piece of memory for all: glibc's malloc does not find a freed one again for the next of its size.
    doubles: Tensor | None = None
    for start in range(0, len(hidden_ND), rows):
        hidden = hidden_ND[start : start + rows]
        logits = head(F.pad(hidden, (0, 0, 0, rows - len(hidden))))[: len(hidden)]
        if doubles is None:
            where = logits.device if has_float64(logits.device) else "cpu"
            doubles = torch.empty((raised, logits.shape[-1]), dtype=torch.float64, device=where)
        for first in range(0, len(logits), raised):
            part = logits[first : first + raised]
            yield slice(start + first, start + first + len(part)), doubles[: len(part)].copy_(part.to(doubles.device))
        del logits, part  # before the next are made


class Head(Protocol):
    """The last norm and the projection onto the vocabulary, a matrix without bias."""

    __call__: Callable[..., Any]

    @property
    def norm(self) -> nn.Module: ...
    @property
    def projection(self) -> nn.Linear: ...


class _FusedCrossEntropy(torch.autograd.Function):
    """Sum of nats, whose gradients are made chunk by chunk during the forward pass.

    d nats / d logits = p - 1[target], so each chunk's gradients are there as soon as its logits are, in the same
    memory; then the logits are dropped. Peak memory is one chunk instead of (N, V), and nothing is computed twice.
    """

    @staticmethod
    def forward(ctx, head, x_ND, weight_VD, targets_N, rows):  # type: ignore[no-untyped-def]
        total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        x_grad, weight_grad = torch.empty_like(x_ND), torch.zeros_like(weight_VD)
        for start in range(0, len(targets_N), rows):
            x, targets = x_ND[start : start + rows], targets_N[start : start + rows]
            logits = head.projection(x)
            dtype, scored = logits.dtype, targets != IGNORE
            log_p = logits.float().log_softmax(-1)
            del logits
            target = targets.where(scored, 0)[:, None]
            total -= log_p.gather(1, target)[:, 0].where(scored, 0.0).sum()
            gradient = log_p.exp_().scatter_add_(1, target, -torch.ones_like(target, dtype=log_p.dtype))
            gradient = gradient.masked_fill_(~scored[:, None], 0.0).to(dtype)
            x_grad[start : start + rows] = gradient @ weight_VD.to(dtype)
            if dtype == weight_grad.dtype:
                weight_grad.addmm_(gradient.t(), x)
            else:
                weight_grad += gradient.t() @ x.to(dtype)
        ctx.save_for_backward(x_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx, scale):  # type: ignore[no-untyped-def]
        x_grad, weight_grad = ctx.saved_tensors
        return None, x_grad.mul_(scale), weight_grad.mul_(scale), None, None


def sum_nats(head: Head, hidden_ND: Tensor, targets_N: Tensor, vocabulary: int) -> Tensor:
    """Sum of nats over the positions whose target is not IGNORE, a float32 scalar to be differentiated.

    Logits are made and differentiated in chunks of at most LOGITS_BYTES. The gradient can be taken once.
    """
    total: Tensor = _FusedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        head, head.norm(hidden_ND), head.projection.weight, targets_N, chunk_rows(vocabulary)
    )
    return total


@dataclass(frozen=True)
class Surprise:
    """Total nats over `num_tokens` scored tokens that spell `num_bytes` bytes of text. Adds exactly.

    >>> a = Surprise(math.log(8) * 2, 2, 6) + Surprise(math.log(8), 1, 3)
    >>> round(a.perplexity, 9), round(a.bits_per_byte, 9)
    (8.0, 1.0)
    """

    nats: float
    num_tokens: int
    num_bytes: int

    def __add__(self, other: Surprise) -> Surprise:
        return Surprise(
            math.fsum((self.nats, other.nats)), self.num_tokens + other.num_tokens, self.num_bytes + other.num_bytes
        )

    @property
    def loss(self) -> float:
        """Mean nats per scored token: the cross-entropy, the negative average log-probability."""
        return self.nats / self.num_tokens

    @property
    def perplexity(self) -> float:
        """The effective number of tokens the model hesitates between: exp(loss)."""
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """nats / (ln 2 x bytes): the only one of the three that is comparable across tokenizers."""
        return self.nats / (math.log(2) * self.num_bytes)


def perplexity(loss_nats_per_token: float) -> float:
    """exp(loss); infinite where a float cannot hold it.

    >>> round(perplexity(10.7940), 1)
    48727.6
    """
    return math.exp(loss_nats_per_token) if loss_nats_per_token < 709.0 else math.inf


def six_steps(logits_NV: Tensor, targets_N: Tensor) -> dict[str, Tensor]:
    """The six steps from logits to loss, each as a tensor in float64, written out rather than fused.

    `logits` (N, V) -> `probabilities` (N, V) -> `target_probabilities` (N,) -> `log_probabilities` (N,) ->
    `mean_log_probability` () -> `cross_entropy` ().

    The book's two sequences of three tokens, from their target probabilities:

    >>> p = torch.tensor([7.4541e-05, 3.1061e-05, 1.1563e-05, 1.0337e-05, 5.6776e-05, 4.7559e-06], dtype=torch.float64)
    >>> logits = torch.stack([p, 1 - p], 1).log()  # any logits whose softmax gives p to the target
    >>> steps = six_steps(logits, torch.zeros(6, dtype=torch.int64))
    >>> f"{steps['mean_log_probability'].item():.4f} {steps['cross_entropy'].exp().item():,.0f}"
    '-10.7940 48,725'
    """
    logits = logits_NV.double()
    probabilities = logits.softmax(-1)
    target_probabilities = probabilities.gather(-1, targets_N[:, None])[:, 0]
    # log p from the logits, not from p: a probability too small for a float still has a logarithm.
    log_probabilities = logits.gather(-1, targets_N[:, None])[:, 0] - logits.logsumexp(-1)
    mean = log_probabilities.mean()
    return {
        "logits": logits,
        "probabilities": probabilities,
        "target_probabilities": target_probabilities,
        "log_probabilities": log_probabilities,
        "mean_log_probability": mean,
        "cross_entropy": -mean,
    }
