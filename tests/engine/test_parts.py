"""Checkpoints that several ranks have written: each the rows that it holds, read by any number of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import hornbook
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine import loading
from hornbook.engine.saving import Saver
from hornbook.engine.tensor_files import RowsOf, write_tensors
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW

VOLATILE = {"wall_seconds", "tokens_per_second"}  # of an answer: what differs from one time to the next


def rows_of(tensor: torch.Tensor, rank: int, ranks: int) -> RowsOf:
    """As torch shards: equal parts, the last ones smaller or empty."""
    each = -(-len(tensor) // ranks)
    return RowsOf(tensor[rank * each : (rank + 1) * each], min(rank * each, len(tensor)), len(tensor))


def cut(contents, rank, ranks):
    return {
        file: {name: rows_of(tensor, rank, ranks) for name, tensor in tensors.items()}
        for file, tensors in contents.items()
    }


def write_parts(final: Path, contents, ranks: int, *, step, shape, state) -> Path:
    aside = checkpoints.begin(final)
    files = {}
    for rank in range(ranks):
        files |= checkpoints.write_part(aside, cut(contents, rank, ranks), rank=rank, ranks=ranks)
    return checkpoints.commit(final, aside, files, step=step, shape=shape, state=state)


def trained(make, **how):
    model, optimizers = make(**how)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    for optimizer in optimizers:
        optimizer.step(1.0)
    return model, optimizers


@pytest.fixture
def written(tmp_path, make):
    """(the checkpoint in four parts, its contents)."""
    model, optimizers = trained(make)
    contents = checkpoints.contents(model, optimizers)
    folder = write_parts(
        tmp_path / checkpoints.name(5), contents, 4, step=5, shape=model.shape, state={"updates": 1}
    )  # fmt: skip
    return folder, contents


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ranks", [2, 4, 5, 40])
def test_parts_are_read_as_one(tmp_path, make, bits, tied, ranks):
    """40 ranks: most of them hold no row of a matrix of 16."""
    model, optimizers = trained(make, tied=tied)
    wanted, contents = bits(model, optimizers), checkpoints.contents(model, optimizers)
    write_parts(tmp_path / "step-00000005", contents, ranks, step=5, shape=model.shape, state={"updates": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005"]
    loading.verify(tmp_path / "step-00000005")
    other, others = make(seed=8, tied=tied)
    assert loading.load_into(tmp_path / "step-00000005", model=other, optimizers=others)["step"] == 5
    read = bits(other, others)
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[name], wanted[name]) for name in wanted)
    alone = loading.load_model(tmp_path / "step-00000005")
    assert all(torch.equal(p, wanted[name]) for name, p in alone.named_parameters())


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_any_number_of_ranks_reads_and_writes_again(tmp_path, written, ranks):
    folder, contents = written
    manifest = checkpoints.read_manifest(folder)
    files, again = {}, checkpoints.begin(tmp_path / "step-00000006")
    for rank in range(ranks):
        parts = cut(contents, rank, ranks)
        only = {name: (r.first, r.first + len(r.tensor)) for t in parts.values() for name, r in t.items()}
        held = {}
        for file, tensors in parts.items():
            stored = loading.stored(folder, file, only)
            held[file] = {name: RowsOf(stored[name], rows.first, rows.total) for name, rows in tensors.items()}
            for name, rows in tensors.items():
                assert torch.equal(stored[name], rows.tensor)
                assert torch.equal(stored.rows(name, 0, rows.total), contents[file][name])
        if ranks == 1:
            held = {file: {name: rows.tensor for name, rows in tensors.items()} for file, tensors in held.items()}
        files |= checkpoints.write_part(again, held, rank=rank, ranks=ranks)
    shape = loading.shape_of(folder)
    end = checkpoints.commit(again.with_name("step-00000006"), again, files, step=6, shape=shape, state={})
    loading.verify(end)
    for file, tensors in contents.items():
        stored = loading.stored(end, file)
        assert stored.keys() == tensors.keys()
        assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    if ranks == 1:  # the same files as of a run that never was in parts
        whole = checkpoints.write(tmp_path / "step-00000007", contents, step=6, shape=shape, state={})
        assert checkpoints.read_manifest(whole) == checkpoints.read_manifest(end)
        assert checkpoints.read_manifest(end)["version"] == 1
        assert manifest["version"] == 2


def test_the_rows_stand_in_the_metadata_of_each_file(written):
    folder, contents = written
    parts = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert parts == [f"model-{rank:05d}-of-00004.safetensors" for rank in (1, 2, 3, 4)]
    name = (
        "embedding.weight"
        if "embedding.weight" in contents["model.safetensors"]
        else next(iter(contents["model.safetensors"]))
    )
    whole, read = contents["model.safetensors"][name], []
    for part in parts:
        with safe_open(folder / part, framework="pt") as file:
            first, total = json.loads(file.metadata()["rows"])[name]
            assert (first, total) == (sum(map(len, read)), len(whole))
            read.append(file.get_tensor(name))
    assert torch.equal(torch.cat(read), whole)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _swap(folder: Path, a: str, b: str) -> None:
    (folder / a).rename(folder / "aside")
    (folder / b).rename(folder / a)
    (folder / "aside").rename(folder / b)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: (f / "model-00003-of-00004.safetensors").unlink(), "model-00003-of-00004.safetensors is missing"),
        (lambda f: _flip(f / "model-00002-of-00004.safetensors"), "model-00002-of-00004.safetensors fails its"),
        (lambda f: _swap(f, "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors"),
         "model-00002-of-00004.safetensors fails its checksum"),
        (lambda f: _flip(f / "optimizer-00004-of-00004.safetensors"), "optimizer-00004-of-00004.safetensors fails"),
    ],
)  # fmt: skip
def test_a_part_that_is_missing_swapped_or_damaged_is_named(written, make, harm, sentence):
    folder, _ = written
    harm(folder)
    with pytest.raises(InputError, match=sentence):
        loading.verify(folder)
    model, optimizers = make()
    with pytest.raises(InputError, match=sentence):
        loading.load_into(folder, model=model, optimizers=optimizers)
    if sentence.startswith("model"):
        with pytest.raises(InputError, match=sentence):
            loading.load_model(folder)
    noticed = 0
    for rank in range(3):  # each reads a third of the files, one of them notices
        try:
            loading.verify(folder, rank=rank, ranks=3)
        except InputError:
            noticed += 1
    assert noticed >= 1


@pytest.mark.parametrize("left_out", ["model", "optimizer"])
def test_parts_that_are_not_the_whole_are_never_committed(tmp_path, make, left_out):
    """As of ranks of which one holds other rows than the others think, or has not written."""
    model, optimizers = trained(make)
    contents, files, aside = checkpoints.contents(model, optimizers), {}, checkpoints.begin(tmp_path / "step-00000005")
    for rank in (0, 1, 3):
        files |= checkpoints.write_part(aside, cut(contents, rank, 4), rank=rank, ranks=4)
    with pytest.raises(InputError, match=r"do not have each row of \S+ once"):
        checkpoints.commit(tmp_path / "step-00000005", aside, files, step=5, shape=model.shape, state={})
    files |= checkpoints.write_part(aside, cut(contents, 2, 4), rank=2, ranks=4)
    del files[f"{left_out}-00001-of-00004.safetensors"]
    with pytest.raises(InputError, match=r"do not have each row of \S+ once"):
        checkpoints.commit(tmp_path / "step-00000005", aside, files, step=5, shape=model.shape, state={})
    checkpoints.abandon(aside)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["model", "optimizer"])
def test_what_is_not_finite_on_one_rank_makes_no_good_checkpoint(tmp_path, make, file):
    model, optimizers = trained(make)
    contents = {name: dict(tensors) for name, tensors in checkpoints.contents(model, optimizers).items()}
    name, tensor = max(contents[f"{file}.safetensors"].items(), key=lambda item: len(item[1]))
    contents[f"{file}.safetensors"][name] = bad = tensor.clone()
    bad[-1] = float("nan")  # among the rows of the last rank
    write_parts(tmp_path / "step-00000005", contents, 4, step=5, shape=model.shape, state={})
    with pytest.raises(InputError, match=f"is no good: {name} holds numbers that are not finite"):
        loading.verify(tmp_path / "step-00000005")


def test_rows_twice_are_refused(tmp_path):
    tensor = torch.ones(4, 2)
    write_tensors(tmp_path / "a", {"x": RowsOf(tensor[:3], 0, 4)})
    write_tensors(tmp_path / "b", {"x": RowsOf(tensor[2:], 2, 4)})
    write_tensors(tmp_path / "c", {"x": RowsOf(tensor[3:], 3, 4)})
    write_tensors(tmp_path / "d", {"x": RowsOf(tensor[3:].half(), 3, 4)})
    from hornbook.engine.loading import Stored

    assert torch.equal(Stored(tmp_path / "c", tmp_path / "a")["x"], tensor)
    for wrong in ("ab", "aac", "a", "ad"):
        with pytest.raises(InputError, match="damaged"):
            Stored(*(tmp_path / name for name in wrong))


# Four processes write their parts; the one that was told to sends SIGKILL to itself at its k-th flush. Rank 0 commits
# where all the others have written. It prints (rank, k, exit codes, checkpoints that verify).
KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
from hornbook.engine import checkpoint, loading
from hornbook.engine.tensor_files import RowsOf
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW

folder, ranks = Path(sys.argv[1]), 4
shape = GPTShape(family="gpt2", layers=1, width=16, heads=2, context=8, vocabulary=48)
model = initialise(Decoder(shape), 0)
rates = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8, "weight_decay": 0.0}
whole = checkpoint.contents(model, [AdamW(dict(model.named_parameters()), **rates)])

def held(rank):
    def rows(t):
        n = len(t) // ranks
        return RowsOf(t[rank * n : (rank + 1) * n], rank * n, len(t))
    return {file: {name: rows(t) for name, t in tensors.items()} for file, tensors in whole.items()}

def kill_at(k):
    flushes, real = iter(range(100)), os.fsync
    def fsync(descriptor):
        if next(flushes) == k:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)
    os.fsync = fsync

def in_a_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(3)
        os._exit(0)
    return pid

def write(final, victim, k):
    ends = [os.pipe() for _ in range(ranks)]
    aside_at = os.pipe()
    def rank_0():
        kill_at(k if victim == 0 else -1)
        aside = checkpoint.begin(final)
        files = checkpoint.write_part(aside, held(0), rank=0, ranks=ranks)
        os.write(aside_at[1], str(aside).encode() * 1)
        for read, w in ends[1:]:
            os.close(w)
            part = b"".join(iter(lambda: os.read(read, 65536), b""))
            if not part:
                os._exit(4)  # that rank is gone: nothing is committed
            files |= json.loads(part)
        checkpoint.commit(final, aside, files, step=1, shape=shape, state={})
    first = in_a_child(rank_0)
    os.close(aside_at[1])
    aside = Path(os.read(aside_at[0], 4096).decode())
    os.close(aside_at[0])
    others = []
    for rank in range(1, ranks):
        def other():
            kill_at(k if victim == rank else -1)
            files = checkpoint.write_part(aside, held(rank), rank=rank, ranks=ranks)
            os.write(ends[rank][1], json.dumps(files).encode())
        if aside.name:
            others.append(in_a_child(other))
    for read, w in ends:
        os.close(w)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (first, *others)]
    for read, w in ends:
        os.close(read)
    return codes

write(folder / checkpoint.name(1), None, -1)
number = 2
for victim, flushes in ((0, 6), (2, 3)):
    for k in range(flushes):
        codes = write(folder / checkpoint.name(number), victim, k)
        whole_ones = sorted(p.parent.name for p in folder.glob("step-*/manifest.json"))
        for name in whole_ones:
            loading.verify(folder / name)
            assert torch.equal(loading.load_model(folder / name).head.projection.weight,
                               model.head.projection.weight)
        print(victim, k, -9 in codes, f"step-{number:08d}" in whole_ones, flush=True)
        number += 1
write(folder / checkpoint.name(99), None, -1)
print(sorted(p.name for p in folder.iterdir() if p.name.startswith(".")))
"""


def test_a_rank_killed_at_any_flush_leaves_whole_checkpoints_only(tmp_path):
    source = str(Path(hornbook.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "0 0 True False",  # rank 0 inside its part of the weights, of the optimizer's state, the manifest, the folder:
        "0 1 True False",
        "0 2 True False",
        "0 3 True False",
        "0 4 True True",  # after the rename
        "0 5 False True",
        "2 0 True False",  # rank 2 inside its parts
        "2 1 True False",
        "2 2 False True",
        "[]",  # what was left is cleared away by the next save
    ], done.stderr


def test_what_is_written_beside_training_keeps_its_rows(tmp_path, make):
    model, optimizers = trained(make)
    contents = checkpoints.contents(model, optimizers)
    saver = Saver(every=1, beside=True)
    copied = saver._copied(cut(contents, 1, 4))
    for file, tensors in cut(contents, 1, 4).items():
        for name, rows in tensors.items():
            assert copied[file][name][1:] == rows[1:]
            assert torch.equal(copied[file][name].tensor, rows.tensor)
            assert copied[file][name].tensor.data_ptr() != rows.tensor.data_ptr() or not rows.tensor.numel()


@pytest.fixture(scope="module")
def twice(tmp_path_factory, tiny_run):
    """Two folders with a run: "whole", and "parts", where its checkpoints are in three parts."""
    folder = tmp_path_factory.mktemp("twice")
    for name in ("whole", "parts"):
        shutil.copytree(tiny_run.folder, folder / name)
    for checkpoint in [*(folder / "parts" / "run" / "checkpoints").iterdir()]:
        manifest = checkpoints.read_manifest(checkpoint)
        files = [file for file in (checkpoints.MODEL, checkpoints.OPTIMIZER) if file in manifest["files"]]
        contents = {file: dict(loading.stored(checkpoint, file)) for file in files}
        shape, state = loading.shape_of(checkpoint), manifest["state"]
        write_parts(checkpoint, contents, 3, step=manifest["step"], shape=shape, state=state)
        assert not (checkpoint / checkpoints.MODEL).exists()
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "run", "text.txt"),
        ("generate", "run", "The", "--max-tokens", "20", "--seed", "3"),
        ("inspect", "run", "A short text."),
        ("inspect", "run"),
        ("compare", "run", "run", "--step-a", "0", "--on", "text.txt"),
    ],
)
def test_every_command_says_the_same_of_a_checkpoint_in_parts(twice, hornbook_in, command):
    spoken = []
    for name in ("whole", "parts"):
        finished = hornbook_in(twice / name)(*command, "--json")
        assert finished.code == 0, finished.stderr
        spoken.append({key: value for key, value in finished.json.items() if key not in VOLATILE})
    assert spoken[0] == spoken[1]


@pytest.mark.parametrize("to", ["huggingface", "gguf"])
def test_it_exports_to_the_same_bytes(twice, hornbook_in, to):
    for name in ("whole", "parts"):
        finished = hornbook_in(twice / name)("export", "run", "--to", to, "--out", to)
        assert finished.code == 0, finished.stderr
    suffix = {"huggingface": "safetensors", "gguf": "gguf"}[to]
    (whole,), (parts,) = ([*(twice / name / to).glob(f"*.{suffix}")] for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_run_goes_on_from_parts_as_from_the_whole(twice, hornbook_in):
    """And one process writes whole files again."""
    ends = []
    for name in ("whole", "parts"):
        finished = hornbook_in(twice / name)("train", "--out", "run", "--steps", "30", "--json")
        assert finished.code == 0, finished.stderr
        ends.append(twice / name / "run" / "checkpoints" / "step-00000030")
    assert (ends[0] / checkpoints.MODEL).read_bytes() == (ends[1] / checkpoints.MODEL).read_bytes()


LOADED = """
import sys
from pathlib import Path
from hornbook.engine import checkpoint, loading

def peak():  # ru_maxrss would count what the parent had
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

loading.load_model(Path(sys.argv[1]))
before = peak()
model = loading.load_model(Path(sys.argv[2]))
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print((peak() - before) / weights)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read in /proc")
def test_loading_holds_the_weights_once(tmp_path):
    """200 MB of weights in four parts, after a small model has loaded all that loading imports."""
    for name, layers in (("small", 1), ("large", 16)):
        shape = GPTShape(family="gpt2", layers=layers, width=512, heads=8, context=64, vocabulary=256)
        contents = checkpoints.contents(Decoder(shape), ())
        write_parts(tmp_path / name / "step-00000000", contents, 4, step=0, shape=shape, state={})
    folders = [str(tmp_path / name / "step-00000000") for name in ("small", "large")]
    source = str(Path(hornbook.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *folders], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert float(done.stdout) < 1.1


SPREAD = """
import sys
from pathlib import Path
import torch
from hornbook.engine import loading, parts
from hornbook.engine.sharding import Sharded
from hornbook.engine.world import join
from hornbook.model.decoder import Decoder
from hornbook.optim.adamw import AdamW
from hornbook.training.loop import TrainState

torch.set_num_threads(1)
world = join(60.0)

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

for folder in map(Path, sys.argv[1:]):
    before = peak()
    with torch.device("meta"):
        model = Decoder(loading.shape_of(folder))
    sharded = Sharded(model, world, 1, device=torch.device("cpu"))
    rates = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8, "weight_decay": 0.0}
    state = TrainState(model, [AdamW(sharded.local, **rates)], None, None, sharded)
    if world.rank:
        world.hear()
    state.load(folder)
    with torch.no_grad(), world.in_step():  # as where something looks at the model
        state.whole().hidden(torch.zeros(1, 64, dtype=torch.int64))
    if world.rank:
        parts.write_part(sharded, Path(world.hear()[1]["aside"]), state.contents(optimizers=True))
    else:
        state.write(state.contents(optimizers=True), folder / "again", step=1, state={})
held = sum(rows.tensor.nbytes for tensors in state.contents(optimizers=True).values() for rows in tensors.values())
print((peak() - before) / held)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read in /proc")
def test_a_rank_that_loads_looks_and_saves_holds_its_rows_alone(tmp_path):
    """110 MB of weights and 230 MB of moments, read by two ranks: the whole would be twice what each holds. A look
    takes a few blocks, of 7 MB."""
    for name, layers in (("small", 1), ("large", 16)):
        shape = GPTShape(family="gpt2", layers=layers, width=384, heads=8, context=64, vocabulary=256)
        model = initialise(Decoder(shape), 0)
        rates = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8, "weight_decay": 0.0}
        contents = checkpoints.contents(model, [AdamW(dict(model.named_parameters()), **rates)])
        checkpoints.write(tmp_path / name, contents, step=1, shape=shape, state={"updates": 1})
    variables = {"WORLD_SIZE": "2", "HORNBOOK_STORE": str(tmp_path / "store"), "GLOO_SOCKET_IFNAME": "lo"}
    variables |= {"PYTHONPATH": str(Path(hornbook.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SPREAD, str(tmp_path / "small"), str(tmp_path / "large")]
    ranks = [
        subprocess.Popen(command, env={**os.environ, **variables, "RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    for rank in ranks:
        assert float(rank.communicate(timeout=300)[0]) < 1.3
    loading.verify(tmp_path / "large" / "again")
    assert checkpoints.read_manifest(tmp_path / "large" / "again")["version"] == 2
