"""Documents for a flash kernel, as far as a machine without one can show it: the numbers it is given, what is computed
with them by a plain kernel in its place, and what is compiled and traced around it."""

import json
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode

from hornbook.data.loader import Batches
from hornbook.data.shards import TokenStream
from hornbook.facts.shape import GPTShape
from hornbook.model import packed
from hornbook.model.decoder import Decoder, attention_mask
from hornbook.training import step
from hornbook.training.loop import microbatches, steps
from hornbook.training.packed import SPARE, document_begins, is_met_once, pack_documents

CPU = torch.device("cpu")


def a_text(lengths, separator):
    """A stream of documents of so many tokens, each with one more in front if there is a `separator`."""
    ends = np.cumsum([length + separator for length in lengths])
    starts = ends - lengths
    documents = np.array([[s, n, 0, 0, 0] for s, n in zip(starts, lengths, strict=True)], np.int64)
    ids = np.random.default_rng(0).integers(0, 257, ends[-1]).astype(np.uint32)
    return TokenStream([ids], documents, [str(i) for i in range(len(lengths))], separator=separator)


def packing(part):
    return partial(document_begins, per_token=len(part.documents) / part.num_tokens)


def segments(begins):
    return [slice(start, end) for start, end in pairwise(begins.tolist()) if end > start]


def by_segments(q, k, v, begins):
    """Causal attention of each segment alone, of (tokens, heads, width)."""
    grouped, pieces = q.shape[1] != k.shape[1], []
    for segment in segments(begins):
        one = (x[segment].transpose(0, 1)[None] for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=grouped)
        pieces.append(mixed[0].transpose(0, 1))
    return torch.cat(pieces)


def gradients_by_segments(gradient, q, k, v, begins):
    """Of `by_segments`, written down by hand: below autograd none is recorded."""
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    group, scale = q.shape[1] // k.shape[1], q.shape[2] ** -0.5
    for segment in segments(begins):
        o, queries, *rest = (x[segment].transpose(0, 1) for x in (gradient, q, k, v))
        keys, values = (x.repeat_interleave(group, 0) for x in rest)
        later = torch.ones(q[segment].shape[0], q[segment].shape[0], dtype=torch.bool).triu(1)
        p = (queries @ keys.mT * scale).masked_fill(later, -torch.inf).softmax(-1)
        dp = o @ values.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
        dq[segment] = (ds @ keys).transpose(0, 1)
        for out, each in ((dk, ds.mT @ queries), (dv, p.mT @ o)):
            out[segment] = each.unflatten(0, (-1, group)).sum(1).transpose(0, 1)
    return dq, dk, dv


CALLS = []  # of the kernel


def check(q, k, begins, max_length, is_causal):
    """What the kernel demands on a GPU, but for half precision."""
    lengths = begins.diff()
    assert begins.dtype == torch.int32
    assert begins.is_contiguous()
    assert begins[0] == 0
    assert begins[-1] == len(q) == len(k)
    assert 0 <= lengths.min() <= lengths.max() <= max_length
    assert q.stride(-1) == k.stride(-1) == 1
    assert is_causal


@varlen._varlen_attn.register_kernel("cpu")
def forward(q, k, v, begins, begins_k, max_q, max_k, is_causal=False, *options):
    """The operator that is a flash kernel on a GPU, one segment at a time."""
    CALLS.append(tuple(q.shape))
    check(q, k, begins, max_q, is_causal)
    assert torch.equal(begins, begins_k)
    assert max_q == max_k
    return by_segments(q, k, v, begins), torch.zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)


@varlen._varlen_attn_backward.register_kernel("cpu")
def backward(gradient, q, k, v, out, lse, begins, begins_k, max_q, max_k, is_causal, *options):
    check(q, k, begins, max_q, is_causal)
    return gradients_by_segments(gradient, q, k, v, begins)


@pytest.fixture(autouse=True)
def no_calls_yet():
    CALLS.clear()


@settings(deadline=None)
@given(
    lengths=st.lists(st.one_of(st.just(0), st.just(1), st.integers(0, 40)), min_size=1, max_size=30),
    separator=st.booleans(),
    context=st.integers(1, 24),
    batch=st.integers(1, 6),
    rows=st.integers(1, 7),
    number=st.integers(0, 20),
)
def test_segments_are_what_the_mask_says(lengths, separator, context, batch, rows, number):
    """With documents that go on in the next row, empty ones, one in all rows, and as many as tokens."""
    assume(sum(lengths) + separator * len(lengths) >= 2)
    part = a_text(lengths, separator)
    assume(is_met_once(part, context))
    batches = Batches(part, context=context, batch=batch, seed=1)
    masked = list(microbatches(batches, number, rows, CPU, True))
    batches.pack = packing(part)
    generator = torch.Generator().manual_seed(0)
    for (inputs, _, documents), (same, _, begins) in zip(
        masked, microbatches(batches, number, rows, CPU, True), strict=True
    ):
        B, T = inputs.shape
        assert torch.equal(inputs, same)
        assert begins.dtype == torch.int32
        assert begins[0] == 0
        assert begins[-1] == B * T
        assert (begins.diff() >= 0).all()
        assert set(range(0, B * T, T)) <= set(begins.tolist())
        q, k, v = (torch.randn(B, 2, T, 8, generator=generator) for _ in range(3))
        wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask(T, 0, documents, CPU))
        flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
        got = by_segments(*flat, begins).view(B, T, 2, 8).transpose(1, 2)
        torch.testing.assert_close(got, wanted, atol=2e-6, rtol=1e-5)


def test_a_document_whose_two_pieces_a_mask_joins_is_not_packed():
    """Its end and, after the end of the stream and the other documents, its beginning."""
    part = a_text([50, 3], separator=False)
    assert not is_met_once(part, 8)
    assert is_met_once(part, 3)
    assert is_met_once(a_text([50], separator=True), 8)  # there is no other
    documents = part.document_ids(np.array([45]), 12)
    assert documents.tolist() == [[0] * 5 + [1] * 3 + [0] * 4]


def test_the_length_is_the_same_for_all_batches_and_doubles_where_a_piece_has_more():
    generator = np.random.default_rng(0)
    part = a_text(generator.integers(100, 2000, 300).tolist(), separator=True)
    batches = Batches(part, context=256, batch=12, seed=3)
    batches.pack = packing(part)
    lengths = {len(begins) for n in range(60) for *_, begins in microbatches(batches, n, 5, CPU, True)}
    expected = 5 * 256 * 300 / part.num_tokens
    assert lengths == {5 + 2 * int(expected) + SPARE + 1}
    dense = np.arange(400, dtype=np.int32).reshape(4, 100)  # each token a document
    begins, length = document_begins(dense, 2, 0.001)
    assert length == 16 * (2 + SPARE) + 1
    assert begins.reshape(2, length)[:, :201].tolist() == [list(range(201))] * 2


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_process_has_its_pieces(ranks):
    part = a_text([40] * 30, separator=True)
    batches = Batches(part, context=16, batch=8, seed=3)
    batches.pack = packing(part)
    whole = list(microbatches(batches, 2, 3, CPU, True))
    shares = [list(microbatches(batches, 2, 3, CPU, True, (rank, ranks))) for rank in range(ranks)]
    dealt = [piece for pieces in zip(*shares, strict=True) for piece in pieces]
    for ours, theirs in zip(dealt, whole, strict=False):
        assert torch.equal(ours[0], theirs[0])
        assert ours[2].unique().tolist() == theirs[2].unique().tolist()


HOW = {"first": 0, "last": 3, "microbatch": 3, "lr_schedule": lambda step: 1.0, "clip_norm": 1.0, "seed": 4}


@pytest.mark.parametrize(("family", "recompute"), [("gpt2", False), ("qwen3", False), ("qwen3", True)])
def test_training_is_that_with_a_mask(make, family, recompute):
    """Through the operator that a GPU computes, and its gradient."""
    part = a_text([40, 3, 0, 17] * 8, separator=True)
    losses, weights = [], []
    for pack in (None, packing(part)):
        model, optimizers = make(family=family)
        model.recompute = recompute
        batches = Batches(part, context=16, batch=8, seed=4)
        batches.pack = pack
        losses.append([s.update.loss for s in steps(model, optimizers, batches, document_mask=True, **HOW)])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert len(CALLS) == 2 * 3 * 3 * (1 + recompute)  # layers, pieces, updates
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fewer_heads_of_keys_and_values(kv_heads):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 16, 8, generator=generator)
    k, v = (torch.randn(2, kv_heads, 16, 8, generator=generator) for _ in range(2))
    documents = torch.tensor([[0] * 5 + [1] * 11, [1] * 16], dtype=torch.int32)
    begins = torch.from_numpy(document_begins(documents.numpy(), 2, 0.0)[0])
    mask = attention_mask(16, 0, documents, CPU)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(packed.attention(q, k, v, begins), wanted, atol=2e-6, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):  # what is rotated is in float32
        assert packed.attention(q, k, v, begins).dtype == torch.bfloat16


class NoReading(TorchDispatchMode):
    """Whoever reads a number of a tensor raises, except inside an operator: on an accelerator it would wait."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number was read"
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_step_with_documents_reads_nothing(make, is_packed, monkeypatch):
    monkeypatch.setattr(step, "reading_is_free", lambda device: False)
    part = a_text([40] * 30, separator=True)
    batches = Batches(part, context=16, batch=8, seed=3)
    batches.pack = packing(part) if is_packed else None
    model, optimizers = make()
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    with NoReading():
        pieces = list(microbatches(batches, 1, 3, CPU, True))
        pending = step.train_step(
            model, optimizers, pieces, lr_scale=1.0, clip_norm=1.0, autocast=half, num_tokens=8 * 16
        )  # fmt: skip
    assert pending.read().loss > 0
    assert bool(CALLS) is is_packed


def test_where_the_kernel_can_be_used(monkeypatch):
    def is_possible(width=64, dropout=0.0, on="cuda"):
        shape = GPTShape(family="gpt2", layers=1, width=4 * width, heads=4, context=16, vocabulary=257)
        return packed.is_possible(shape, dropout, torch.device(on))

    assert not is_possible()  # this PyTorch was not built for it
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert is_possible()
    assert is_possible(width=256)
    assert not any((is_possible(width=260), is_possible(width=20), is_possible(dropout=0.1), is_possible(on="xpu")))
    long, short = a_text([2000] * 20, separator=True), a_text([20] * 200, separator=True)
    model = Decoder(GPTShape(family="gpt2", layers=1, width=32, heads=4, context=16, vocabulary=257))
    for part, gains in ((long, True), (short, False)):
        batches = Batches(part, context=16, batch=2, seed=0)
        pack_documents(batches, model, torch.device("cuda"))
        assert (batches.pack is not None) is gains
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not is_possible()


GRAPHS = """
import sys
from functools import partial
import numpy as np
import torch
from torch._dynamo.utils import counters
sys.path.insert(0, sys.argv[1])
import test_packed as tests
from hornbook.data.loader import Batches
from hornbook.model.compiled import compile_training
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW
from hornbook.training.loop import steps

real = torch.compile
torch.compile = lambda function, **options: real(function, backend="aot_eager", **options)
shape = tests.GPTShape(family="qwen3", layers=3, width=32, heads=4, kv_heads=2, context=32, vocabulary=257)
model = initialise(Decoder(shape), 0)
compile_training(model)
rates = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
optimizers = [AdamW(dict(model.named_parameters()), **rates)]
part = tests.a_text(np.random.default_rng(0).integers(5, 200, 60).tolist(), separator=True)
batches = Batches(part, context=32, batch=8, seed=4)
batches.pack = tests.packing(part)
half, graphs = partial(torch.autocast, "cpu", torch.bfloat16), []
how = dict(tests.HOW, last=12, microbatch=4)
for done in steps(model, optimizers, batches, document_mask=True, autocast=half, **how):
    graphs.append(counters["stats"]["unique_graphs"])
print(graphs, sum(counters["graph_break"].values()), round(done.update.loss, 1))
"""


def test_blocks_share_one_graph_over_all_batches():
    """One of the blocks and one of the head, whatever documents a batch has."""
    command = [sys.executable, "-c", GRAPHS, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"{[2] * 12} 0 "), done.stdout + done.stderr[-3000:]


STEPS = """
import ctypes, json, sys
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from hornbook.facts.shape import GPTShape
from hornbook.model.compiled import compile_training
from hornbook.model.decoder import Decoder
from hornbook.optim.adamw import AdamW
from hornbook.training.step import train_step

family, kv_heads, is_packed = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "packed"
B, T, graphs = 3, 48, []

def kept(graph, inputs):
    graphs.append(graph.graph)
    return make_boxed_func(graph.forward)

backend, real = aot_autograd(fw_compiler=kept, bw_compiler=kept), torch.compile
torch.compile = lambda function, **options: real(function, backend=backend, **options)
torch.set_autocast_enabled("cuda", True)  # as torch.autocast does where there is a GPU
torch.set_autocast_dtype("cuda", torch.bfloat16)
shape = GPTShape(family=family, layers=3, width=64, heads=4, kv_heads=kv_heads, context=T, vocabulary=257)
rates = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
with FakeTensorMode(), torch.device("cuda"):
    model = Decoder(shape)
    compile_training(model)
    optimizers = [AdamW(dict(model.named_parameters()), **rates)]
    for _ in range(2):
        tokens = torch.zeros(B, T, dtype=torch.int64)
        documents = torch.zeros(B + 17 if is_packed else (B, T), dtype=torch.int32)
        batch = [(tokens, tokens, documents)] * 2
        pending = train_step(model, optimizers, batch, lr_scale=1.0, clip_norm=1.0, num_tokens=2 * B * T)
    try:
        read = float(next(model.parameters()).sum())
    except DataDependentOutputException:
        read = None
    gradients = {(p.grad.device.type, str(p.grad.dtype), p.grad.shape == p.shape) for p in model.parameters()}
nodes = [node for graph in graphs for node in graph.nodes]
values = [node.meta["val"] for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)]
print(json.dumps({
    "graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values()),
    "operators": [str(node.target) for node in nodes if "attn" in str(node.target)],
    "inputs": [[str(x.meta["val"].dtype), *x.meta["val"].shape] for node in nodes if "attn" in str(node.target)
               for x in node.args[:5] if hasattr(x, "meta")],
    "squares": sum(value.shape[-2:] == (T, T) for value in values), "read": read, "gradients": sorted(gradients),
}))
"""


@pytest.fixture(scope="module")
def no_device(tmp_path_factory):
    if shutil.which("g++") is None or torch.version.cuda is not None:
        pytest.skip("needs g++ and a PyTorch that was built without CUDA")
    library, here = tmp_path_factory.mktemp("built") / "no_device.so", Path(torch.__file__).parent
    command = [
        "g++",
        "-std=c++20",
        "-shared",
        "-fPIC",
        str(Path(__file__).parent / "no_device.cpp"),
        "-o",
        str(library),
    ]
    command += [f"-I{here}/include", f"-L{here}/lib", f"-Wl,-rpath,{here}/lib", "-Wl,--no-as-needed"]
    subprocess.run([*command, "-lc10", "-ltorch_cpu"], check=True)
    return library


@pytest.mark.parametrize(("family", "kv_heads"), [("gpt2", 4), ("qwen3", 2)])
def test_updates_of_fake_tensors_of_a_gpu(no_device, family, kv_heads):
    """Two whole updates with documents that nobody knows, traced as on a GPU: one graph for all blocks and batches, the
    kernel in it and nothing of size T x T. Whatever read a number would raise."""

    def traced(documents):
        command = [sys.executable, "-c", STEPS, str(no_device), family, str(kv_heads), documents]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    seen = traced("packed")
    assert seen["operators"] == ["torch_attn._varlen_attn.default", "torch_attn._varlen_attn_backward.default"]
    queries, keys = ["torch.bfloat16", 3 * 48, 4, 16], ["torch.bfloat16", 3 * 48, kv_heads, 16]
    begins = ["torch.int32", 20]
    assert seen["inputs"] == [queries, keys, keys, begins, begins, queries, queries, keys, keys, queries]
    assert (seen["graphs"], seen["breaks"], seen["squares"], seen["read"]) == (2, 0, 0, None)
    assert seen["gradients"] == [["cuda", "torch.float32", True]]
    if family == "gpt2":
        assert traced("masked")["squares"] > 0


def test_a_run_on_a_cpu_loads_nothing_of_it(tmp_path, english):
    (tmp_path / "text.txt").write_text(english[:20_000], encoding="utf-8")
    run = (
        "import sys, hornbook; "
        "hornbook.train('text.txt', out='run', **{'train.steps': 2, 'train.document_mask': True, 'model.layers': 1}); "
        "print([name for name in sys.modules if name.endswith(('varlen', '.packed'))])"
    )
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
