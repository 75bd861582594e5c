"""On an accelerator whoever reads a number waits for all that is still to be done: here that raises, on a CPU too.

As a program, `python reading.py WRAPS`, it trains by a world of one process and prints a line for each kind of read.
"""

import os
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

METHODS = ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__", "__repr__")
# Operations whose result has a size, or is a Python value, that only the numbers themselves tell.
OPERATIONS = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique_dim", "unique_consecutive",
        "unique_dim_consecutive", "_unique", "_unique2", "_unique_consecutive", "bincount", "allclose",
    )
}  # fmt: skip


def is_for_the_host(where):
    return isinstance(where, str | torch.device) and torch.device(where).type == "cpu"


class NoMethod(TorchFunctionMode):
    """What Python asks of a tensor, before any of it is decided: on a CPU `tolist` or `cpu` never get further."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        options, name = options or {}, getattr(function, "__name__", "")
        is_method = getattr(torch.Tensor, name, None) is function or name == "__get__"
        assert not (is_method and name in METHODS), f"a number was read: {name}"
        if name == "to" and not options.get("non_blocking"):
            assert not any(map(is_for_the_host, (*arguments, *options.values()))), "a number was read: to the host"
        return function(*arguments, **options)


class NoOperation(TorchDispatchMode):
    """What PyTorch itself asks, from C++ or from backward passes."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        name = function.name().partition(".")[0]
        assert name not in OPERATIONS, f"a number was read: {name}"
        if name in ("aten::index", "aten::index_put_", "aten::index_put"):  # by a mask: how many are there?
            masks = [x for x in tree_leaves(arguments[1]) if isinstance(x, torch.Tensor)]
            assert not any(x.dtype in (torch.bool, torch.uint8) for x in masks), "a number was read: a mask"
        if name == "aten::repeat_interleave":
            assert options.get("output_size") is not None, "a number was read: repeat_interleave"
        return function(*arguments, **options)


@contextmanager
def no_reading():
    with NoMethod(), NoOperation():
        yield


READS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "index": lambda x: [0, 1][x.sum().bool().long()],
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.detach().numpy(),
    "array": lambda x: __import__("numpy").asarray(x.detach()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to by name": lambda x: x.to(device=torch.device("cpu"), dtype=torch.float16),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "unique": lambda x: x.unique(),
    "repr": lambda x: repr(x),
}


@dataclass
class Reader:
    """Reads one number of a hidden state in each forward pass, or none, in the way of `read`."""

    read: str | None = None

    def __call__(self, module, given, normed):
        if self.read is not None:
            READS[self.read](normed)


def main(wraps):
    from hornbook.engine.sharding import Sharded
    from hornbook.engine.world import STORE, World, join
    from hornbook.facts.shape import GPTShape
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise
    from hornbook.optim.adamw import AdamW
    from hornbook.optim.groups import groups
    from hornbook.optim.muon import Muon
    from hornbook.training import step

    class One(World):
        def sum(self, numbers):
            return numbers

    step.reading_is_free = lambda device: False
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", STORE: os.path.join(tempfile.mkdtemp(), "store")}
    world: World = join(60.0)
    shape = GPTShape(family="qwen3", layers=2, width=32, heads=2, context=16, vocabulary=101)
    with torch.device("meta"):
        model = Decoder(shape)
    sharded = Sharded(model, world, 1, device=torch.device("cpu"), wraps=wraps)
    sharded.scatter(iter(initialise(Decoder(shape), 0).named_parameters()))
    matrices, others = ({name: sharded.local[name] for name in group} for group in groups(model))
    inside = {name: p for name, p in matrices.items() if name.startswith("blocks.")}
    outside = others | {name: p for name, p in matrices.items() if name not in inside}
    moments = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
    optimizers = [
        Muon(inside, learning_rate=0.02, momentum=0.9, weight_decay=0.1, sizes=sharded.sizes,
             together=sharded.together, dtype=torch.float32),
        AdamW(outside, **moments),
    ]  # fmt: skip
    sharded.share(optimizers)
    reader = Reader()
    model.head.norm.register_forward_hook(reader)
    tokens = torch.randint(101, (4, 17), generator=torch.Generator().manual_seed(0))
    batch = [(tokens[:2, :-1], tokens[:2, 1:], None), (tokens[2:, :-1], tokens[2:, 1:], None)]

    def update(how=no_reading):
        with how():
            return step.train_step(
                model, optimizers, batch, lr_scale=1.0, clip_norm=0.1, num_tokens=64, sharded=sharded
            )  # fmt: skip

    first = update(nullcontext)  # makes tables that stay
    losses = [pending.read().loss for pending in (first, update(), update())]
    assert losses[0] > losses[-1] > 0, losses
    print("trained")
    # The branch of an accelerator: what it sums up has no numbers at all there.
    sharded.device, sharded.world = torch.device("meta"), One(0, 1, 1, 60.0)
    with no_reading():
        sums = sharded.summed(torch.zeros((), device="meta"), False)
    print("summed on", *{each.device for each in sums})
    sharded.device, sharded.world = torch.device("cpu"), world
    for reader.read in READS:
        try:
            update()
        except AssertionError as error:
            print(reader.read, "|", str(error).partition(":")[0])
        else:
            print(reader.read, "| unnoticed")
    sys.stdout.flush()
    os._exit(0)  # as in commands/train_processes.py: a thread of gloo's may abort a process that is done


if __name__ == "__main__":
    main(sys.argv[1] == "wraps")
