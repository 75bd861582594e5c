"""torch.nn.functional for a CPU: other kernels where they are faster, in place where no gradient is recorded.

Shape letters as in `decoder.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hornbook.model.cpu import PLAIN

FEW_ROWS = 32  # oneDNN is slower up to here,
LARGE, FEW_ROWS_OF_LARGE = 2**20, 3  # and with weights that leave a core's cache up to here (decision 17)
SHORT_HEAD_WIDTHS = 8  # contexts of so many head widths are short for `attention` (decision 20)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, in float32 without a gradient by oneDNN: a tenth faster than PyTorch's default inside the blocks, up
    to twice as fast where the table of a vocabulary leaves the cache (decision 17)."""
    if not torch.is_grad_enabled() and _is_faster_by_onednn(x, weight):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)


def _is_faster_by_onednn(x: Tensor, weight: Tensor) -> bool:
    few = FEW_ROWS if weight.numel() < LARGE else FEW_ROWS_OF_LARGE
    return (
        not PLAIN and weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
        and x.numel() > few * weight.shape[1] and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )  # fmt: skip


def attention(q_BHTW: Tensor, k_BKSW: Tensor, v_BKSW: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """`F.scaled_dot_product_attention`, (B, H, T, W), causal where there is no mask."""
    if mask is None and not dropout and _is_faster_in_products(q_BHTW, k_BKSW):
        return attention_in_products(q_BHTW, k_BKSW, v_BKSW)
    return F.scaled_dot_product_attention(
        q_BHTW, k_BKSW, v_BKSW, attn_mask=mask, dropout_p=dropout, is_causal=mask is None and q_BHTW.shape[2] > 1,
        enable_gqa=q_BHTW.shape[1] != k_BKSW.shape[1],
    )  # fmt: skip


def _is_faster_in_products(q: Tensor, k: Tensor) -> bool:
    """PyTorch's fused kernel computes bfloat16 on a CPU no faster than float32, products are three times as fast; a
    long context loses that to scores above the diagonal and in memory (decision 20)."""
    short = q.shape == k.shape and q.shape[2] <= SHORT_HEAD_WIDTHS * q.shape[3]
    return not PLAIN and short and torch.is_autocast_enabled("cpu") and q.device.type == "cpu"


def attention_in_products(q_BHTW: Tensor, k_BHTW: Tensor, v_BHTW: Tensor) -> Tensor:
    """Causal attention as two batched products, (B, H, T, W), with scores in the precision of autocast."""
    B, H, T, W = q_BHTW.shape
    later_TT = torch.full((T, T), -math.inf).triu(1)
    dtype = torch.get_autocast_dtype("cpu")
    q, k, v = (x.to(dtype).reshape(B * H, T, W) for x in (q_BHTW, k_BHTW, v_BHTW))
    scores = torch.baddbmm(later_TT, q, k.transpose(1, 2), alpha=1 / math.sqrt(W))
    return (scores.softmax(-1) @ v).view(B, H, T, W)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), in place of `x` where no gradient is recorded."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """x * y, in place of `x` where no gradient is recorded."""
    return x * y if torch.is_grad_enabled() else x.mul_(y)
