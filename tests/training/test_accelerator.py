"""The path of an accelerator, as far as a CPU can show it."""

import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hornbook.facts.shape import GPTShape
from hornbook.likelihood import sum_nats
from hornbook.model import compiled
from hornbook.model.decoder import Cache, Decoder
from hornbook.model.graphed import Slots
from hornbook.model.init import initialise
from hornbook.training import step


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_skipped_update_changes_no_bit_and_is_decided_on_the_device(make, bits, bad):
    model, optimizers = make()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    for optimizer in optimizers:
        optimizer.step(1.0)  # the state is not all zeros
    before = bits(model, optimizers)
    for p in model.parameters():
        p.grad.view(-1)[0] = bad
    for optimizer in optimizers:
        optimizer.step(1.0, torch.tensor(True))
    assert same(bits(model, optimizers), before)
    assert optimizers[1].updates == 1


def test_an_update_that_might_have_been_skipped_is_the_usual_one(make, bits):
    ends = []
    for skip in (None, torch.tensor(False)):
        model, optimizers = make()
        for i, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        for optimizer in optimizers:
            optimizer.step(0.5, skip)
        ends.append(bits(model, optimizers))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-6, atol=1e-8, msg=name)


class NoReading(TorchDispatchMode):
    """Whoever reads a number of a tensor raises: on an accelerator it would wait for all that is still to be done."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number was read"
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_step_reads_nothing(make, family, monkeypatch):
    monkeypatch.setattr(step, "reading_is_free", lambda device: False)
    model, optimizers = make(family=family)
    tokens = torch.randint(257, (4, 17), generator=torch.Generator().manual_seed(0))
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    batch = [(tokens[:2, :-1], tokens[:2, 1:], None), (tokens[2:, :-1], tokens[2:, 1:], None)]
    before = model.head.projection.weight.detach().clone()
    with NoReading():
        pending = step.train_step(
            model, optimizers, batch, lr_scale=1.0, clip_norm=1.0, autocast=half, num_tokens=4 * 16
        )  # fmt: skip
        with pytest.raises(AssertionError, match="a number was read"):
            float(model.head.norm.weight.sum())
    assert pending.read().loss > 0
    assert not torch.equal(model.head.projection.weight, before)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [64, 10_000])
def test_the_wide_head_is_the_head(tied, rows, monkeypatch):
    monkeypatch.setattr(compiled, "EAGER_LOGITS_BYTES", 4 * 101 * rows)
    shape = GPTShape(family="qwen3", layers=1, width=32, heads=2, context=32, vocabulary=101, tied=tied)
    model = initialise(Decoder(shape), 0)
    with torch.no_grad():
        model.head.projection.weight.normal_(generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(200, 32, generator=generator, requires_grad=True)
    targets = torch.randint(0, 101, (200,), generator=generator)
    targets[7] = -1
    from hornbook.data.packing import IGNORE

    targets[targets == -1] = IGNORE
    seen = []
    for head in (
        lambda: sum_nats(model.head, hidden, targets, 101),
        lambda: compiled.sum_nats_in_large_chunks(model, hidden, targets),
    ):
        hidden.grad = model.head.projection.weight.grad = model.head.norm.weight.grad = None
        nats = head()
        (nats / 199).backward()
        seen.append([nats.detach(), hidden.grad, model.head.projection.weight.grad, model.head.norm.weight.grad])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-7)


def test_a_cache_of_slots_gives_the_logits_of_a_growing_one():
    shape = GPTShape(family="qwen3", layers=2, width=32, heads=4, kv_heads=2, context=16, vocabulary=50)
    model = initialise(Decoder(shape), 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        growing, fixed = (Cache(shape, batch=2, capacity=12) for _ in range(2))
        fixed.store.zero_()
        prompt = torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(3))
        for cache in (growing, fixed):
            model.hidden(prompt, cache=cache)
        for place in range(5, 12):
            tokens = torch.full((2, 1), place)
            expected = model.head(model.hidden(tokens, cache=growing))
            at = torch.tensor([place])
            x, rotary = model.embed(tokens, at)
            mask = (torch.arange(12) <= at)[None, None, None]
            for layer, block in enumerate(model.blocks):
                x = block(x, rotary, mask, partial(Slots(fixed.store, at).append, layer))
            torch.testing.assert_close(model.head(x), expected, rtol=1e-5, atol=1e-5)


GRAPHS = """
import sys
import hornbook
from torch._dynamo.utils import counters
from hornbook.training import loop

seen, steps = [], loop.steps
def counted(*arguments, **options):
    for done in steps(*arguments, **options):
        seen.append((done.number, counters["stats"]["unique_graphs"]))
        yield done
loop.steps = counted
options = {
    "model.width": 32, "model.layers": 3, "model.context": 32, "train.batch": 4, "train.microbatch": 2,
    "train.compile": True, "watch.evaluate_every": 3, "watch.sample_every": 4, "checkpoint.every": 5,
    "text.tokenizer": "bytes",
}
for length in (7, 12):
    hornbook.train(sys.argv[1], out=sys.argv[2], **options, **{"train.steps": length})
print(sorted({graphs for number, graphs in seen if number >= 2}), sum(counters["graph_break"].values()), len(seen))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile with")
def test_watching_and_going_on_compile_nothing_anew(tmp_path, english):
    """Blocks share one graph and the head has one, in all steps of a run that is looked at, sampled and saved; and when
    it is made longer."""
    (tmp_path / "text.txt").write_text(english[:20_000], encoding="utf-8")
    command = [sys.executable, "-c", GRAPHS, str(tmp_path / "text.txt"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split("\n")[-2] == "[2, 4] 0 16", done.stderr


MANY = """
import torch
from hornbook.facts.shape import GPTShape
from hornbook.model.compiled import compile_training, sum_nats_in_large_chunks
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise

real = torch.compile
torch.compile = lambda function, **options: real(function, backend="eager", **options)  # no code is made, only graphs
for width in range(16, 16 * 11, 16):
    shape = GPTShape(family="qwen3", layers=1, width=width, heads=2, context=8, vocabulary=31)
    model = initialise(Decoder(shape), 0)
    compile_training(model)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    sum_nats_in_large_chunks(model, model.hidden(tokens).flatten(0, 1), tokens.flatten()).backward()
print(width)
"""


def test_ten_sizes_can_be_compiled_in_one_process():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "160", done.stderr[-2000:]
