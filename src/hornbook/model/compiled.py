"""What makes an accelerator fast in training: blocks compiled for the one shape of a step, and the head in few, large
chunks. Deleting it changes nothing but speed and rounding.

Only what records gradients is compiled. Evaluation and samples stay eager: their many shapes would be compiled again
and again, and a resumed run, which has not seen them yet, would train with other kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hornbook.data.packing import IGNORE
from hornbook.facts.limits import COMPILED_LOGITS_BYTES
from hornbook.likelihood import Head
from hornbook.model.decoder import Decoder, autocast

EAGER_LOGITS_BYTES = 2**27  # of a chunk, where float32 copies of them stand beside them
ALIGNED = 64  # columns of a table: products with an odd number of them take two to three times as long

Differentiate = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Compiled:
    """What training calls in place of a model's blocks, and of `differentiate_`."""

    blocks: Sequence[Callable[..., Tensor]]
    differentiate: Differentiate


def compile_training(model: Decoder) -> None:
    """Compile what training computes in each block, and what turns logits into their gradient."""
    torch.compiler.reset()  # of the models before it: only so many shapes are kept, for all of them together
    blocks = [torch.compile(block.forward, dynamic=False, fullgraph=True) for block in model.blocks]
    model.compiled = Compiled(blocks, torch.compile(differentiate_, dynamic=False, fullgraph=True))


def differentiate_(logits_NV: Tensor, targets_N: Tensor, vocabulary: int) -> Tensor:
    """The sum of nats, (); the gradient of that sum takes the place of `logits_NV`, whose columns from `vocabulary` on
    only align the table. Computed in float32, whatever the logits are in."""
    columns_V = torch.arange(logits_NV.shape[1], device=logits_NV.device)
    logits = logits_NV.float().masked_fill(columns_V >= vocabulary, -torch.inf)
    scored_N = targets_N != IGNORE
    target_N = targets_N.where(scored_N, 0)
    log_sum_N = logits.logsumexp(-1)
    nats_N = (log_sum_N - logits.gather(1, target_N[:, None])[:, 0]).where(scored_N, 0.0)
    gradient = (logits - log_sum_N[:, None]).exp() - (columns_V == target_N[:, None]).float()
    logits_NV.copy_(gradient.where(scored_N[:, None], 0.0))
    return nats_N.sum()


def sum_nats_in_large_chunks(model: Decoder, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """As `likelihood.sum_nats`, to rounding: a float32 scalar, to be differentiated once."""
    head: Head = model.head
    x_ND = autocast(head.norm(hidden_ND))
    most = EAGER_LOGITS_BYTES if model.compiled is None else COMPILED_LOGITS_BYTES
    differentiate = differentiate_ if model.compiled is None else model.compiled.differentiate
    rows = equal_chunk_rows(len(x_ND), model.shape.vocabulary, most // x_ND.itemsize)
    total: Tensor = _LargeFusedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        x_ND, head.projection.weight, targets_N, rows, differentiate
    )
    return total


class _LargeFusedCrossEntropy(torch.autograd.Function):
    """`likelihood._FusedCrossEntropy` with one aligned table in the precision of the products for all chunks."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, rows: int, differentiate: Differentiate
    ) -> Tensor:
        vocabulary = len(weight_VD)
        table = F.pad(weight_VD.to(x_ND.dtype), (0, 0, 0, -vocabulary % ALIGNED))
        total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        x_grad = torch.empty_like(x_ND)
        table_grad = torch.zeros(table.shape, dtype=torch.float32, device=x_ND.device)
        for start in range(0, len(x_ND), rows):
            x, targets = x_ND[start : start + rows], targets_N[start : start + rows]
            with torch.autocast(x.device.type, enabled=False):
                logits = x @ table.t()
                total += differentiate(logits, targets, vocabulary)
                torch.mm(logits, table, out=x_grad[start : start + rows])
                table_grad += logits.t() @ x
            del logits
        ctx.save_for_backward(x_grad, table_grad[:vocabulary].to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        x_grad, weight_grad = ctx.saved_tensors
        return x_grad.mul_(scale), weight_grad.mul_(scale), None, None, None


def equal_chunk_rows(positions: int, vocabulary: int, most_logits: int) -> int:
    """Rows of equal chunks of at most `most_logits` logits, a multiple of 64.

    >>> equal_chunk_rows(32_768, 50_257, 2**29), equal_chunk_rows(100, 50_257, 2**29)
    (8192, 128)
    """
    most = max(64, most_logits // vocabulary)
    chunks = -(-positions // most)
    return -(-positions // (chunks * 64)) * 64
