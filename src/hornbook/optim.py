"""Which parameter is updated how: AdamW, Muon, and how the learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hornbook.facts.hardware import has_bfloat16_units

Named = dict[str, Tensor]

# Polar Express (Amsel et al. 2025): for each iteration the odd quintic that brings the singular values nearest to 1.
# The five belong together: dropping one leaves the values far from 1.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def groups(model: nn.Module) -> tuple[Named, Named]:
    """(matrices, others) of the trainable parameters.

    Matrices are the weights of linear layers: they are decayed, and Muon may update those inside the blocks.
    Others are look-up tables, norms and biases: never decayed. A tied head is the embedding's look-up table.
    """
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices: Named = {}
    others: Named = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            chosen = matrices if id(parameter) in linear - looked_up else others
            chosen[name] = parameter
    return matrices, others


class AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), through PyTorch's fused kernel.

    The kernel is called directly: constructing `torch.optim.AdamW` imports the compiler stack, a second of start-up.
    The state is two moments for each of `parameters` and a step count.
    """

    def __init__(
        self, parameters: Named, *, learning_rate: float, beta1: float, beta2: float, epsilon: float,
        weight_decay: float,
    ) -> None:  # fmt: skip
        self.parameters = parameters
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.count = torch.zeros((), device=next(iter(parameters.values())).device)  # of updates

    @torch.no_grad()
    def step(self, multiplier: float, skip: Tensor | None = None) -> None:
        """One update at `multiplier` times the peak learning rate. Parameters without a gradient stay; all stay where
        `skip`, () bool on their device, is true."""
        self.count += 1 if skip is None else ~skip
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        if not gradients:
            return
        names = list(gradients)
        torch._fused_adamw_(
            [self.parameters[n] for n in names], list(gradients.values()), [self.first[n] for n in names],
            [self.second[n] for n in names], [], [self.count] * len(names), lr=self.learning_rate * multiplier,
            beta1=self.beta1, beta2=self.beta2, weight_decay=self.weight_decay, eps=self.epsilon, amsgrad=False,
            maximize=False, found_inf=None if skip is None else skip.float(),
        )  # fmt: skip

    @property
    def updates(self) -> int:
        """How many updates were applied."""
        return int(self.count)

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, to be saved; `load` takes them back."""
        moments = {f"{name}.first_moment": moment for name, moment in self.first.items()}
        return moments | {f"{name}.second_moment": moment for name, moment in self.second.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        for name in self.parameters:
            self.first[name].copy_(state[f"{name}.first_moment"])
            self.second[name].copy_(state[f"{name}.second_moment"])
        self.count.fill_(updates)


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
    orthogonalised in one batch; the state is one momentum for each.
    """

    def __init__(
        self, parameters: Named, *, learning_rate: float, momentum: float, weight_decay: float,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        device = next(iter(parameters.values())).device
        is_fast = device.type != "cpu" or has_bfloat16_units()
        self.dtype = dtype or (torch.bfloat16 if is_fast else torch.float32)
        self.stacks: dict[tuple[int, ...], Named] = {}
        for name, parameter in parameters.items():
            self.stacks.setdefault(tuple(parameter.shape), {})[name] = parameter
        self.momenta = {shape: torch.zeros(len(stack), *shape, device=device) for shape, stack in self.stacks.items()}

    @torch.no_grad()
    def step(self, multiplier: float, skip: Tensor | None = None) -> None:
        """One update at `multiplier` times the peak learning rate; none where `skip`, () bool, is true."""
        rate = self.learning_rate * multiplier
        for shape, stack in self.stacks.items():
            parameters = list(stack.values())
            gradients = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters])
            if skip is not None:  # towards where the momentum is: it stays
                gradients = torch.where(skip, self.momenta[shape], gradients)
            momentum = self.momenta[shape].lerp_(gradients, 1 - self.momentum)
            ahead = torch.lerp(gradients, momentum, self.momentum)  # Nesterov
            update = orthogonalise(ahead, self.dtype).float()
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
        return {
            f"{name}.momentum": self.momenta[shape][i]
            for shape, stack in self.stacks.items()
            for i, name in enumerate(stack)
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        for name, momentum in self.state().items():
            momentum.copy_(state[name])


def multiplier(
    step: int, *, kind: str, steps: int, warmup_steps: int, decay_fraction: float = 0.6, final_fraction: float = 0.0
) -> float:
    """Share of the peak learning rate for update number `step` (from 0) of `steps`.

    Linear warm-up first, in all kinds. `wsd` then stays and decays linearly over the last `decay_fraction` of all
    steps (Hu et al. 2024); `cosine` falls along half a cosine (Loshchilov and Hutter 2017), `linear` along a line;
    `constant` stays. All but `constant` end at `final_fraction`.

    >>> [round(multiplier(s, kind="wsd", steps=10, warmup_steps=2, decay_fraction=0.5), 2) for s in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    >>> round(multiplier(6, kind="cosine", steps=10, warmup_steps=2), 6)  # the middle of the cosine
    0.5
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "constant":
        return 1.0
    start = decay_start(kind=kind, steps=steps, warmup_steps=warmup_steps, decay_fraction=decay_fraction)
    if step < start:
        return 1.0
    progress = min(1.0, (step - start) / max(1, steps - start))
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if kind == "cosine" else 1 - progress
    return final_fraction + (1 - final_fraction) * falling


def decay_start(*, kind: str, steps: int, warmup_steps: int, decay_fraction: float = 0.6) -> int:
    """The first update, from 0, whose learning rate falls; `steps` for a schedule that never does."""
    if kind == "constant":
        return steps
    return max(warmup_steps, steps - round(decay_fraction * steps)) if kind == "wsd" else warmup_steps
