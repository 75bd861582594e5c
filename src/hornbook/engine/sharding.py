"""One model on many processes: PyTorch's `fully_shard`, on a mesh of (replicas, shards).

(ranks, 1) replicates, (1, ranks) shards, (machines, processes of one) does both; the code is the same. Each rank holds
some rows of every weight, its gradient and its moments. Optimizers see plain tensors, these rows, and so does what
saves and loads them (parts.py); what looks at a model sees `gather`'s, a plain one. Sums over ranks are sums, never
means: the loss is all nats / all tokens. On a CPU, where sums cannot hide behind the backward pass, replicas are plain
models; on one machine they have their weights and moments in the same memory, and each updates some of them for all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hornbook.engine.gathered import Gathered
from hornbook.engine.world import World
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import Named, Optimizer
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
        self.owners: dict[str, int] = {}  # who updates each parameter, where replicas have the same memory
        if not self.wrapped and world.machines == 1:
            self._share_weights()
        self.together = None if self.owners else self.orthogonalise
        with torch.no_grad():
            self.local: Named = {name: _rows_of(parameter) for name, parameter in model.named_parameters()}
        self.plain = self._plain() if self.shards == 1 else None
        self.gathered: Gathered | None = None  # of shards, from the first look after an update to the next update

    # ---- A step

    def last_piece(self, is_last: bool) -> None:
        """Sum gradients over the ranks after the last piece of a step only, where a rank has the memory to keep whole
        ones until then."""
        self.gathered = None
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
        for name, parameter in self.model.named_parameters():  # optimizers see the rows
            self.local[name].grad = None if parameter.grad is None else _rows_of(parameter.grad)
        if self.owners:
            self._give_gradients()
        elif not self.wrapped:
            for sums in [dist.all_reduce(gradient, async_op=True) for gradient in self.gradients]:
                sums.wait()
        numbers = torch.zeros(2 + len(self.local), dtype=torch.float64, device=self.device)
        numbers[0], numbers[1] = nats, float(stops)
        gradients = {name: local.grad for name, local in self.local.items() if local.grad is not None}
        if self.device.type == "cpu":
            place = {name: 2 + number for number, name in enumerate(self.local)}
            whole = self._collect(gradients, list(gradients) if self.owners else self._mine(gradients))
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

    # ---- Replicas with the same memory

    def _share_weights(self) -> None:
        """Have the weights in memory that all ranks see, and room for the gradients that they give each other."""
        parameters = dict(self.model.named_parameters())
        shared = shared_memory(self.world, list(parameters.values()) * (1 + self.world.size))
        if not shared:
            return
        for parameter, memory in zip(parameters.values(), shared, strict=False):
            parameter.data = memory
        rooms = iter(shared[len(parameters) :])
        self.given: list[Named] = [dict(zip(parameters, rooms, strict=False)) for _ in range(self.world.size)]
        updates = [0] * self.world.size
        for name in sorted(parameters, key=lambda name: -parameters[name].numel()):  # to whoever has least so far
            self.owners[name] = updates.index(min(updates))
            updates[self.owners[name]] += parameters[name].numel()

    @torch.no_grad()
    def share(self, optimizers: Sequence[Optimizer]) -> None:
        """Have the moments too in memory that all see: each rank updates some of them, and rank 0 saves all."""
        if self.owners:
            moments = [moment for optimizer in optimizers for moment in optimizer.state().values()]
            for moment, memory in zip(moments, shared_memory(self.world, moments), strict=True):
                moment.data = memory

    def _give_gradients(self) -> None:
        """Leave a sum over all ranks of the gradients of what this one updates, and no gradient of the rest."""
        rank = self.world.rank
        for name, local in self.local.items():
            if self.owners[name] != rank and local.grad is not None:
                self.given[rank][name].copy_(local.grad)
                local.grad = None
        dist.barrier()
        for name, gradient in [(name, local.grad) for name, local in self.local.items() if local.grad is not None]:
            for given in self.given[:rank] + self.given[rank + 1 :]:
                gradient += given[name]

    def updated(self) -> None:
        """Wait until all that is updated in the same memory is."""
        if self.owners:
            dist.barrier()

    # ---- Whole tensors

    def gather(self) -> Decoder:
        """A plain model with the weights of this moment, in evaluation mode, to look at until the next update."""
        if self.plain is not None:
            return self.plain.eval()
        if self.gathered is None:
            self.world.tell("gather")
            self.gathered = Gathered(self)
        return self.gathered.model

    def _plain(self) -> Decoder:
        """A plain model whose weights are those of this rank, which are whole, in the same memory."""
        if not self.wrapped:
            return self.model
        with torch.device("meta"):
            plain = Decoder(self.model.shape)
        plain.load_state_dict(self.local, strict=False, assign=True)
        if plain.shape.tied:
            plain.head.projection.weight = plain.embedding.weight
        return plain

    @torch.no_grad()
    def scatter(self, weights: Iterator[tuple[str, Tensor]] | None = None) -> None:
        """Take over rank 0's `weights`, whole ones in the order of the parameters, of which one is there at a time."""
        self.world.tell("scatter")
        for name, local in self.local.items():
            self._take_rows(name, local, None if weights is None else next(weights)[1].to(self.device))
        self.gathered = None

    @torch.no_grad()
    def all_rows(self, rows: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None) -> Named:
        """The whole parameters, or tensors like them, of which each rank has these `rows`: new ones, or those `into`.
        One collective."""
        if self.shards == 1:
            return dict(rows)
        counts = [[self._count(name, shard) for name in rows] for shard in range(self.shards)]
        sent = next(iter(rows.values())).new_zeros(sum(counts[0]))  # no shard has more rows than the first
        torch.cat([of_name.flatten() for of_name in rows.values()], out=sent[: sum(counts[self.shard])])
        received = sent.new_empty(self.shards, len(sent))
        dist.all_gather(list(received), sent, group=self.shard_group)
        parts = [torch.split(row[: sum(count)], count) for row, count in zip(received, counts, strict=True)]
        whole = {name: sent.new_empty(self.sizes[name]) if into is None else into[name] for name in rows}
        for tensor, of_name in zip(whole.values(), zip(*parts, strict=True), strict=True):
            torch.cat(of_name, out=tensor.view(-1))
        return whole

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


def shared_memory(world: World, like: Sequence[Tensor]) -> list[Tensor]:
    """Zeros of the sizes of `like`, float32, in memory that all processes of one machine read and write; none where
    the system has no such memory. Collective. No file has its name, and it goes with the last process that uses it."""
    starts = list(accumulate((-(-tensor.numel() // 16) * 16 for tensor in like), initial=0))  # whole lines of a cache
    label, descriptor, memory = "", -1, torch.empty(0)
    if world.rank == 0 and hasattr(os, "memfd_create"):
        with suppress(OSError):  # forbidden, or more than a file may have
            name = f"hornbook-{os.getpid()}-{os.urandom(8).hex()}"
            descriptor = os.memfd_create(name)
            os.truncate(descriptor, 4 * starts[-1])
            label = name
    path, label = world.each(lambda: (f"/proc/{os.getpid()}/fd/{descriptor}", label))[0]

    def map_it() -> bool:
        nonlocal memory
        with suppress(OSError, RuntimeError):
            if label and label in os.readlink(path):
                memory = torch.from_file(path, shared=True, size=starts[-1])
        return bool(len(memory))

    is_shared = all(world.each(map_it))
    if descriptor >= 0:
        os.close(descriptor)
    if not is_shared:
        return []
    return [memory[start:][: tensor.numel()].view(tensor.shape) for start, tensor in zip(starts, like, strict=False)]
