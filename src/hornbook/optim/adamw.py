"""AdamW."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hornbook.optim.groups import Named

FUSED = ("cpu", "cuda", "xpu")  # devices whose kernel heeds `found_inf`; that of Apple's GPUs does not


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
            from hornbook.optim.adamw_unfused import update

            update(self, parameters, pulls, first, second, self.learning_rate * lr_scale, skip)
            return
        torch._fused_adamw_(
            parameters, pulls, first, second, [], [self.count] * len(names), lr=self.learning_rate * lr_scale,
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
