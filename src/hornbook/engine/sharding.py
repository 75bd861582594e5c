"""One model on many processes: PyTorch's `fully_shard`, on a mesh of (replicas, shards).

(ranks, 1) replicates, (1, ranks) shards, (machines, processes of one) does both; the code is the same. Each rank holds
some rows of every weight, its gradient and its moments. Optimizers see plain tensors, these rows, and so does what
saves and loads them (parts.py); what looks at a model sees `gather`'s, a whole one. Sums over ranks are sums, never
means: the loss is all nats / all tokens. On a CPU, where sums cannot hide behind the backward pass, replicas are plain
models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hornbook.engine.world import World
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Named
from hornbook.optim.muon import orthogonalise

WHOLE_GRADIENTS = 1e9  # parameters: larger models sum the gradients of each piece at once, and keep rows of them


class Sharded:
    """`model`, whose weights are spread over the ranks of a mesh (replicas, shards). Every method is collective."""

    def __init__(
        self, model: Decoder, world: World, replicas: int, *, device: torch.device, wraps: bool = False
    ) -> None:  # fmt: skip
        """Of a `model` on the meta device: its weights are whatever memory holds until `scatter` or a file fills them,
        so that no rank ever has the memory of more than its rows. `wraps`: also replicas on a CPU."""
        self.model, self.world, self.device = model, world, device
        self.replicas, self.shards = replicas, world.size // replicas
        mesh = init_device_mesh(device.type, (self.replicas, self.shards), mesh_dim_names=("replicas", "shards"))
        self.replica, self.shard = divmod(world.rank, self.shards)
        self.replica_group, self.shard_group = mesh.get_group("replicas"), mesh.get_group("shards")
        self.sizes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        if wraps or self.shards > 1 or device.type != "cpu":
            settings: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": self.shards > 1}
            for block in model.blocks:
                fully_shard(block, **settings)
            fully_shard([model.embedding, model.head] if model.shape.tied else model.head, **settings)
            fully_shard(model, **settings)
        self.wrapped = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for module in self.wrapped:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        model.to_empty(device=device)
        if model.shape.tied:
            model.head.projection.weight = model.embedding.weight
        model.spread = bool(self.wrapped)
        with torch.no_grad():
            self.local: Named = {name: _rows_of(parameter) for name, parameter in model.named_parameters()}
        self.whole: Decoder | None = None  # of shards on rank 0 alone, once something looks at it
        self.is_gathered = False
        if self.shards == 1:
            self.whole = self._seen()

    # ---- A step

    def last_piece(self, is_last: bool) -> None:
        """Sum gradients over the ranks after the last piece of a step only, where a rank has the memory to keep whole
        ones until then."""
        for local in self.local.values():  # those of the step before would stand beside the new ones
            local.grad = None
        sums = is_last or (self.shards > 1 and self.model.shape.parameters > WHOLE_GRADIENTS)
        for module in self.wrapped:
            module.set_requires_gradient_sync(sums, recurse=False)

    @property
    def gradients(self) -> list[Tensor]:
        """This rank's rows of the gradients."""
        return [local.grad for local in self.local.values() if local.grad is not None]

    @torch.no_grad()
    def summed(self, nats: Tensor, stops: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Over all ranks: the nats, the norm of the whole gradient, and how many were asked to stop. One all-reduce.

        On a CPU the norm has the bits of one process: each parameter's is taken of the whole gradient by one rank. On
        an accelerator the squares of rows are summed.
        """
        self.is_gathered = False
        for name, parameter in self.model.named_parameters():  # optimizers see the rows
            self.local[name].grad = None if parameter.grad is None else _rows_of(parameter.grad)
        if not self.wrapped:
            for sums in [dist.all_reduce(gradient, async_op=True) for gradient in self.gradients]:
                sums.wait()
        numbers = torch.zeros(2 + len(self.local), dtype=torch.float64, device=self.device)
        numbers[0], numbers[1] = nats, float(stops)
        gradients = {name: local.grad for name, local in self.local.items() if local.grad is not None}
        if self.device.type == "cpu":
            place = {name: 2 + number for number, name in enumerate(self.local)}
            whole = self._collect(gradients, self._mine(gradients))
            for name, norm in zip(whole, torch._foreach_norm(list(whole.values())) if whole else (), strict=True):
                numbers[place[name]] = norm
        elif self.replica == 0:
            numbers[2:] = torch.stack([x.double().square().sum() for x in gradients.values()])
        self.world.sum(numbers)
        norms = numbers[2:].float() if self.device.type == "cpu" else numbers[2:].sqrt()
        return numbers[0].float(), torch.linalg.vector_norm(norms).float(), numbers[1].float()

    @torch.no_grad()
    def orthogonalise(self, rows: Named, dtype: torch.dtype) -> list[Tensor]:
        """This rank's rows of the orthogonalised matrices, in order, which have one shape: each matrix is
        orthogonalised by one rank and shared, as it is in `dtype`."""
        rows = {name: tensor.to(dtype) for name, tensor in rows.items()}
        names = self._mine(rows)
        whole = self._collect(rows, names)
        done = orthogonalise(torch.stack(list(whole.values())), dtype).unbind(0) if whole else ()
        rows |= self._deal(dict(zip(whole, done, strict=True)), names, next(iter(rows.values())))
        if self.replicas == 1:
            return list(rows.values())
        lists = [self._mine(rows, replica) for replica in range(self.replicas)]
        sent = torch.stack([rows[(names + list(rows))[i]] for i in range(max(map(len, lists)))])
        received = [torch.empty_like(sent) for _ in lists]
        dist.all_gather(received, sent, group=self.replica_group)
        for of_replica, tensors in zip(lists, received, strict=True):
            rows |= dict(zip(of_replica, tensors, strict=False))
        return list(rows.values())

    # ---- Whole tensors

    @torch.no_grad()
    def gather(self) -> Decoder | None:
        """The whole model, in evaluation mode; of shards on rank 0 alone. What is done to it changes nothing before
        `scatter`, or all replicas of rank 0's."""
        if self.shards > 1 and not self.is_gathered:
            self.world.tell("gather")
            if self.whole is None and self.world.rank == 0:
                self.whole = Decoder(self.model.shape).to(self.device)
            targets = {} if self.whole is None else dict(self.whole.named_parameters())
            for name, local in self.local.items():
                rows = self.all_rows(name, local)
                if name in targets:
                    targets[name].copy_(rows)
            self.is_gathered = True
        return None if self.whole is None else self.whole.eval()

    def _seen(self) -> Decoder:
        """A whole model whose weights are those of this rank, which are whole, in the same memory."""
        if not self.wrapped:
            return self.model
        with torch.device("meta"):
            whole = Decoder(self.model.shape)
        whole.load_state_dict(self.local, strict=False, assign=True)
        if whole.shape.tied:
            whole.head.projection.weight = whole.embedding.weight
        return whole

    @torch.no_grad()
    def scatter(self, whole: Decoder | None = None) -> None:
        """Take over the weights of rank 0's `whole` model, on the same device: from now on it is the gathered one."""
        self.world.tell("scatter")
        weights = {} if whole is None else dict(whole.named_parameters())
        for name, local in self.local.items():
            self._take_rows(name, local, weights.get(name))
        if self.shards > 1:
            self.whole, self.is_gathered = whole, whole is not None

    def all_rows(self, name: str, local: Tensor) -> Tensor:
        """The whole tensor whose rows lie on the ranks as those of parameter `name` do."""
        size = self.sizes[name]
        if self.shards == 1:
            return local
        most = -(-size[0] // self.shards)
        padded, whole = (local.new_zeros(rows, *size[1:]) for rows in (most, most * self.shards))
        padded[: len(local)] = local
        dist.all_gather(list(whole.chunk(self.shards)), padded, group=self.shard_group)
        return whole[: size[0]]

    def _take_rows(self, name: str, local: Tensor, whole: Tensor | None) -> None:
        """Put this rank's rows of what rank 0 gives as the `whole` of parameter `name` into `local`."""
        if self.shards == 1:
            if whole is not None:
                local.copy_(whole)
            dist.broadcast(local, 0)
            return
        size = self.sizes[name]
        received, sent = local.new_zeros(-(-size[0] // self.shards), *size[1:]), None
        if whole is not None:
            pieces = [torch.zeros_like(received) for _ in range(self.shards)]
            for shard, piece in enumerate(pieces):
                rows = whole[self.rows(size, shard)]
                piece[: len(rows)] = rows
            sent = pieces * self.replicas
        dist.scatter(received, sent, 0)
        local.copy_(received[: len(local)])

    # ---- Who has what

    def rows(self, size: Sequence[int], shard: int) -> slice:
        """Which rows of a tensor a shard has, as torch.chunk cuts."""
        most = -(-size[0] // self.shards)
        return slice(min(shard * most, size[0]), min((shard + 1) * most, size[0]))

    def _mine(self, names: Iterable[str], replica: int | None = None) -> list[str]:
        """The tensors that a replica, by default this one, does the work of for all: every so many."""
        replica = self.replica if replica is None else replica
        return [name for number, name in enumerate(names) if number // self.shards % self.replicas == replica]

    def _collect(self, rows: Mapping[str, Tensor], names: Sequence[str]) -> Named:
        """Of the tensors `names`, whose rows lie on the shards, every so many whole: those that this rank owns."""
        if self.shards == 1:
            return {name: rows[name] for name in names}
        owned = names[self.shard :: self.shards]
        sent = [[rows[name].flatten() for name in names[owner :: self.shards]] for owner in range(self.shards)]
        counts = [[self._count(name, shard) for name in owned] for shard in range(self.shards)]
        parts = self._all_to_all(sent, counts, next(iter(rows.values())))
        return {
            name: torch.cat(of_name).view(self.sizes[name])
            for name, of_name in zip(owned, zip(*parts, strict=True), strict=True)
        }

    def _deal(self, whole: Mapping[str, Tensor], names: Sequence[str], like: Tensor) -> Named:
        """The way back: this rank's rows of the tensors `names`, of which each rank has those that it owns, in the
        precision of `like`."""
        if self.shards == 1:
            return dict(whole)
        dealt = [names[owner :: self.shards] for owner in range(self.shards)]
        sent = [
            [tensor[self.rows(self.sizes[name], shard)].flatten() for name, tensor in whole.items()]
            for shard in range(self.shards)
        ]
        counts = [[self._count(name, self.shard) for name in of_owner] for of_owner in dealt]
        parts = self._all_to_all(sent, counts, like)
        flat = dict(zip(chain(*dealt), chain(*parts), strict=True))
        return {name: flat[name].view(-1, *self.sizes[name][1:]) for name in names}

    def _count(self, name: str, shard: int) -> int:
        rows = self.rows(self.sizes[name], shard)
        return int(rows.stop - rows.start) * math.prod(self.sizes[name][1:])

    def _all_to_all(self, sent: list[list[Tensor]], counts: list[list[int]], like: Tensor) -> list[list[Tensor]]:
        """Flat tensors for each shard -> those of `counts` numbers from each."""
        flat = torch.cat([part for parts in sent for part in parts] or [like.new_empty(0)])
        received = flat.new_empty(sum(map(sum, counts)))
        of_each, from_each = ([sum(part.numel() for part in parts) for parts in sent], list(map(sum, counts)))
        dist.all_to_all_single(received, flat, from_each, of_each, group=self.shard_group)
        parts = iter(torch.split(received, list(chain(*counts))))
        return [[next(parts) for _ in of_shard] for of_shard in counts]


def _rows_of(tensor: Tensor) -> Tensor:
    """The rows that are here of a tensor, which may be PyTorch's own that knows of all ranks."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
