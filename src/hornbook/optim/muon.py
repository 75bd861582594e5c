"""Muon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hornbook.facts.hardware import has_bfloat16_units
from hornbook.optim.groups import Named

# Polar Express (Amsel et al. 2025): for each iteration the odd quintic that brings the singular values nearest to 1.
# The five belong together: dropping one leaves the values far from 1.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalise(matrices_GRC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each of G matrices, approximately: U V^T of the SVD U S V^T.

    Computed in `dtype`, for which bfloat16 is enough (Jordan et al. 2024). Zero matrices stay zero.

    >>> x = orthogonalise(torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0)))
    >>> values = torch.linalg.svdvals(x.float())
    >>> bool((values > 0.8).all() and (values < 1.2).all())
    True
    """
    x = matrices_GRC.to(dtype)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon:
    """Muon: momentum, orthogonalised (Jordan et al. 2024), for 2-D `parameters`: the matrices inside the blocks.

    Our own because `torch.optim.Muon` computes in bfloat16, which a CPU without bfloat16 units does hundreds of times
    slower than float32: `dtype` is bfloat16 only where there are such units, unless given. Matrices of one shape are
    orthogonalised in one batch; those without a gradient stay. The state is one momentum for each.
    """

    def __init__(
        self, parameters: Named, *, learning_rate: float, momentum: float, weight_decay: float,
        dtype: torch.dtype | None = None, sizes: Mapping[str, Sequence[int]] | None = None,
        together: Callable[[Named, torch.dtype], list[Tensor]] | None = None,
    ) -> None:  # fmt: skip
        """Where `parameters` are some rows of matrices of the whole `sizes`, `together` orthogonalises those."""
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        device = next(iter(parameters.values())).device
        is_fast = has_bfloat16_units() if device.type == "cpu" else device.type != "mps"
        self.dtype = dtype or (torch.bfloat16 if is_fast else torch.float32)
        self.stacks: dict[tuple[int, ...], Named] = {}
        for name, parameter in parameters.items():
            self.stacks.setdefault(tuple(sizes[name] if sizes else parameter.shape), {})[name] = parameter
        self.momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        self.together = together

    @torch.no_grad()
    def step(self, lr_scale: float, skip: Tensor | None = None) -> None:
        """One update at `lr_scale` times the peak learning rate; none where `skip`, () bool, is true."""
        rate = self.learning_rate * lr_scale
        for shape, stack in self.stacks.items():
            gradients = {name: p.grad for name, p in stack.items() if p.grad is not None}
            if not gradients:
                continue
            parameters, momenta = [stack[name] for name in gradients], [self.momenta[name] for name in gradients]
            towards = list(gradients.values())
            if skip is not None:  # towards where the momentum is: it stays
                towards = [torch.where(skip, *pair) for pair in zip(momenta, towards, strict=True)]
            torch._foreach_lerp_(momenta, towards, 1 - self.momentum)
            ahead = torch._foreach_lerp(towards, momenta, self.momentum)  # Nesterov
            if self.together is None:
                update = orthogonalise(torch.stack(ahead), self.dtype).float()
            else:
                update = torch.stack(self.together(dict(zip(gradients, ahead, strict=True)), self.dtype)).float()
            decay = 1 - rate * self.weight_decay
            if skip is not None:
                update = update.masked_fill_(skip, 0.0)
            if self.weight_decay:
                torch._foreach_mul_(parameters, decay if skip is None else (~skip * (decay - 1) + 1))
            # A tall matrix gets a larger step, so that its outputs move as much as a square one's (Jordan et al.).
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_(parameters, list(update.unbind(0)), alpha=-rate * scale)

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, to be saved; `load` takes them back."""
        return {f"{name}.momentum": self.momenta[name] for stack in self.stacks.values() for name in stack}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        for name, momentum in self.state().items():
            momentum.copy_(state[name])
