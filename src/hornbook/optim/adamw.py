"""AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), through PyTorch's fused kernel.

The kernel is called directly: constructing `torch.optim.AdamW` imports the compiler stack, a second of start-up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hornbook.optim.groups import Named


class AdamW:
    """Updates `parameters` from their gradients; state is two moments for each parameter and a step count."""

    def __init__(
        self, parameters: Named, *, learning_rate: float, beta1: float, beta2: float, epsilon: float,
        weight_decay: float,
    ) -> None:  # fmt: skip
        self.parameters = parameters
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.updates = 0

    @torch.no_grad()
    def step(self, multiplier: float) -> None:
        """One update at `multiplier` times the peak learning rate. Parameters without a gradient stay."""
        self.updates += 1
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        if not gradients:
            return
        names = list(gradients)
        parameters = [self.parameters[name] for name in names]
        counts = [torch.tensor(float(self.updates), device=p.device) for p in parameters]
        torch._fused_adamw_(
            parameters, list(gradients.values()), [self.first[n] for n in names], [self.second[n] for n in names],
            [], counts, lr=self.learning_rate * multiplier, beta1=self.beta1, beta2=self.beta2,
            weight_decay=self.weight_decay, eps=self.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, to be saved; `load` takes them back."""
        moments = {f"{name}.first_moment": moment for name, moment in self.first.items()}
        return moments | {f"{name}.second_moment": moment for name, moment in self.second.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], updates: int) -> None:
        for name in self.parameters:
            self.first[name].copy_(state[f"{name}.first_moment"])
            self.second[name].copy_(state[f"{name}.second_moment"])
        self.updates = updates
