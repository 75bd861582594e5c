"""Sequences that begin alike, computed together: shared-prefix packing with a block mask.

All tokens of several trees stand in one long row, (1, N, D), because every part of a decoder but attention looks at
one token at a time; attention is computed tree by tree. Shape letters as in `decoder.py`; E tokens of one tree's
branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hornbook.model.decoder import Attention, Block, Decoder

ROWS = 64  # N is a multiple: matrix products of few different sizes, for each of which oneDNN makes its code once
Ids = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """Ids of a beginning, which may be empty, and of branches of it: each sees the beginning and itself."""

    beginning: Ids
    branches: Sequence[Ids]

    @property
    def num_tokens(self) -> int:
        return len(self.beginning) + sum(map(len, self.branches))


class _Place:
    """Where a tree stands in the row: its beginning from `start`, its branches from `middle` to `stop`."""

    def __init__(self, tree: Tree, start: int, device: torch.device) -> None:
        self.start, self.middle = start, start + len(tree.beginning)
        self.stop = start + tree.num_tokens
        branch_E = torch.arange(len(tree.branches)).repeat_interleave(torch.tensor([len(b) for b in tree.branches]))
        own_EE = (branch_E[:, None] == branch_E).tril_()
        self.mask_ES = F.pad(own_EE, (len(tree.beginning), 0), value=True).to(device)

    def attend(self, q_1HNW: Tensor, k_1HNW: Tensor, v_1HNW: Tensor, attention: Attention, y_1NHW: Tensor) -> None:
        """Write what the tree's tokens attend to into their places of y."""
        if self.middle > self.start:
            q, k, v = (x[:, :, self.start : self.middle] for x in (q_1HNW, k_1HNW, v_1HNW))
            y_1NHW[:, self.start : self.middle] = attention.mix(q, k, v, None).transpose(1, 2)
        q, (k, v) = q_1HNW[:, :, self.middle : self.stop], (x[:, :, self.start : self.stop] for x in (k_1HNW, v_1HNW))
        y_1NHW[:, self.middle : self.stop] = attention.mix(q, k, v, self.mask_ES).transpose(1, 2)


def branch_hidden(model: Decoder, trees: Sequence[Tree], device: torch.device | str = "cpu") -> Tensor:
    """Hidden states before the last norm of all tokens of all branches, in their order, (N, D). Without dropout.

    Raises ValueError where positions are learned and a branch ends beyond the context.
    """
    device = torch.device(device)
    model.check_length(max(len(tree.beginning) + max(map(len, tree.branches)) for tree in trees))
    ends = np.cumsum([0, *(tree.num_tokens for tree in trees)]).tolist()
    N = -(-ends[-1] // ROWS) * ROWS
    tokens_N, positions_N, is_branch_N = np.zeros(N, np.int64), np.zeros(N, np.int64), np.zeros(N, bool)
    for tree, start, stop in zip(trees, ends, ends[1:], strict=False):
        first = len(tree.beginning)
        tokens_N[start:stop] = np.concatenate([tree.beginning, *tree.branches])
        after = [np.arange(first, first + len(branch)) for branch in tree.branches]
        positions_N[start:stop] = np.concatenate([np.arange(first), *after])
        is_branch_N[start + first : stop] = True
    tokens, positions, of_branches = (
        torch.from_numpy(x).to(device) for x in (tokens_N, positions_N, np.flatnonzero(is_branch_N))
    )
    places = [_Place(tree, start, device) for tree, start in zip(trees, ends, strict=False)]
    x, rotary = model.embed(tokens[None], positions)
    for block in model.blocks:
        assert isinstance(block, Block)
        q, k, v = block.attention.project(block.attention_norm(x), rotary)
        y = x.new_zeros(1, N, q.shape[1], q.shape[3])
        for place in places:
            place.attend(q, k, v, block.attention, y)
        y = y.flatten(2)
        if block is model.blocks[-1]:  # no later layer looks at the beginnings
            x, y = x[:, of_branches], y[:, of_branches]
        x = x + block.attention.output(y)
        x = x + block.mlp(block.mlp_norm(x))
    return x[0]
