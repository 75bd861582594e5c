"""AdamW."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hornbook.optim.groups import Named

FUSED = ("cpu", "cuda", "xpu")  # devices whose kernel heeds `found_inf`; that of Apple's GPUs does not


class AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), through PyTorch's fused kernel
    where a device has it.

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
    def step(self, lr_scale: float, skip: Tensor | None = None) -> None:
        """One update at `lr_scale` times the peak learning rate. Parameters without a gradient stay; all stay where
        `skip`, () bool on their device, is true."""
        self.count += 1 if skip is None else ~skip
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        if not gradients:
            return
        names, pulls = list(gradients), list(gradients.values())
        parameters, first, second = ([of[n] for n in names] for of in (self.parameters, self.first, self.second))
        if self.count.device.type not in FUSED:
            self._update(parameters, pulls, first, second, self.learning_rate * lr_scale, skip)
            return
        torch._fused_adamw_(
            parameters, pulls, first, second, [], [self.count] * len(names), lr=self.learning_rate * lr_scale,
            beta1=self.beta1, beta2=self.beta2, weight_decay=self.weight_decay, eps=self.epsilon, amsgrad=False,
            maximize=False, found_inf=None if skip is None else skip.float(),
        )  # fmt: skip

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor],
        rate: float, skip: Tensor | None,
    ) -> None:  # fmt: skip
        """What the fused kernel does, to rounding, in operations that every device has."""
        squares = list(torch._foreach_mul(gradients, gradients))
        if skip is not None:  # towards where the moments are: they stay
            gradients = [torch.where(skip, *pair) for pair in zip(first, gradients, strict=True)]
            squares = [torch.where(skip, *pair) for pair in zip(second, squares, strict=True)]
        torch._foreach_lerp_(first, gradients, 1 - self.beta1)
        torch._foreach_lerp_(second, squares, 1 - self.beta2)
        unbiased_first, unbiased_second = (1 - beta**self.count for beta in (self.beta1, self.beta2))
        roots = torch._foreach_sqrt(torch._foreach_div(second, unbiased_second))
        torch._foreach_add_(roots, self.epsilon)
        updates = list(torch._foreach_div(torch._foreach_div(first, unbiased_first), roots))
        torch._foreach_add_(updates, parameters, alpha=self.weight_decay)
        if skip is not None:
            updates = [update.masked_fill_(skip, 0.0) for update in updates]
        torch._foreach_add_(parameters, updates, alpha=-rate)

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
