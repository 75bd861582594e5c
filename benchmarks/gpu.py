"""One accelerator: is training there right, exact and fast? Each check in a process of its own, results as JSON.

    python benchmarks/gpu.py --out results.json  # all, those that are timed first: some 11 minutes
    python benchmarks/gpu.py --first             # what matters most, in that order: ends within 300 s
    python benchmarks/gpu.py --only head speed   # some
    python benchmarks/gpu.py --tiny              # everything small, on a CPU

A machine needs torch and numpy and the packages that pyproject.toml names. Where nothing can be downloaded, carry
those that are missing as wheels for its version of Python, `pip download --no-deps --only-binary=:all:
--python-version 3.12 -d wheels msgspec tomli-w backports.zstd` for a machine with torch's usual companions, then
`pip install --no-index --no-deps --target SITE wheels/*` and `PYTHONPATH=SITE:src`. The peers of `speed` run where
they are: transformers where it is installed, nanoGPT where --nanogpt names its model.py.
`--first` is for a machine that is lent for minutes: does it train, how fast, does it ever wait, is the head right, is
memory as planned with Muon, does a killed run go on with the same bits, is a bad gradient skipped. What has not ended
after 300 s is stopped, and a check that has not begun by then says so. On an H100 the first update of 124M is there
after about 30 s, nearly all of it compiling.
MFU is model FLOPs by the shape's own count (PaLM's formula, the full square of attention) over the dense peak.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORDS = ("the", "of", "and", "to", "a", "in", "that", "he", "was", "it", "his", "her", "with", "as", "had", "not", "at")


@dataclasses.dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    batch: int


SIZES = {
    "124M": Size(12, 768, 12, 1024, 50_257, 32),
    "1.3B": Size(24, 2048, 16, 2048, 50_257, 16),
    "tiny": Size(2, 64, 2, 64, 257, 4),
}


@dataclasses.dataclass(frozen=True)
class Here:
    """What the checks of this process share."""

    tiny: bool
    nanogpt: str | None
    scratch: Path

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu" if self.tiny else "cuda")

    def size(self, name: str) -> Size:
        return SIZES["tiny" if self.tiny else name]

    def steps(self, number: int) -> int:
        return min(number, 4) if self.tiny else number


# ---- What is trained


def random_text(size: Size, steps: int, seed: int = 0, document_tokens: int | None = None) -> Any:
    """Random ids, so that nothing is learned and no kernel sees zeros: one document, or of about so many tokens each,
    many of them far shorter, as on the web."""
    import numpy as np

    from hornbook.data.shards import TokenStream

    length = size.batch * size.context * steps + 1
    random = np.random.default_rng(seed)
    ids = random.integers(0, size.vocabulary, length).astype(np.uint32)
    starts = np.array([0])
    if document_tokens is not None:
        ends = np.cumsum(1 + random.exponential(document_tokens, 2 * length // document_tokens).astype(np.int64))
        starts = np.array([0, *ends[ends < length]])
    lengths = np.diff(starts, append=length)
    documents = np.stack([starts, lengths, lengths, lengths, np.ones_like(starts)], 1)
    return TokenStream([ids], documents, ["random"] * len(starts), separator=False)


def made(
    here: Here, name: str, steps: int, world: Any = None, *, document_tokens: int | None = None, **changes: Any
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Parts, settings and shape of a run, everything that is not given chosen as `hornbook train` chooses it."""
    from hornbook.engine.device import this_device
    from hornbook.facts.settings import from_table, overridden
    from hornbook.planning.choose import Machine, choose
    from hornbook.planning.workload import CorpusStats
    from hornbook.setup.build import build

    size = here.size(name)
    text = random_text(size, steps, document_tokens=document_tokens)
    wanted = {
        "model.family": "gpt2", "model.layers": size.layers, "model.width": size.width, "model.heads": size.heads,
        "model.context": size.context, "train.batch": size.batch, "train.steps": steps, "train.compile": True,
        "train.precision": "bfloat16", "train.threads": 1 if here.tiny else os.cpu_count(),
    } | changes  # fmt: skip
    machine = Machine.of(this_device(here.device))
    data = CorpusStats(text.num_tokens, text.num_tokens, size.vocabulary)
    choice = choose(from_table(overridden({}, wanted), source="gpu.py"), data, machine)
    return build(choice.settings, choice.shape, text, here.device, world), choice.settings, choice.shape


def trained(parts: Any, settings: Any, steps: int, *, first: int = 0, lr_scale: float = 1.0) -> Iterator[Any]:
    from hornbook.training.loop import steps as updates

    return updates(
        parts.model, parts.optimizers, parts.batches, first=first, last=steps, lr_schedule=lambda step: lr_scale,
        microbatch=settings.train.microbatch, clip_norm=1.0, seed=0, document_mask=settings.train.document_mask,
        autocast=parts.autocast, uses_weights=lambda step: False, sharded=parts.sharded,
    )  # fmt: skip


def synchronize(here: Here) -> None:
    import torch

    if not here.tiny:
        torch.cuda.synchronize()


def paced(here: Here, step: Callable[[], object], *, warm: int, times: int) -> float:
    """Seconds of each of `times` calls after `warm` of them."""
    for _ in range(warm):
        step()
    synchronize(here)
    begin = time.perf_counter()
    for _ in range(times):
        step()
    synchronize(here)
    return (time.perf_counter() - begin) / times


def memory_now() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


def memory_used() -> float:
    """What is gone of a device's memory: tensors, what the allocator keeps for others, the driver's own."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return float(total - free) / 1e9


# ---- The checks


def hornbook_speed(here: Here, name: str, times: int, **changes: Any) -> dict[str, Any]:
    """Updates as the loop of `hornbook train` makes them, batches from its loader."""
    from hornbook.planning.memory import memory

    size = here.size(name)
    warm = here.steps(8)
    times = here.steps(times)
    begin = time.perf_counter()
    parts, settings, shape = made(here, name, warm + times + 1, **changes)
    updates = trained(parts, settings, warm + times + 1)
    next(updates)
    first = time.perf_counter() - begin
    seconds = paced(here, lambda: next(updates), warm=warm - 1, times=times)
    train = settings.train
    planned = memory(
        shape, train.microbatch, optimizer=settings.optimizer.name, half=train.precision == "bfloat16",
        on_cpu=here.tiny, checkpointing=train.recompute, accumulating=train.microbatch < train.batch,
    )  # fmt: skip
    return speed(here, name, seconds) | {
        "mfu": size.batch * size.context / seconds * shape.flops_per_token() / peak(here),
        "seconds_to_the_first_update": first, "microbatch": settings.train.microbatch,
        "optimizer": settings.optimizer.name, "planned_gigabytes": planned.total / 1e9,
        "used_gigabytes": memory_used(),
        "planned": {key: round(value / 1e9, 3) for key, value in vars_of(planned).items()},
    }  # fmt: skip


def speed_with_muon(here: Here) -> dict[str, Any]:
    """The qwen3 family by Muon, and whether its memory is the planned one, to a tenth."""
    seen = hornbook_speed(here, "124M", 40, **{"model.family": "qwen3", "optimizer.name": "muon"})
    return {"ok": here.tiny or abs(seen["planned_gigabytes"] / seen["used_gigabytes"] - 1) <= 0.1, **seen}


def vars_of(struct: Any) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(struct)


def speed(here: Here, name: str, seconds: float) -> dict[str, Any]:
    size = here.size(name)
    flops = 6 * (12 * size.layers * size.width**2 + size.vocabulary * size.width) + (
        12 * size.layers * size.width * size.context
    )
    rate = size.batch * size.context / seconds
    return {
        "milliseconds": 1e3 * seconds, "tokens_per_second": rate, "mfu": rate * flops / peak(here),
        "peak_gigabytes": memory_now(),
    }  # fmt: skip


def peak(here: Here) -> float:
    from hornbook.engine.device import this_device

    return this_device(here.device).training_flops()[1]


def transformers_speed(here: Here, name: str, times: int) -> dict[str, Any]:
    """transformers' GPT-2 in the leanest loop: compiled as a whole, SDPA, fused AdamW, clipped, nothing read back."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = here.size(name)
    config = GPT2Config(
        n_layer=size.layers, n_embd=size.width, n_head=size.heads, n_positions=size.context, vocab_size=size.vocabulary,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return peer(here, name, times, GPT2LMHeadModel(config), lambda model, x: model(x, use_cache=False).logits)


def nanogpt_speed(here: Here, name: str, times: int) -> dict[str, Any]:
    """nanoGPT's model as its train.py runs it: a vocabulary padded to 50,304, compiled, fused AdamW, clipped."""
    assert here.nanogpt is not None
    spec = importlib.util.spec_from_file_location("nanogpt", here.nanogpt)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt"] = module
    spec.loader.exec_module(module)
    size = here.size(name)
    config = module.GPTConfig(
        block_size=size.context, vocab_size=-(-size.vocabulary // 64) * 64, n_layer=size.layers, n_head=size.heads,
        n_embd=size.width, dropout=0.0, bias=False,
    )  # fmt: skip
    return peer(here, name, times, module.GPT(config), None)


def peer(here: Here, name: str, times: int, model: Any, logits: Any) -> dict[str, Any]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as nanoGPT sets them
    size, device = here.size(name), here.device
    model = model.to(device)
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        tokens = torch.randint(size.vocabulary, (size.batch, size.context + 1), generator=generator)
        if not here.tiny:
            tokens = tokens.pin_memory().to(device, non_blocking=True)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        with torch.autocast(device.type, torch.bfloat16):
            if logits is None:
                _, loss = compiled(inputs, targets)
            else:
                loss = torch.nn.functional.cross_entropy(
                    logits(compiled, inputs).flatten(0, 1).float(), targets.flatten()
                )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    begin = time.perf_counter()
    step()
    synchronize(here)
    first = time.perf_counter() - begin
    seconds = paced(here, step, warm=here.steps(8), times=here.steps(times))
    return speed(here, name, seconds) | {"seconds_to_the_first_update": first}


def check_waits(here: Here) -> dict[str, Any]:
    """No step waits for the device, and the device never waits for a step."""
    import torch

    number = here.steps(20)
    parts, settings, _ = made(here, "124M", number + 1)
    updates = trained(parts, settings, number)
    if here.tiny:
        return {"ok": len(list(updates)) == number}
    for _ in range(5):
        next(updates)
    torch.cuda.synchronize()
    from torch.profiler import ProfilerActivity, profile

    waits = []
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        begin = time.perf_counter()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(6):
                next(updates)
        except RuntimeError as error:
            waits.append(str(error)[:300])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    kernels = sorted(
        ((e.key, e.self_device_time_total / 1e3, e.count) for e in seen.key_averages()), key=lambda e: -e[1]
    )
    busy = sum(each[1] for each in kernels) / 1e3
    return {
        "ok": not waits, "waits": waits, "idle_share": 1 - busy / wall,
        "milliseconds_by_kernel": [[key[:90], round(ms / 7, 3), count] for key, ms, count in kernels[:24]],
    }  # fmt: skip


def check_head(here: Here) -> dict[str, Any]:
    """The head and its loss alone, against float64."""
    import torch

    from hornbook.facts.shape import GPTShape
    from hornbook.likelihood import token_nats
    from hornbook.model import compiled
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise

    size, device = here.size("124M"), here.device
    tokens = size.batch * size.context
    shape = GPTShape(
        family="gpt2", layers=1, width=size.width, heads=size.heads, context=size.context, vocabulary=size.vocabulary
    )
    model = initialise(Decoder(shape), 0).to(device)
    compiled.compile_training(model)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, size.width, generator=generator).to(device).requires_grad_()
    targets = torch.randint(size.vocabulary, (tokens,), generator=generator).to(device)
    weight = model.head.projection.weight

    def step() -> Any:
        hidden.grad = weight.grad = None
        with torch.autocast(device.type, torch.bfloat16):
            nats = compiled.sum_nats_in_large_chunks(model, hidden, targets)
        nats.backward()
        return nats

    nats = float(step())
    before = memory_now()
    seconds = paced(here, step, warm=3, times=here.steps(20))
    x_grad, weight_grad = hidden.grad.double(), weight.grad.double()
    some = slice(0, min(tokens, 4096))
    with torch.no_grad():  # the float64 oracle, in pieces, of the same bfloat16 inputs
        table = weight.bfloat16().double()
        exact, exact_weight, errors = 0.0, torch.zeros_like(table), []
        for start in range(0, tokens, 2048):
            x = model.head.norm(hidden[start : start + 2048]).bfloat16().double()
            logits = x @ table.t()
            exact += float(token_nats(logits, targets[start : start + 2048]).sum())
            p = logits.softmax(-1)
            p[torch.arange(len(p)), targets[start : start + 2048]] -= 1
            exact_weight += p.t() @ x
            errors.append(start)
    relative = float((weight_grad - exact_weight).norm() / exact_weight.norm())
    return {
        "ok": abs(nats / exact - 1) < 1e-5 and relative < 1e-2, "milliseconds": 1e3 * seconds,
        "relative_error_of_nats": nats / exact - 1, "relative_error_of_weight_gradient": relative,
        "finite": bool(x_grad[some].isfinite().all()), "peak_gigabytes": before,
    }  # fmt: skip


def check_compiled(here: Here) -> dict[str, Any]:
    """Twenty losses with compiled code and without, at a rate that lets no difference grow; two graphs, no break."""
    from torch._dynamo.utils import counters

    number = here.steps(20)
    seen = {}
    for compile in (True, False):
        parts, settings, _ = made(here, "124M", number + 1, **{"train.compile": compile})
        seen[compile] = [done.update.loss for done in trained(parts, settings, number, lr_scale=0.02)]
        del parts
    furthest = max(abs(a - b) for a, b in zip(seen[True], seen[False], strict=True))
    graphs, breaks = counters["stats"]["unique_graphs"], dict(counters["graph_break"])
    ends = {"first_loss": seen[True][0], "last_loss": seen[True][-1]}
    return {"ok": furthest < 2e-3 and not breaks, "furthest": furthest, "graphs": graphs, "breaks": breaks} | ends


def check_documents(here: Here) -> dict[str, Any]:
    """Documents of about 500 tokens that attention never crosses: by a flash kernel, by a dense mask, and without."""
    from torch._dynamo.utils import counters

    warm, times = here.steps(8), here.steps(20)
    losses, result = {}, dict[str, Any]()
    for way in ("flash", "mask", "crossed"):
        parts, settings, _ = made(
            here, "124M", warm + times + 1, document_tokens=500,
            **{"train.document_mask": way != "crossed", "train.compile": not here.tiny},
        )  # fmt: skip
        if way == "flash" and parts.batches.pack is None:
            result["flash_is"] = "a dense mask too: there is no such kernel here"
        elif way == "flash":
            result |= attention_in_documents(here, parts.batches, settings.train.microbatch)
        parts.batches.pack = parts.batches.pack if way == "flash" else None
        updates = trained(parts, settings, warm + times, lr_scale=0.02)
        losses[way] = [next(updates).update.loss for _ in range(warm)]
        synchronize(here)
        begin = time.perf_counter()
        losses[way] += [done.update.loss for done in updates]
        result[f"milliseconds_{way}"] = 1e3 * (time.perf_counter() - begin) / times
        result[f"graphs_after_{way}"] = counters["stats"]["unique_graphs"]
        del parts, updates
    furthest = max(abs(a - b) for a, b in zip(losses["flash"], losses["mask"], strict=True))
    share = result["milliseconds_crossed"] / result["milliseconds_flash"]
    is_right = furthest < 1e-3 and not counters["graph_break"] and result.get("furthest_of_attention", 0) < 2e-2
    is_fast = here.tiny or ("flash_is" not in result and share >= 0.9)
    return result | {"ok": is_right and is_fast, "furthest": furthest, "share_of_the_speed_without": share}


def attention_in_documents(here: Here, batches: Any, rows: int) -> dict[str, Any]:
    """Attention alone, its output and gradients, by the flash kernel against the dense mask, and their times: losses of
    random ids would not show what is attended to."""
    import torch

    from hornbook.model import packed
    from hornbook.model.decoder import attention_mask

    size, device, documents = here.size("124M"), here.device, batches.documents(0)[:rows]
    begins = torch.from_numpy(batches.pack(documents, rows)[0]).to(device)
    mask = attention_mask(size.context, 0, torch.from_numpy(documents).to(device), device)
    shape = (rows, size.heads, size.context, size.width // size.heads)
    q, k, v, gradient = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    ways: dict[str, Callable[[], Any]] = {
        "flash": lambda: packed.attention(q, k, v, begins),
        "mask": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        "crossed": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    values, result = {}, {}
    for name, way in ways.items():
        out = way()
        values[name] = [out.detach(), *torch.autograd.grad(out, inputs, gradient)]
        step = partial(lambda way: torch.autograd.grad(way(), inputs, gradient), way)
        result[f"milliseconds_of_attention_{name}"] = 1e3 * paced(here, step, warm=3, times=20)
    pairs = zip(values["flash"], values["mask"], strict=True)
    furthest = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)
    return result | {
        "furthest_of_attention": furthest,
        "segments": int(begins.diff().count_nonzero()),
        "of": len(begins),
    }


def check_deterministic(here: Here) -> dict[str, Any]:
    """The same losses twice, with `train.deterministic` and without, and what it costs."""
    number, result = here.steps(16), {}
    for wanted in (False, True):
        runs, seconds = [], 0.0
        for _ in range(2):
            parts, settings, _ = made(here, "124M", number + 1, **{"train.deterministic": wanted})
            updates = trained(parts, settings, number)
            seen = [next(updates).update.loss for _ in range(number // 2)]
            synchronize(here)
            begin = time.perf_counter()
            seen += [done.update.loss for done in updates]
            seconds = (time.perf_counter() - begin) / (number - number // 2)
            total = sum(float(p.double().abs().sum()) for p in parts.model.parameters())
            runs.append([*seen, total])
            del parts
        result |= {f"equal_{wanted}": runs[0] == runs[1], f"milliseconds_{wanted}": 1e3 * seconds}
    return result | {"ok": result["equal_True"]}


def check_mesh(here: Here) -> dict[str, Any]:
    """The engine of many processes with one alone, by the device's own collectives: the losses of a model that nothing
    wraps, and how fast it is beside that; the probe by a plain model in the same memory."""
    import torch

    from hornbook.engine.world import STORE, join
    from hornbook.evaluation.score import Request, nats_alone, score_tokens

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", STORE: str(here.scratch / "store")}
    world, number, size = join(60.0), here.steps(24), here.size("124M")
    ids = torch.arange(size.context + 1) % size.vocabulary
    request, result = [Request(ids.tolist(), size.context)], {}
    for name, among in (("plain", None), ("mesh", world)):
        parts, settings, _ = made(here, "124M", number + 1, among, **{"train.deterministic": True})
        updates = trained(parts, settings, number)
        seen = [next(updates).update.loss for _ in range(number // 2)]
        synchronize(here)
        begin = time.perf_counter()
        seen += [done.update.loss for done in updates]
        synchronize(here)
        result[f"milliseconds_{name}"] = 1e3 * (time.perf_counter() - begin) / (number - number // 2)
        nats = score_tokens(parts.whole(), request, nats_alone, world=among)[0]["nats"].sum()
        result[name] = [*seen, float(nats)]
        del parts, updates
    world.leave()
    is_equal, speeds = (
        result.pop("plain") == result.pop("mesh"),
        [result[f"milliseconds_{x}"] for x in ("plain", "mesh")],
    )
    return result | {"ok": is_equal, "speed_of_mesh": speeds[0] / speeds[1]}


def some_text(folder: Path, megabytes: float) -> Path:
    """Words by chance, a document a line: enough to train on, nothing to carry."""
    import numpy as np

    chosen = np.random.default_rng(0)
    lines = []
    while sum(map(len, lines)) < megabytes * 1e6:
        lines.append(" ".join(chosen.choice(list(WORDS), 400).tolist()) + "\n")
    path = folder / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run_options(here: Here, out: Path, steps: int) -> list[str]:
    size = here.size("124M")
    context = min(size.context, 256)
    return [
        sys.executable, "-m", "hornbook", "train", str(some_text(here.scratch, 0.05 if here.tiny else 4)), "--out",
        str(out),
        "--tokenizer", "bytes", "--model.family", "gpt2", "--model.layers", str(size.layers), "--model.width",
        str(size.width), "--model.heads", str(size.heads), "--model.context", str(context), "--train.batch", "16",
        "--steps", str(steps), "--json",
    ]  # fmt: skip


def check_train(here: Here) -> dict[str, Any]:
    """`hornbook train` of 124M-like blocks to its report."""
    begin = time.perf_counter()
    done = subprocess.run(run_options(here, here.scratch / "run", 40), capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        return {"ok": False, "error": done.stderr[-1500:]}
    summary = json.loads(done.stdout)
    names = ("step", "validation_loss_nats_per_token", "tokens_per_second", "mfu", "peak_memory_bytes", "wall_seconds")
    environment = json.loads((here.scratch / "run" / "environment.json").read_text())
    return {
        "ok": (here.scratch / "run" / "reports").is_dir(), "seconds": seconds, "said": done.stderr[-1500:],
        "accelerator": environment.get("accelerator"), **{name: summary.get(name) for name in names},
    }  # fmt: skip


def check_resume(here: Here) -> dict[str, Any]:
    """A run that is killed and goes on in a new process has the losses of one that was not."""
    seen = {}
    for name in ("whole", "killed"):
        out = here.scratch / name
        options = [*run_options(here, out, 24), "--train.deterministic", "true", "--checkpoint.every", "8"]
        if name == "killed":
            child = subprocess.Popen(options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            while child.poll() is None and last_step(out) < 12:
                time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
            child.wait()
        done = subprocess.run(options, capture_output=True, text=True)
        if done.returncode:
            return {"ok": False, "error": done.stderr[-1500:]}
        from hornbook.records.run import Run

        seen[name] = [row["train_loss_nats_per_token"] for row in Run.open(out).rows() if row["event"] == "step"]
    return {"ok": seen["whole"] == seen["killed"], "steps": len(seen["whole"]), "last": seen["whole"][-1]}


def last_step(run: Path) -> int:
    with contextlib.suppress(OSError):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line).get("step", 0) for line in lines if line.endswith("}")), default=0)
    return 0


def check_evaluation(here: Here) -> dict[str, Any]:
    """Nats of a text: the same bits for any grouping, the CPU's to 1e-5."""
    import numpy as np
    import torch

    from hornbook.evaluation.corpus import Conventions, EncodedDocument, document_records

    size = here.size("124M")
    parts, _, _ = made(here, "124M", 2, **{"train.compile": False})
    ids = np.random.default_rng(3).integers(0, size.vocabulary, (6, 3 * size.context)).astype(np.int32)
    documents = [
        EncodedDocument(str(i), row, 1, 1, 1, "", np.ones(size.vocabulary, np.int32)) for i, row in enumerate(ids)
    ]
    how = Conventions(size.context, size.context // 2, 0)

    def scored(model: Any, batch: int, some: list[Any], device: Any) -> Any:
        return np.concatenate([r["nats"] for r in document_records(model, some, how, batch_size=batch)])

    one, many = (scored(parts.model, batch, documents, here.device) for batch in (1, 64))
    begin = time.perf_counter()
    for _ in range(here.steps(4)):
        scored(parts.model, 64, documents, here.device)
    rate = here.steps(4) * 2 * ids.size / (time.perf_counter() - begin)
    there = scored(parts.model.to("cpu"), 64, documents[:1], torch.device("cpu"))
    furthest = float(np.abs(there - many[: len(there)]).max())
    return {
        "ok": bool((one == many).all()) and furthest < 1e-3, "same_bits": bool((one == many).all()),
        "furthest_from_the_cpu": furthest, "tokens_computed_per_second": rate,
    }  # fmt: skip


def check_generation(here: Here) -> dict[str, Any]:
    """Greedy text: the CPU's ids, and how fast."""
    from hornbook.model.generate import generate

    parts, _, _ = made(here, "124M", 2, **{"train.compile": False})
    number = 16 if here.tiny else 200

    def written(times: int) -> list[int]:
        return list(generate(parts.model, [1, 2, 3], max_tokens=times, temperature=0.0))

    ids = written(number)
    begin = time.perf_counter()
    written(number)
    rate = number / (time.perf_counter() - begin)
    parts.model.to("cpu")
    same = written(32)
    return {"ok": ids[: len(same)] == same[: len(ids)], "tokens_per_second": rate}


def check_save(here: Here, name: str = "124M") -> dict[str, Any]:
    """How long training stands still for a checkpoint that is written beside it, the second: the first gets memory."""
    import torch

    from hornbook.engine import checkpoint, loading
    from hornbook.engine.saving import Saver

    parts, settings, shape = made(here, name, 5, **{"train.compile": False})
    list(trained(parts, settings, 2))
    saver, paused, whole = Saver(1), [], []
    for step in (1, 2):
        synchronize(here)
        begin = time.perf_counter()
        contents = checkpoint.contents(parts.model, parts.optimizers)
        final = here.scratch / checkpoint.name(step)
        write = partial(checkpoint.write, final, step=step, shape=shape, state={})
        saver.write(contents, write, then=lambda: None, beside=True)
        paused.append(time.perf_counter() - begin)
        wanted = [tensor.detach().to("cpu", copy=True) for tensor in contents[checkpoint.MODEL].values()]
        list(trained(parts, settings, 2 + step, first=1 + step))
        saver.settle()
        whole.append(time.perf_counter() - begin)
        loading.verify(final)
        kept = loading.stored(final, checkpoint.MODEL)
        same = all(torch.equal(kept[name], tensor) for name, tensor in zip(kept, wanted, strict=True))
        if not same:
            return {"ok": False, "error": "the file holds other weights than were to be saved"}
    gigabytes = sum(t.nbytes for tensors in contents.values() for t in tensors.values()) / 1e9
    return {"ok": True, "seconds_paused": paused, "seconds_until_on_disk": whole, "gigabytes": gigabytes}


def check_faults(here: Here) -> dict[str, Any]:
    """A gradient that is not a number changes no bit; too little memory is one sentence."""
    import torch

    parts, settings, _ = made(here, "124M", 4, **{"train.compile": False})
    list(trained(parts, settings, 2))

    def state() -> list[Any]:
        tensors = [*parts.model.parameters(), *(t for o in parts.optimizers for t in o.state().values())]
        return [tensor.detach().clone() for tensor in tensors]

    before = state()
    spoil = parts.model.blocks[0].mlp.down.weight.register_hook(lambda gradient: gradient * float("nan"))
    bad = next(iter(trained(parts, settings, 3, first=2)))
    same = all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    spoil.remove()
    good = next(iter(trained(parts, settings, 4, first=3)))
    return {
        "ok": same and bad.update.gradient_norm is None and good.update.gradient_norm is not None,
        "same_bits": same, "updates": parts.optimizers[-1].updates,
    }  # fmt: skip


def check_memory(here: Here) -> dict[str, Any]:
    """`hornbook train` on a device with too little memory: one sentence, exit code 1."""
    if here.tiny:
        return {"ok": True, "skipped": "a CPU has no limit to set"}
    limit = "import torch; torch.cuda.set_per_process_memory_fraction(0.03)\n"
    options = [*run_options(here, here.scratch / "small", 10)[3:], "--train.microbatch", "16", "--train.batch", "64"]
    program = (
        f"{limit}import sys\nfrom hornbook.cli import main\nsys.argv = ['hornbook', *{options!r}]\nsys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1:] or [""]
    return {"ok": done.returncode == 1 and "Traceback" not in done.stderr, "code": done.returncode, "said": last[0]}


def attention_kernels(here: Here) -> dict[str, Any]:
    """Forward and backward of attention by each backend, at the shape of 124M."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    size, device = here.size("124M"), here.device
    shape = (size.batch, size.heads, size.context, size.width // size.heads)
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    result: dict[str, Any] = {"ok": True}
    for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):

        def step(backend: str = backend) -> None:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

        try:
            result[backend] = 1e3 * paced(here, step, warm=3, times=here.steps(20))
        except RuntimeError as error:
            result[backend] = str(error)[:200]
    return result


CHECKS: dict[str, tuple[Callable[[Here], dict[str, Any]], int]] = {
    "speed": (lambda here: {"ok": True, **hornbook_speed(here, "124M", 40)}, 100),
    "nanogpt": (lambda here: {"ok": True, **nanogpt_speed(here, "124M", 40)}, 100),
    "transformers": (lambda here: {"ok": True, **transformers_speed(here, "124M", 40)}, 100),
    "waits": (check_waits, 60),
    "head": (check_head, 60),
    "train": (check_train, 120),
    "faults": (check_faults, 40),
    "compiled": (check_compiled, 60),
    "documents": (check_documents, 120),
    "deterministic": (check_deterministic, 100),
    "resume": (check_resume, 150),
    "mesh": (check_mesh, 100),
    "evaluation": (check_evaluation, 60),
    "generation": (check_generation, 60),
    "memory": (check_memory, 60),
    "save": (check_save, 60),
    "large save": (partial(check_save, name="1.3B"), 240),
    "attention": (attention_kernels, 40),
    "large": (lambda here: {"ok": True, **hornbook_speed(here, "1.3B", 12)}, 120),
    "large nanogpt": (lambda here: {"ok": True, **nanogpt_speed(here, "1.3B", 12)}, 120),
    "muon": (speed_with_muon, 100),
}  # fmt: skip
FIRST, FIRST_SECONDS = ("speed", "waits", "head", "muon", "resume", "faults"), 300.0  # by value, and for all together
UNTIMED = ("train", "faults", "compiled", "resume", "memory")  # several at once


def machine() -> dict[str, Any]:
    import torch

    from hornbook.engine.accelerator import accelerator_facts
    from hornbook.engine.device import device
    from hornbook.records.environment import environment

    facts = {"torch": torch.__version__, "commit": environment()["git_commit"]}
    return facts | ({} if device().type == "cpu" else {"accelerator": accelerator_facts(device())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="NAME")
    parser.add_argument("--first", action="store_true", help=f"{', '.join(FIRST)}: within {FIRST_SECONDS:.0f} s")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--nanogpt", help="nanoGPT's model.py, to be its peer")
    parser.add_argument("--out", type=Path, help="a JSON file for all results")
    parser.add_argument("--child", choices=[*CHECKS, "machine"], help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "machine":
        print(json.dumps(machine()))
        return
    if arguments.child:
        print(json.dumps(CHECKS[arguments.child][0](Here(arguments.tiny, arguments.nanogpt, arguments.scratch))))
        return
    results: dict[str, Any] = {}
    ends = time.perf_counter() + FIRST_SECONDS if arguments.first else float("inf")
    wanted = FIRST if arguments.first else arguments.only
    names = [n for n in wanted if "nanogpt" not in n or arguments.nanogpt]
    if "transformers" in names and importlib.util.find_spec("transformers") is None:
        names.remove("transformers")

    def run(name: str) -> None:
        begin = time.perf_counter()
        results[name] = outcome(name, arguments.tiny, arguments.nanogpt, ends - begin)
        print(name, round(time.perf_counter() - begin, 1), "s", json.dumps(results[name]), flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(results, indent=1))

    for name in ["machine", *(name for name in names if name not in UNTIMED)]:
        run(name)
    with ThreadPoolExecutor(1 if arguments.tiny else 3) as pool:
        list(pool.map(run, [name for name in names if name in UNTIMED]))
    sys.exit(0 if all(result.get("ok", True) for result in results.values()) else 1)


def outcome(name: str, tiny: bool, nanogpt: str | None, left_seconds: float) -> dict[str, Any]:
    """What a check says, in a process of its own, which gets `left_seconds` at most."""
    command = [sys.executable, __file__, "--child", name]
    command += ["--tiny"] * tiny + (["--nanogpt", nanogpt] if nanogpt else [])
    limit = min(60 if name == "machine" else CHECKS[name][1], round(left_seconds, 1))
    if limit <= 0:
        return {"ok": False, "error": "not begun: the time for all was over"}
    with tempfile.TemporaryDirectory() as scratch:
        check = subprocess.Popen(
            [*command, "--scratch", scratch], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, errors = check.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(check.pid, signal.SIGKILL)  # with what it has started
            return {"ok": False, "error": f"not done in {limit} s", "said": check.communicate()[1][-1500:]}
    if check.returncode:
        return {"ok": False, "error": errors[-2500:]}
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


if __name__ == "__main__":
    main()
