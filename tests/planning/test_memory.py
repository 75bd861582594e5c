import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.shape import GPTShape
from hornbook.planning.memory import largest_microbatch, memory, saved_bytes

SHAPES = [
    GPTShape(family="qwen3", layers=3, width=64, heads=2, context=32, vocabulary=97),
    GPTShape(family="qwen3", layers=2, width=64, heads=4, kv_heads=2, context=32, vocabulary=97),
    GPTShape(family="llama", layers=2, width=96, heads=3, context=64, vocabulary=97),
    GPTShape(family="gpt2", layers=4, width=64, heads=2, context=32, vocabulary=97),
]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.family}-{shape.kv_heads}")
def test_saved_bytes_are_what_autograd_keeps(shape: GPTShape, half: bool, dropout: float) -> None:
    """Counted from the saved tensors of the real decoder, but the weights and their copies in half precision; within
    2 %, for the rotary tables and the norms' statistics."""
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise

    model = initialise(Decoder(shape, dropout=dropout), 0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    copies = {tuple(size) for p in model.blocks.parameters() for size in (p.shape, p.t().shape)}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):  # type: ignore[no-untyped-def]
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = 7
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.hidden(torch.zeros(batch, shape.context, dtype=torch.int64))
    counted = sum(t.untyped_storage().nbytes() for t in kept.values() if not (half and tuple(t.shape) in copies))
    products = half and shape.kv_heads == shape.heads
    layer = saved_bytes(shape, half=half, products=products, dropout=dropout > 0)
    before = 4 * shape.width * (dropout > 0 and shape.kind.positions == "learned")  # what enters the first block
    predicted = (layer * shape.layers + before) * batch * shape.context
    assert predicted == pytest.approx(counted, rel=0.02)


def test_states_of_the_optimizers() -> None:
    shape = SHAPES[0]
    parts = shape.parameters_by_part()
    matrices = parts["attention"] + parts["mlp"]
    assert memory(shape, 1, optimizer="adamw").optimizer == 8 * shape.parameters
    assert memory(shape, 1, optimizer="muon").optimizer == 8 * shape.parameters - 4 * matrices


@given(st.integers(1, 64), st.booleans(), st.booleans(), st.sampled_from(SHAPES))
def test_memory_grows_with_the_microbatch(microbatch: int, checkpointing: bool, on_cpu: bool, shape: GPTShape) -> None:
    less = memory(shape, microbatch, checkpointing=checkpointing, on_cpu=on_cpu)
    more = memory(shape, microbatch + 1, checkpointing=checkpointing, on_cpu=on_cpu)
    assert less.total <= more.total
    assert less.activations < more.activations
    if shape.layers > 2:
        assert memory(shape, microbatch, checkpointing=True).activations < memory(shape, microbatch).activations


@given(st.integers(2 * 10**8, 10**10), st.sampled_from(SHAPES))
def test_the_largest_microbatch_fits_and_one_more_does_not(room: int, shape: GPTShape) -> None:
    most = largest_microbatch(room, lambda microbatch: memory(shape, microbatch))
    if most:
        assert memory(shape, most).total <= room
    assert memory(shape, most + 1).total > room


def test_shards_divide_the_states() -> None:
    whole, part = memory(SHAPES[0], 1), memory(SHAPES[0], 1, shards=4)
    assert part.optimizer == whole.optimizer // 4
    assert part.gradients == whole.gradients // 4
    assert part.activations == whole.activations
    assert whole.buffers == 0 < part.buffers


def test_dropout_is_drawn_from_one_stream_and_so_by_one_worker() -> None:
    plain, dropped = (memory(SHAPES[0], 8, threads=2, dropout=dropout) for dropout in (False, True))
    assert (plain.gradients, dropped.gradients) == (8 * SHAPES[0].parameters, 4 * SHAPES[0].parameters)
    assert dropped.activations > plain.activations


def test_gradients_beside_one_block_when_recomputing() -> None:
    """They take the place of the logits and of the inputs of blocks, 64 windows of 32 tokens and 64 numbers in each of
    4; what is inside a block comes and goes at each, before its own gradient is there."""
    shape = SHAPES[3]
    needed, parts = memory(shape, 64, checkpointing=True, threads=1), shape.parameters_by_part()
    inputs, of_a_block = 64 * 32 * 64 * 4 * 4, parts["attention"] + parts["mlp"]
    assert needed.logits == 4 * shape.vocabulary * shape.width
    assert needed.replaced == inputs + of_a_block + needed.logits
    expected = needed.weights + needed.optimizer + needed.activations + needed.logits + needed.process
    assert needed.total == expected + max(0, needed.gradients - needed.replaced)


def test_muon_needs_room_for_its_largest_stack() -> None:
    """16 square matrices of 64: gradients, their average with the momentum, two iterates and two products."""
    shape = SHAPES[3]
    adamw, muon = memory(shape, 1), memory(shape, 1, optimizer="muon")
    assert adamw.updating == 4 * shape.parameters + 4 * shape.vocabulary * shape.width  # a tied table has two
    assert muon.updating == 4 * shape.parameters + 6 * 4 * 16 * 64 * 64


# Peak resident MiB of 12 steps (2 for the last) of forward, backward and AdamW in a process of its own, one thread.
MEASURED = [
    ("qwen3", 6, 256, 4, 0, 256, 4096, 16, 1644),
    ("qwen3", 8, 320, 5, 0, 512, 8192, 8, 2371),
    ("gpt2", 6, 384, 6, 0, 256, 65, 32, 2136),
    ("llama", 4, 256, 4, 2, 512, 32768, 8, 1294),
    ("qwen3", 2, 64, 2, 0, 64, 512, 64, 377),
    ("qwen3", 4, 128, 4, 0, 128, 1024, 32, 681),
    ("gpt2", 4, 128, 4, 0, 64, 65, 12, 287),
    ("qwen3", 6, 192, 6, 0, 256, 2048, 32, 2007),
    ("gpt2", 12, 768, 12, 0, 512, 50257, 2, 2819),
]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row[0]}-{row[1]}x{row[2]}")
def test_measured_peaks_within_15_percent(row) -> None:  # type: ignore[no-untyped-def]
    family, layers, width, heads, kv_heads, context, vocabulary, batch, mib = row
    shape = GPTShape(
        family=family, layers=layers, width=width, heads=heads, kv_heads=kv_heads, context=context,
        vocabulary=vocabulary,
    )  # fmt: skip
    assert memory(shape, batch).total / 2**20 == pytest.approx(mib, rel=0.15)
