"""Bytes on each device while training, by part, and the largest microbatch that fits.

The activations are counted from what the decoder's operations keep for the backward pass: see `saved_bytes`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import msgspec

from hornbook.facts.hardware import Accelerator, cpu_workers, usable_cores
from hornbook.facts.limits import COMPILED_LOGITS_BYTES, COUNTED_TOKENS, LOGITS_BYTES
from hornbook.facts.shape import GPTShape
from hornbook.planning.health import RunFacts

LOGITS_COPIES = 2  # logits and their log-softmax, whose place their gradient takes
CPU_PROCESS_BYTES = 245 * 2**20  # Python with torch imported and the buffers of its kernels; measured, Linux, CPU build
# Modules of PyTorch that recomputing imports when it is first called, and most of them `torch.distributed`; measured.
RECOMPUTING_BYTES, SEVERAL_BYTES = 80 * 2**20, 45 * 2**20
GPU_PROCESS_BYTES = 500 * 2**20  # context and kernels of a driver
# glibc gives freed blocks below 32 MiB back late and in pieces: beyond what is allocated, the peak resident size holds
# this share of the activations, or of the gradients of blocks where those are more, of both over shards, whose weights
# and gradients come and go a block at a time; by the norm, dropout as LayerNorm, measured. See `engine/heap.py`.
CPU_FRAGMENTATION = {"layer": 0.35, "rms": 0.6}
# The n-gram baselines are made beside the model (`evaluation.baselines`): bytes per token of the training text at their
# peak (tracemalloc, and the text), measured on English. In BPE, 4M tokens: 82 of 2,368 ids, 98 of 32,000, up to 140
# in shorter texts, which hold little. In bytes: 57 in 30 kB, 38 in 1 MB.
COUNTED_IN_WORDS, COUNTED_IN_CHARACTERS, FEW_IDS = 100, 45, 512
GPU_MARGIN = 0.05  # rounding and fragmentation of torch's caching allocator, of everything


class Memory(msgspec.Struct, frozen=True):
    """Bytes by part on one device.

    Without accumulation, gradients take the place of the activations as the backward pass frees them, and the peak is
    where the larger of both stands; when recomputing, they take that of the inputs of blocks and, on a CPU, of the
    logits, beside the inside of one block. Over several microbatches a step, they stand beside activations. N-gram
    baselines are counted while neither stands, nor do activations in the update."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    process: int
    margin: int
    accumulating: bool
    counting: int = 0
    best: int = 0  # copies of the best look's state, until the next checkpoint
    buffers: int = 0  # of shards in the backward pass: weights outside the blocks, and gradients that are being summed
    replaced: int = 0  # when recomputing: how much of the gradients is there only as what it takes the place of is not
    updating: int = 0  # gradients and what the update needs beside them

    @property
    def total(self) -> int:
        """The peak."""
        forward = self.activations + self.logits + self.buffers
        more = self.gradients if self.accumulating else max(0, self.gradients - (self.replaced or forward))
        peak = max(forward + more, self.updating, self.counting)
        return self.weights + self.optimizer + self.best + peak + self.process + self.margin


def saved_bytes(
    shape: GPTShape, *, half: bool = False, on_cpu: bool = True, products: bool = False, dropout: bool = False
) -> int:
    """Bytes that one layer keeps per token for its backward pass, without checkpointing.

    With width D, queries Q = heads x head width, keys K = kv heads x head width, hidden H:
    each norm keeps its input and output (2 D; RMS norm on a CPU also the normalised input, 3 D);
    QK-norm keeps the same of queries and keys; attention its queries, keys, values, output and one number per head;
    a gated MLP its gate before and after the activation, the other branch and their product (4 H), else 2 H.
    All in 4 bytes; with `half` (autocast) the output of a norm, attention and MLP are in 2, on an accelerator also what
    flows between the blocks (GPT-2's of 124M and 1.3B parameters held 33 and 32 D bytes a layer on an H100, where this
    says 32); where attention is computed in `products` it keeps a probability per head and token of the context. With
    `dropout` it also keeps what was drawn for the 2 D that enter the residual stream, on an accelerator in a byte each;
    a CPU has no kernel for attention then, which keeps three such probabilities, and all heads' keys, in 4 bytes.

    >>> saved_bytes(GPTShape(family="gpt2", layers=1, width=8, heads=2, context=4, vocabulary=16)) // 4
    130
    """
    family, D = shape.kind, shape.width
    Q, K = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    inputs = 1 if family.norm == "layer" or not on_cpu else 2
    normed = inputs * (2 * D + (Q + K) * family.qk_norm)
    itemsize = 2 if half else 4
    attention = itemsize * (Q + 2 * K + shape.heads * (shape.context if products else 1))
    if dropout and on_cpu:
        attention = 4 * 3 * (Q + shape.heads * shape.context)
    rest = itemsize * (2 * D + Q + shape.hidden * (4 if family.gated_mlp else 2))
    return (4 if on_cpu else itemsize) * normed + rest + attention + 2 * D * dropout * (itemsize if on_cpu else 1)


def counting_bytes(train_tokens: int, vocabulary: int) -> int:
    """The most that counting the n-grams of a training text holds, beside the text.

    >>> round(counting_bytes(3_150_000, 2368) / 2**20), counting_bytes(10**12, 50257) == counting_bytes(2**22, 50257)
    (300, True)
    """
    token_bytes = COUNTED_IN_CHARACTERS if vocabulary < FEW_IDS else COUNTED_IN_WORDS
    return min(train_tokens, COUNTED_TOKENS) * token_bytes


def evaluation_bytes(shape: GPTShape, threads: int | None = None) -> int:
    """The logits of `likelihood.head_logits` on each worker of a CPU, whose place the worker keeps."""
    rows = min(256, 1 << (LOGITS_BYTES // (8 * shape.vocabulary)).bit_length() - 1)
    return cpu_workers(shape.width, threads or usable_cores()) * rows * shape.vocabulary * 4


def memory(
    shape: GPTShape, microbatch: int, *, optimizer: str = "adamw", half: bool = False, checkpointing: bool = False,
    accumulating: bool = False, on_cpu: bool = True, threads: int | None = None, shards: int = 1, processes: int = 1,
    dropout: bool = False,
) -> Memory:  # fmt: skip
    """Bytes of one device that trains `microbatch` windows at once.

    `optimizer`: "adamw" keeps two numbers per parameter, "muon" one per matrix of a block and two per other parameter.
    `half` (autocast to 2 bytes) adds 2-byte copies of the weights. `threads` of a CPU compute rows of their own where
    the model is narrow, by default all that may be used. `shards` > 1 divides weights, gradients and optimizer over
    that many devices (fully sharded), with two layers gathered at a time. `processes` train together, at least
    `shards`.

    >>> shape = GPTShape(family="gpt2", layers=12, width=768, heads=12, context=1024, vocabulary=50257)
    >>> memory(shape, 1).weights, memory(shape, 1).optimizer  # 124,439,808 parameters
    (497759232, 995518464)
    """
    parts, tokens = shape.parameters_by_part(), microbatch * shape.context
    parameters, blocks = sum(parts.values()), parts["attention"] + parts["mlp"]
    workers = 1 if not on_cpu or dropout else min(cpu_workers(shape.width, threads or usable_cores()), microbatch)
    gathered = 2 * (blocks // shape.layers) * 4 if shards > 1 else 0
    moments = 2 * parameters - blocks if optimizer == "muon" else 2 * parameters
    products = half and on_cpu and shape.context <= 8 * shape.head_width and shape.kv_heads == shape.heads
    layer = saved_bytes(shape, half=half, on_cpu=on_cpu, products=products, dropout=dropout)
    itemsize = 2 if half else 4
    # Beside what is kept: the gradients that flow through one layer at a time, the widest in its MLP or in attention.
    in_attention = 2 * 4 * shape.heads * shape.context * (dropout and on_cpu)
    flowing = max((3 if shape.kind.gated_mlp else 2) * shape.hidden * itemsize, in_attention) + 2 * shape.width * 4
    inputs = tokens * shape.width * shape.layers * 4 if checkpointing else 0
    inside = tokens * (layer * (1 if checkpointing else shape.layers) + flowing)
    activations = inputs + inside
    logits = _logits(shape, tokens, workers, half, on_cpu, inside * checkpointing)
    copies = (blocks // (shape.layers if checkpointing else 1)) * 2 * workers if half else 0  # of weights
    modules = max(RECOMPUTING_BYTES * checkpointing, SEVERAL_BYTES * (max(shards, processes) > 1))
    parts_of = Memory(
        weights=(parameters * 4 + (0 if on_cpu else parameters * 2 * half)) // shards + gathered,
        gradients=parameters * 4 * workers // shards,
        optimizer=moments * 4 // shards,
        activations=activations + (copies if on_cpu else 0),
        logits=logits,
        process=CPU_PROCESS_BYTES + modules if on_cpu else GPU_PROCESS_BYTES,
        margin=0,
        accumulating=accumulating,
        replaced=(inputs + blocks * 4 * workers // (shape.layers * shards) + logits * on_cpu) * checkpointing,
        **_beside(shape, optimizer, shards, on_cpu, half),
    )
    if on_cpu:
        pieces = (activations, blocks * 4 * workers)
        in_pieces = 0 if checkpointing else sum(pieces) if shards > 1 else max(pieces)
        margin = CPU_FRAGMENTATION["layer" if dropout else shape.kind.norm] * in_pieces
    else:
        margin = GPU_MARGIN * parts_of.total
    return msgspec.structs.replace(parts_of, margin=int(margin))


def _logits(shape: GPTShape, tokens: int, workers: int, half: bool, on_cpu: bool, after: int) -> int:
    """A chunk of logits on each worker, and the gradient of the table, which is summed over chunks. On a CPU the chunk
    is freed before the `after` bytes are needed, of the inside of a block that is computed again."""
    table, itemsize = shape.vocabulary * shape.width * workers, 2 if half else 4
    if on_cpu:
        chunk = round(min(tokens * shape.vocabulary * 4, LOGITS_BYTES * workers) * (LOGITS_COPIES + half))
        return max(0, chunk - after) + table * (8 if half else 4)
    return min(tokens * shape.vocabulary * itemsize, COMPILED_LOGITS_BYTES) + table * (4 + itemsize)


def _beside(shape: GPTShape, optimizer: str, shards: int, on_cpu: bool, half: bool) -> dict[str, int]:
    """`buffers` and `updating` of `Memory`.

    Muon's largest stack of matrices of one shape is there as gradients, their average with the momentum, two
    iterates and two of their products, which are as large for square ones; as whole matrices twice more over shards. A
    tied table has two gradients, which are added up."""
    gradients, work = 4 * shape.parameters // shards, 4 * shape.vocabulary * shape.width if shape.tied else 0
    if optimizer == "muon":
        sides = _largest_stack(shape)
        itemsize = 2 if half and not on_cpu else 4
        numbers = sides[0] * sides[1] * sides[2] // shards
        ratio = min(sides[1:]) / max(sides[1:])
        work = max(work, int(numbers * (8 + itemsize * (2 + 2 * ratio + (2 if shards > 1 else 0)))))
    if shards == 1:
        return {"updating": gradients + work}
    from hornbook.planning.parallel import beside_shards

    buffers, of_shards = beside_shards(shape, gradients, on_cpu)
    return {"buffers": buffers, "updating": gradients + max(work, of_shards)}


def _largest_stack(shape: GPTShape) -> tuple[int, int, int]:
    """(how many, rows, columns) of the matrices of one shape in the blocks that have the most numbers."""
    D, Q, K, H = shape.width, shape.heads * shape.head_width, shape.kv_heads * shape.head_width, shape.hidden
    sizes = [(Q, D), (K, D), (K, D), (D, Q), (H, D), (D, H)] + [(H, D)] * shape.kind.gated_mlp
    stacks = [(sizes.count(size) * shape.layers, *size) for size in set(sizes)]
    return max(stacks, key=lambda stack: (stack[0] * stack[1] * stack[2], stack))


def largest_microbatch(memory_bytes: int, needs: Callable[[int], Memory]) -> int:
    """The most windows that fit into `memory_bytes` at once, 0 when not even one does; `needs` gives the memory of a
    microbatch and grows with it.

    >>> shape = GPTShape(family="gpt2", layers=12, width=768, heads=12, context=1024, vocabulary=50257)
    >>> needs = lambda microbatch: memory(shape, microbatch, half=True, on_cpu=False)
    >>> largest_microbatch(10**9, needs), needs(largest_microbatch(24 * 10**9, needs)).total < 24 * 10**9
    (0, True)
    """
    return bisect_right(range(1, 2**20), memory_bytes, key=lambda windows: needs(windows).total)


# Preparing, tokenizers, scoring and plots of a job on a CPU, beside its training, and for each id of the vocabulary its
# place in the tokenizer; measured.
JOB_BYTES, ID_BYTES = 55 * 2**20, 500


def memory_by_choice(shape: GPTShape, accelerator: Accelerator, facts: RunFacts | None) -> Callable[..., Memory]:
    """Memory of one device as a function of checkpointing, microbatch and how many devices share a copy, by default 1.

    Mixed precision where the accelerator has 16-bit arithmetic, on a CPU where the run says so.
    """
    on_cpu = not any(dtype in accelerator.peak_flops for dtype in ("bfloat16", "float16"))
    half = not on_cpu or (facts is not None and facts.precision == "bfloat16")
    names = ("optimizer", "threads", "processes", "accumulating", "dropout")
    given: dict[str, Any] = {} if facts is None else {name: getattr(facts, name) for name in names}

    def parts(checkpointing: bool, microbatch: int, shards: int = 1) -> Memory:
        needed = memory(
            shape, microbatch, half=half, checkpointing=checkpointing, on_cpu=on_cpu, shards=shards, **given
        )
        if not on_cpu or facts is None:
            return needed
        job = JOB_BYTES + ID_BYTES * shape.vocabulary + evaluation_bytes(shape, facts.threads)
        return msgspec.structs.replace(
            needed, process=needed.process + job,
            counting=counting_bytes(facts.train_tokens or 0, shape.vocabulary),
            best=facts.is_scored * needed.weights + facts.may_decide * needed.optimizer,
        )  # fmt: skip

    return parts
