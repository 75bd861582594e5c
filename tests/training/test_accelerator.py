"""The path of an accelerator, as far as a CPU can show it."""

import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial

import pytest
import reading
import torch
from reading import READS, Reader, no_reading

from hornbook.data.loader import Batches
from hornbook.data.packing import IGNORE
from hornbook.facts.shape import GPTShape
from hornbook.likelihood import sum_nats
from hornbook.model import compiled
from hornbook.model.decoder import Cache, Decoder
from hornbook.model.graphed import Slots
from hornbook.model.init import initialise
from hornbook.training import loop, step


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


@pytest.fixture
def far(monkeypatch):
    """Steps as on an accelerator."""
    for module in (step, loop):
        monkeypatch.setattr(module, "reading_is_free", lambda device: False)


@pytest.fixture
def batch():
    tokens = torch.randint(257, (4, 17), generator=torch.Generator().manual_seed(0))
    return [(tokens[:2, :-1], tokens[:2, 1:], None), (tokens[2:, :-1], tokens[2:, 1:], None)]


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_step_reads_nothing(make, family, far, batch):
    model, optimizers = make(family=family)
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    how = {"lr_scale": 1.0, "clip_norm": 1.0, "autocast": half, "num_tokens": 4 * 16}
    step.train_step(model, optimizers, batch, **how)  # makes tables that stay
    before = model.head.projection.weight.detach().clone()
    with no_reading():
        pending = step.train_step(model, optimizers, batch, **how)
    assert pending.read().loss > 0
    assert not torch.equal(model.head.projection.weight, before)


@pytest.mark.parametrize("read", READS)
def test_whatever_a_step_reads_is_noticed(make, far, batch, read):
    model, optimizers = make()
    step.train_step(model, optimizers, batch, lr_scale=1.0, clip_norm=1.0, num_tokens=4 * 16)
    model.head.norm.register_forward_hook(Reader(read))
    with no_reading(), pytest.raises(AssertionError, match="a number was read"):
        step.train_step(model, optimizers, batch, lr_scale=1.0, clip_norm=1.0, num_tokens=4 * 16)


@pytest.mark.parametrize("document_mask", [False, True])
def test_the_loop_reads_an_update_once_the_next_is_under_way(make, far, prepared, monkeypatch, document_mask):
    """Batches, dropout, clipping and the step; and what of it is copied for the caller."""
    model, optimizers = make(dropout=0.1)
    batches = Batches(prepared.train, context=16, batch=8, seed=4)
    begun, read, update = [], [], loop.update

    def counted(*arguments, **options):
        begun.append(arguments[3])
        with no_reading() if begun[-1] else nullcontext():  # the first makes tables that stay
            return update(*arguments, **options)

    monkeypatch.setattr(loop, "update", counted)
    for done in loop.steps(
        model, optimizers, batches, first=0, last=6, microbatch=3, clip_norm=0.1, seed=4, document_mask=document_mask,
        lr_schedule=lambda step: 1.0, uses_weights=lambda number: number == 3,
    ):  # fmt: skip
        read.append((done.number, len(begun)))
    assert read == [(1, 2), (2, 3), (3, 3), (4, 5), (5, 6), (6, 6)]  # the weights of step 3 are used
    model.head.norm.register_forward_hook(Reader("nonzero"))
    with pytest.raises(AssertionError, match="a number was read"):
        counted(
            model, optimizers, batches, 7, 1.0, microbatch=3, clip_norm=0.1, seed=4, document_mask=document_mask,
            autocast=None, stop=threading.Event(),
        )  # fmt: skip


@pytest.mark.parametrize("how", ["replicated", "wraps"])
def test_a_step_of_several_processes_reads_nothing(how):
    """Of one by gloo: the sums over ranks, the shared orthogonalising; and whatever is read there is noticed."""
    command = [sys.executable, reading.__file__, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    noticed = [f"{read} | a number was read" for read in READS]
    assert done.stdout.splitlines() == ["trained", "summed on meta", *noticed], done.stderr[-2000:]


def head_of(tied, rows):
    """A head with its model, hidden states of `rows` positions, and their targets, of which one is not scored."""
    shape = GPTShape(family="qwen3", layers=1, width=32, heads=2, context=32, vocabulary=101, tied=tied)
    model = initialise(Decoder(shape), 0)
    with torch.no_grad():
        model.head.projection.weight.normal_(generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(rows, 32, generator=generator, requires_grad=True)
    targets = torch.randint(0, 101, (rows,), generator=generator)
    targets[7] = IGNORE
    return model, hidden, targets


def differentiated(model, hidden, nats_of):
    """The nats, and the gradients of hidden states, table and norm."""
    hidden.grad = model.head.projection.weight.grad = model.head.norm.weight.grad = None
    nats = nats_of()
    (nats / 199).backward()
    return [nats.detach(), hidden.grad, model.head.projection.weight.grad, model.head.norm.weight.grad]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [64, 10_000])
def test_the_wide_head_is_the_head(tied, rows, monkeypatch):
    monkeypatch.setattr(compiled, "EAGER_LOGITS_BYTES", 4 * 101 * rows)
    model, hidden, targets = head_of(tied, 200)
    ours = differentiated(model, hidden, lambda: sum_nats(model.head, hidden, targets, 101))
    theirs = differentiated(model, hidden, lambda: compiled.sum_nats_in_large_chunks(model, hidden, targets))
    for of_ours, of_theirs in zip(ours, theirs, strict=True):
        torch.testing.assert_close(of_theirs, of_ours, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile with")
@pytest.mark.parametrize("tied", [False, True])
def test_the_compiled_head_is_the_head_to_a_millionth(tied, monkeypatch):
    """In float32, by code that is compiled here, in three chunks: nats, and each gradient as a whole."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(compiled, "COMPILED_LOGITS_BYTES", 4 * 101 * 64)
    model, hidden, targets = head_of(tied, 192)
    eager = differentiated(model, hidden, lambda: sum_nats(model.head, hidden, targets, 101))
    counters.clear()
    compiled.compile_training(model)
    theirs = differentiated(model, hidden, lambda: compiled.sum_nats_in_large_chunks(model, hidden, targets))
    assert counters["stats"]["unique_graphs"] == 1
    for of_eager, of_theirs in zip(eager, theirs, strict=True):
        assert torch.linalg.vector_norm(of_theirs - of_eager) <= 1e-6 * torch.linalg.vector_norm(of_eager)


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
