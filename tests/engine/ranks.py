"""What each rank of a small training does: `python ranks.py OUT ASKED`, under the variables of a launcher, or alone.

Rank 0 writes {case: what it saw} to OUT. `ASKED` is JSON: `every` so many cases; the update to begin `after` and the
`last` one; folders of checkpoints to go on `of`, and `to` write; the numbers of `replicas`. Every rank makes the same
calls here, so nobody needs to be told any but where to write.
"""

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from hornbook.engine import parts
from hornbook.engine.sharding import Sharded
from hornbook.engine.world import World, join
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW
from hornbook.optim.groups import groups
from hornbook.optim.muon import Muon
from hornbook.training.loop import TrainState
from hornbook.training.step import train_step

STEPS, BATCH, CONTEXT, VOCABULARY, POISONED = 5, 8, 16, 257, 2
CASES = [
    (family, tied, optimizer, poisoned)
    for family, tied in (("gpt2", True), ("qwen3", False), ("qwen3", True))
    for optimizer in ("adamw", "muon")
    for poisoned in (False, True)
    if not poisoned or family == "gpt2"
]
MOMENTS = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}


class Silent(World):
    def tell(self, order, **arguments):
        if order == "write":
            super().tell(order, **arguments)


def optimizers_of(model, name, sharded):
    parameters = groups(model) if sharded is None else [{n: sharded.local[n] for n in g} for g in groups(model)]
    matrices, others = parameters
    made = []
    if name == "muon":
        inside = {n: p for n, p in matrices.items() if n.startswith("blocks.")}
        matrices = {n: p for n, p in matrices.items() if n not in inside}
        spread = {} if sharded is None else {"sizes": sharded.sizes, "together": sharded.together}
        made.append(
            Muon(inside, learning_rate=0.02, momentum=0.9, weight_decay=0.1, dtype=torch.float32, **spread)
        )  # fmt: skip
    made += [AdamW(p, **MOMENTS, weight_decay=decay) for p, decay in ((matrices, 0.1), (others, 0.0)) if p]
    if sharded is not None:
        sharded.share(made)
    return made


def train(family, tied, optimizer, poisoned, world, replicas, *, after=0, last=STEPS, of=None, to=None):
    """The trace of nats and norms, and hashes of weights and state, after a few steps that are clipped."""
    shape = GPTShape(family=family, layers=3, width=32, heads=2, context=CONTEXT, vocabulary=VOCABULARY, tied=tied)
    whole, generator, sharded = initialise(Decoder(shape), 0), torch.Generator().manual_seed(1), None
    with torch.no_grad():  # nothing stays at zero
        for parameter in whole.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model, rank, ranks = whole, 0, 1
    if world is not None:
        rank, ranks = world.rank, world.size
        with torch.device("meta"):
            spread = Decoder(shape)
        machines = ranks if tied else 1  # as of one, replicas have the same memory
        world = replace(world, machines=machines)
        sharded = Sharded(spread, world, replicas, device=torch.device("cpu"), wraps=family == "gpt2")
        sharded.scatter(iter(whole.named_parameters()) if rank == 0 else None)
        model = sharded.model
    made, trace = optimizers_of(model, optimizer, sharded), []
    state, name = TrainState(model, made, None, None, sharded), f"{family}-{tied}-{optimizer}"
    if of is not None:
        state.load(Path(of, name))
    for step in range(after, last):
        drawn = torch.Generator().manual_seed(100 + step)
        tokens = torch.randint(0, VOCABULARY, (BATCH, CONTEXT + 1), generator=drawn)
        rows = BATCH // max(2, ranks)
        pieces = [(t[:, :-1].contiguous(), t[:, 1:].contiguous(), None) for t in tokens.split(rows)]
        hook = None
        if poisoned and step == POISONED and rank == ranks - 1:
            hook = model.head.norm.register_forward_hook(lambda module, given, normed: normed * float("nan"))
        update = train_step(
            model, made, pieces[rank::ranks], lr_scale=1.0, clip_norm=0.05, num_tokens=BATCH * CONTEXT, sharded=sharded
        ).read()  # fmt: skip
        if hook is not None:
            hook.remove()
        trace.append([update.nats if update.nats == update.nats else None, update.gradient_norm])
    if to is not None:
        if rank == 0:
            state.write(state.contents(optimizers=True), Path(to, name), step=last, state={"updates": last})
        elif sharded.shards > 1:
            parts.write_part(sharded, Path(world.hear()[1]["aside"]), state.contents(optimizers=True))
    weights = dict(model.named_parameters()) if sharded is None else sharded.local
    moments = {key: tensor for each in made for key, tensor in each.state().items()}
    if sharded is not None:
        weights, moments = (
            {
                key: row
                for key, tensor in its.items()
                for row in sharded.all_rows({weight(key, sharded): tensor}).values()
            }
            for its in (weights, moments)
        )
    return {"trace": trace, "weights": hashed(weights), "state": hashed(moments)}


def weight(key, sharded):
    return key if key in sharded.sizes else key.rpartition(".")[0]


def hashed(tensors):
    content = b"".join(name.encode() + tensors[name].detach().numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(content).hexdigest()


def main(out, asked):
    torch.set_num_threads(1)
    asked = json.loads(asked)
    world = None
    if "WORLD_SIZE" in os.environ:
        joined = join(60.0)
        world = Silent(joined.rank, joined.size, joined.machines, joined.timeout_seconds)
    meshes = [1] if world is None else [n for n in (1, 2, 4) if world.size % n == 0]
    meshes = asked.pop("replicas", meshes)
    seen = {}
    for case in CASES[:: asked.pop("every", 1)]:
        if asked and case[-1]:
            continue  # nothing is saved of the poisoned
        for replicas in meshes:
            seen[" ".join(map(str, (*case, replicas)))] = train(*case, world, replicas, **asked)
    if world is None or world.rank == 0:
        Path(out).write_text(json.dumps(seen), encoding="utf-8")
    if world is not None:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
