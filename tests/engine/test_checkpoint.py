import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

import hornbook
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine import loading
from hornbook.engine.loading import Stored
from hornbook.engine.tensor_files import write_tensors
from hornbook.facts.errors import InputError

FILES = ("model.safetensors", "optimizer.safetensors", "manifest.json")


def write(folder, model, optimizers, step=5, **state):
    contents, state = checkpoints.contents(model, optimizers), {"updates": 3, **state}
    return checkpoints.write(folder / checkpoints.name(step), contents, step=step, shape=model.shape, state=state)


def train_a_little(model, optimizers):
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    for optimizer in optimizers:
        optimizer.step(1.0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_round_trip_keeps_every_bit(tmp_path, make, bits, family, tied):
    model, optimizers = make(family=family, tied=tied)
    train_a_little(model, optimizers)
    wanted = bits(model, optimizers)
    folder = write(tmp_path, model, optimizers, best=0.1 + 0.2)
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000005"]
    loading.verify(folder)
    other, others = make(seed=8, family=family, tied=tied)
    manifest = loading.load_into(folder, model=other, optimizers=others)
    assert manifest["step"] == 5
    assert manifest["state"] == {"updates": 3, "best": 0.1 + 0.2}
    found = bits(other, others)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert others[1].updates == 3
    alone = loading.load_model(folder)
    assert alone.shape == model.shape
    assert all(torch.equal(p, wanted[name]) for name, p in alone.named_parameters())
    assert ("head.projection.weight" in load_file(folder / "model.safetensors")) is not tied


def test_the_same_weights_give_the_same_file(tmp_path, make):
    contents = []
    for name in ("a", "b"):
        model, optimizers = make()
        folder = write(tmp_path / name, model, optimizers)
        contents.append([(folder / file).read_bytes() for file in FILES])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_flipped_bit_is_refused(tmp_path, make, file, place):
    model, optimizers = make()
    folder = write(tmp_path, model, optimizers)
    content = bytearray((folder / file).read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        loading.verify(folder)
    with pytest.raises(InputError, match="damaged"):
        loading.load_into(folder, model=model, optimizers=optimizers)


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_or_missing_file_is_refused(tmp_path, make, file):
    model, optimizers = make()
    folder = write(tmp_path, model, optimizers)
    content = (folder / file).read_bytes()
    for rest in (content[:-1], content[: len(content) // 2], b""):
        (folder / file).write_bytes(rest)
        with pytest.raises(InputError, match="damaged"):
            loading.verify(folder)
    (folder / file).unlink()
    with pytest.raises(InputError, match=r"missing|not a checkpoint"):
        loading.verify(folder)


def test_weights_of_another_shape_or_optimizer_are_refused(tmp_path, make):
    model, optimizers = make()
    folder = write(tmp_path, model, optimizers)
    other, others = make(vocabulary=300)
    with pytest.raises(InputError, match="do not fit"):
        loading.load_into(folder, model=other, optimizers=others)
    folder = write(tmp_path, model, optimizers[:1], step=6)
    with pytest.raises(InputError, match="another optimizer"):
        loading.load_into(folder, model=model, optimizers=optimizers)


# The child sends SIGKILL to itself at the k-th flush of a save: inside a file, before the rename, or after it.
KILLED = """
import os, signal, sys
from pathlib import Path
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW
from hornbook.engine import checkpoint, loading

folder = Path(sys.argv[1])
model = initialise(Decoder(GPTShape(family="gpt2", layers=1, width=16, heads=2, context=8, vocabulary=50)), 0)
rates = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8, "weight_decay": 0.0}
optimizers = [AdamW(dict(model.named_parameters()), **rates)]

def save(step):
    contents = checkpoint.contents(model, optimizers)
    checkpoint.write(folder / checkpoint.name(step), contents, step=step, shape=model.shape, state={})

save(1)
for k in range(6):
    if os.fork() == 0:
        flushes, real = iter(range(100)), os.fsync
        def fsync(descriptor):
            if next(flushes) == k:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)
        os.fsync = fsync
        save(2 + k)
        os._exit(0)
    _, status = os.wait()
    names = sorted(p.parent.name for p in folder.glob("step-*/manifest.json"))
    for name in names:
        loading.verify(folder / name)
    hidden = len(list(folder.glob(".*")))
    print(k, os.waitstatus_to_exitcode(status), names[0] == "step-00000001", len(names), hidden)
save(9)
print(sorted(p.name for p in folder.iterdir()))
"""


def test_a_kill_inside_a_save_leaves_whole_checkpoints_only(tmp_path):
    source = str(Path(hornbook.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "0 -9 True 1 1",  # inside model.safetensors, optimizer.safetensors, manifest.json, before the rename:
        "1 -9 True 1 1",  # something hidden is left, which the next save clears away
        "2 -9 True 1 1",
        "3 -9 True 1 1",
        "4 -9 True 2 0",  # after the rename
        "5 0 True 3 0",  # never
        "['step-00000001', 'step-00000006', 'step-00000007', 'step-00000009']",
    ]


def test_a_full_disk_leaves_the_older_whole_and_nothing_new(tmp_path, make):
    model, optimizers = make()
    older = write(tmp_path, model, optimizers, step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(tmp_path, model, optimizers, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == [older.name]
    loading.verify(older)


def test_what_is_not_a_checkpoint_is_said(tmp_path):
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoints.read_manifest(tmp_path)


def test_tensors_of_every_kind_are_read_back_by_the_library(tmp_path):
    drawn = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    tensors = {
        "odd": drawn[0, :3].bfloat16(),
        "a": drawn,
        "turned": drawn.T,
        "b": drawn.half(),
        "one": drawn[0, 0],
        "none": drawn[:0],
    }
    said = write_tensors(tmp_path / "x.safetensors", tensors)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert said == {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(read[name].dtype == t.dtype and torch.equal(read[name], t) for name, t in tensors.items())


SAVE = """
import resource, sys
from pathlib import Path
import torch
from hornbook.engine.tensor_files import write_tensors
tensors = {str(i): torch.ones(2**20) for i in range(50)}
write_tensors(Path(sys.argv[1]), {"first": torch.ones(2**20)})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_tensors(Path(sys.argv[1]), tensors)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux only")
def test_saving_holds_no_second_copy_of_what_it_saves(tmp_path):
    said = subprocess.run([sys.executable, "-c", SAVE, tmp_path / "x"], check=True, capture_output=True, text=True)
    assert int(said.stdout) < 20_000  # of the 200,000 kilobytes that are saved


def test_without_an_optimizer_there_are_only_weights_and_step_0_needs_no_more(tmp_path, make, bits):
    model, optimizers = make()
    before = bits(model, optimizers)
    folder = write(tmp_path, model, [], step=0)
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "model.safetensors"]
    other, others = make(seed=8)
    loading.load_into(folder, model=other, optimizers=others)
    after = bits(other, others)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    later = write(tmp_path, model, [], step=3)
    with pytest.raises(InputError, match="weights only"):
        loading.load_into(later, model=other, optimizers=others)


def test_a_stored_file_gives_each_tensor_alone(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(3, 5, generator=generator),
        "b": torch.randn(7, generator=generator).to(torch.bfloat16),
        "empty": torch.empty(0, 4),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    stored = Stored(tmp_path / "x.safetensors")
    assert list(stored) == list(tensors)
    for name, tensor in tensors.items():
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor)
    assert stored.get("c") is None


def test_only_what_a_killed_save_left_is_cleared_away(tmp_path, make):
    """Hidden folders of others stay, also behind a link, and so does what others have put into a checkpoint."""
    model, optimizers = make()
    real = tmp_path / "real"
    for name in (".git", ".config", ".step-1", ".step-00000001.x", ".best"):
        (real / name).mkdir(parents=True)
        (real / name / "manifest.json").write_text("mine")
    (real / ".step-00000004.77").mkdir()
    (real / ".step-00000004.77" / "model.safetensors").write_text("half")
    (real / ".trash-best-00000003").mkdir()
    (real / ".trash-best-00000003" / "notes.txt").write_text("mine")
    (real / ".step-00000005.78").symlink_to(real / ".git")
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(InputError, match="link is a link"):
        write(tmp_path / "link", model, optimizers)
    first = write(real, model, optimizers)
    (first / "notes.txt").write_text("mine")
    (real / "step-00000006").symlink_to(real / ".git")
    write(real, model, optimizers, step=6)
    write(real, model, optimizers)  # in the place of the first
    checkpoints.discard(first)
    kept = {path.relative_to(real).as_posix().split(".17")[0]: path.read_text() for path in real.rglob("*.json")}
    assert [content for content in kept.values() if content == "mine"] == ["mine"] * 5
    assert [path.read_text() for path in real.rglob("notes.txt")] == ["mine", "mine"]
    assert not (real / ".step-00000004.77").exists()
    assert not (real / ".step-00000005.78").is_symlink()
    assert (real / ".git" / "manifest.json").read_text() == "mine"
    assert not first.exists()
    loading.verify(real / "step-00000006")


@pytest.mark.parametrize(
    "change",
    [{"layers": 10**9}, {"width": 2**40}, {"vocabulary": 2**62}, {"layers": -1}, {"layers": "two"}, {"heads": 0},
     {"family": "none"}, {"layers": None}, {"hidden": 10**15}, {"head_width": 2**31}],
)  # fmt: skip
def test_a_shape_that_the_weights_do_not_have_is_refused_before_memory_is_taken(tmp_path, make, change):
    """The manifest's own hash is right."""
    model, optimizers = make()
    folder = write(tmp_path, model, optimizers)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["shape"] |= change
    manifest["sha256"] = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (loading.load_model, loading.shape_of):
        with pytest.raises(InputError, match="damaged"):
            read(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
