"""What Apple's and Intel's GPUs lack is not asked of them: held on a CPU on which it is forbidden."""

import ast
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lacking import Lacking, lacking, on_the_cpu
from torch.nn.attention import SDPBackend, sdpa_kernel

import hornbook
from hornbook import likelihood
from hornbook.engine.accelerator import attention_kernels
from hornbook.engine.device import device, this_device
from hornbook.evaluation import score
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model import generate as generation
from hornbook.model.cpu import functional
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.training import step

SHAPE = GPTShape(family="qwen3", layers=2, width=32, heads=2, context=16, vocabulary=101)
ROOT = Path(__file__).parents[2]
CORE = ("training/test_step.py", "training/test_loop.py", "evaluation/test_score.py", "model/test_generate.py",
        "engine/test_checkpoint.py")  # fmt: skip
# Tests of what makes a CPU fast, of half precision, and of files and processes alone.
NOT_HERE = ("half_precision", "rows_are_shared_out", "kill_inside_a_save", "second_copy", "each_token_of_an_epoch")


def as_such_a_device():
    """The environment of a process that imports `lacking`."""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests" / "modes")))
    return os.environ | {"PYTHONPATH": path, "HORNBOOK_PLAIN": "1"}


@pytest.fixture
def device_that_lacks(monkeypatch):
    monkeypatch.setattr(functional, "PLAIN", True)
    with lacking(monkeypatch.setattr):
        yield


@pytest.fixture
def model(device_that_lacks):
    return initialise(Decoder(SHAPE), 0)


@pytest.fixture
def tokens():
    return torch.randint(101, (2, 17), generator=torch.Generator().manual_seed(0))


def test_float64_is_noticed():
    with Lacking(), pytest.raises(AssertionError, match="makes float64"):
        torch.ones(2).double()


def test_the_kernel_of_a_fused_optimizer_is_noticed(make, tokens):
    model, optimizers = make(family="qwen3")
    batch = [(tokens[:, :-1], tokens[:, 1:], None)]
    with Lacking(), pytest.raises(AssertionError, match="is a fused kernel"):
        step.train_step(model, optimizers, batch, lr_scale=1.0, clip_norm=1.0)


def test_autocast_is_noticed(device_that_lacks, make, tokens):
    model, optimizers = make(family="qwen3")
    batch, half = [(tokens[:, :-1], tokens[:, 1:], None)], partial(torch.autocast, "cpu", torch.bfloat16)
    with Lacking(), pytest.raises(AssertionError, match="is under autocast"):
        step.train_step(model, optimizers, batch, lr_scale=1.0, clip_norm=1.0, autocast=half)


def test_a_step_makes_no_float64(device_that_lacks, make, tokens):
    model, optimizers = make(family="qwen3")
    with Lacking():
        pending = step.train_step(
            model, optimizers, [(tokens[:, :-1], tokens[:, 1:], None)], lr_scale=1.0, clip_norm=1.0
        )
    assert pending.read().loss > 0


def test_evaluation_raises_logits_on_the_cpu_to_the_same_sums(model, tokens, monkeypatch):
    requests = [score.Request(row.numpy(), 16) for row in tokens]
    whole = score.score_tokens(model, requests)
    monkeypatch.setattr(likelihood, "has_float64", lambda device: True)
    expected = score.score_tokens(model, requests)
    monkeypatch.setattr(likelihood, "has_float64", lambda device: False)
    with Lacking():
        strict = score.score_tokens(model, requests, on_the_cpu(score.token_record))
    for records, others, wanted in zip(whole, strict, expected, strict=True):
        assert records.tolist() == others.tolist() == wanted.tolist()


def test_writing_makes_no_float64(model, tokens):
    with Lacking():
        assert len(list(generation.generate(model, tokens[0, :4].tolist(), max_tokens=5))) == 5
        assert len(list(generation.generate(model, tokens[0, :4].tolist(), max_tokens=5, temperature=0))) == 5


def test_the_core_tests_hold_on_such_a_device():
    """Steps, the loop, evaluation, generation and checkpoints: other tests, run once more."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "lacking", "-k"]
    command += [" and ".join(f"not {name}" for name in NOT_HERE), *(str(ROOT / "tests" / name) for name in CORE)]
    done = subprocess.run(command, cwd=ROOT, env=as_such_a_device(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    operations = ast.literal_eval(re.search(r"^operations (.*)$", done.stdout, re.MULTILINE)[1])
    assert set(operations) == {"train_step", "hidden", "head", "head_logits", "generate"}
    assert min(operations.values()) > 100, operations


WHOLE = """
import sys
import lacking
lacking.pytest_configure()
import hornbook
made = hornbook.train(
    sys.argv[1], out=sys.argv[2], **{
        "model.width": 32, "model.layers": 1, "model.context": 32, "train.batch": 4, "train.steps": 12,
        "watch.evaluate_every": 4, "watch.sample_every": 4, "checkpoint.every": 5, "text.tokenizer": "bytes",
        "train.precision": "float32",
    },
)
print(made["step"], min(lacking.OPERATIONS.values()) > 100)
"""


def test_a_whole_run_on_such_a_device(tmp_path, text_file):
    command = [sys.executable, "-c", WHOLE, str(text_file), str(tmp_path / "run")]
    done = subprocess.run(command, env=as_such_a_device(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["12 True"], done.stderr


def test_half_precision_is_refused_where_there_is_no_autocast(device_that_lacks, tmp_path, text_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="precision is bfloat16, but cpu trains in float32 only"):
        hornbook.train("text.txt", out="run", **{"train.precision": "bfloat16", "text.tokenizer": "bytes"})


def test_the_device_is_chosen_by_name(monkeypatch):
    monkeypatch.setenv("HORNBOOK_DEVICE", "cpu")
    assert device() == torch.device("cpu")
    monkeypatch.setenv("HORNBOOK_DEVICE", "abacus")
    with pytest.raises(InputError, match="HORNBOOK_DEVICE is abacus, but here it can be cpu"):
        device()
    assert this_device(torch.device("cpu")).peak_flops["float32"] > 0


def test_the_kernels_of_attention_are_those_that_are_enabled():
    assert attention_kernels() == ["flash", "memory-efficient", "cuDNN", "math"]
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION]):
        assert attention_kernels() == ["memory-efficient", "math"]
