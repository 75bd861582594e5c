"""Attention that never leaves a document, by a flash kernel for sequences of any lengths, laid end to end.

Nothing of size T x T is made. Loaded only where that kernel is used; elsewhere `attention_mask` says the same.
"""

from __future__ import annotations

from functools import partial
from inspect import signature

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import autocast

WIDEST_HEAD = 256
MAJOR_OF_AMPERE = 8  # the first compute capability that flash attention runs on


def is_possible(shape: GPTShape, dropout: float, on: torch.device) -> bool:
    """Whether a model of this shape can be trained on `on` by this kernel, under autocast to half precision."""
    fits = not dropout and shape.head_width % 8 == 0 and shape.head_width <= WIDEST_HEAD
    groups = shape.kv_heads != shape.heads
    if groups and "enable_gqa" not in signature(varlen_attn).parameters:  # PyTorch 2.11
        return False
    if not fits or on.type != "cuda" or torch.version.cuda is None:
        return False
    is_built = torch.backends.cuda.is_flash_attention_available()
    return is_built and torch.cuda.get_device_capability(on)[0] >= MAJOR_OF_AMPERE


def attention(q_BHTW: Tensor, k_BKTW: Tensor, v_BKTW: Tensor, begins: Tensor) -> Tensor:
    """Causal attention within each document, (B, H, T, W), in the precision of autocast.

    `begins` are int32 (N + 1,): where each of N documents begins in the B rows of T tokens laid end to end, and B T at
    last. Those that begin there too have no tokens. A row's first token begins one.
    """
    B, H, T, W = q_BHTW.shape
    q, k, v = (autocast(x).transpose(1, 2).flatten(0, 1) for x in (q_BHTW, k_BKTW, v_BKTW))
    attend = varlen_attn if k.shape == q.shape else partial(varlen_attn, enable_gqa=True)
    mixed = attend(q, k, v, begins, begins, T, T, window_size=(-1, 0))
    assert isinstance(mixed, Tensor)  # where nothing else is asked for
    return mixed.view(B, T, H, W).transpose(1, 2)
