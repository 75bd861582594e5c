"""The C++ kernel against the decoder it must agree with."""

import hashlib
import os
import subprocess
import sys

import msgspec
import pytest
import torch

from hornbook.facts.shape import GPTShape
from hornbook.model.cpu import native
from hornbook.model.decoder import Cache, Decoder
from hornbook.model.generate import generate
from hornbook.model.init import initialise

SHAPES = {
    "gpt2": GPTShape(family="gpt2", layers=2, width=48, heads=3, context=40, vocabulary=77),
    "qwen3": GPTShape(family="qwen3", layers=2, width=64, heads=4, kv_heads=2, context=40, vocabulary=101),
    "qwen2": GPTShape(family="qwen2", layers=1, width=48, heads=2, context=40, vocabulary=50, rope_base=1000.0),
    "odd": GPTShape(
        family="llama", layers=2, width=30, heads=3, hidden=37, context=40, vocabulary=33, activation="gelu"
    ),
}


def noisy(shape: GPTShape) -> Decoder:
    """Initial weights with noise on all of them, so that zeros and ones hide nothing."""
    model, generator = initialise(Decoder(shape), 0).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory):
    """The kernel, built into an empty cache; skipped where no compiler is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        native.library.cache_clear()
        if native.library() is None:
            pytest.skip("no g++ here")
        yield
    native.library.cache_clear()


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_the_decoder(name, threads, int8):
    shape, model = SHAPES[name], noisy(SHAPES[name])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        caches = [Cache(shape, batch=1, capacity=shape.context) for _ in range(2)]
        oracle, decode = native.native_decoder(model, caches[1], int8=int8)
        with torch.inference_mode():
            for cache in caches:  # what PyTorch has read, the kernel goes on from
                oracle.hidden(torch.tensor([[5, 1, 8]]), cache=cache)
            for token in (3, 32, 0, 7):
                expected = oracle.head(oracle.hidden(torch.tensor([[token]]), cache=caches[0])[:, -1])
                torch.testing.assert_close(decode(torch.tensor([[token]])), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(caches[1].store[..., :7, :], caches[0].store[..., :7, :], rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_the_same_ids_beyond_the_context():
    model = noisy(SHAPES["qwen3"])
    expected = list(generate(model, [1, 2, 3], max_tokens=100, temperature=0.8, seed=3))
    assert list(generate(model, [1, 2, 3], max_tokens=100, temperature=0.8, seed=3, native=True)) == expected


def test_int8_gives_the_same_ids_with_and_without_a_compiler(monkeypatch):
    model = noisy(SHAPES["gpt2"])
    weights = [p.clone() for p in model.parameters()]
    with_kernel = list(generate(model, [1], max_tokens=30, temperature=0, int8=True))
    monkeypatch.setattr(native, "library", lambda: None)
    assert list(generate(model, [1], max_tokens=30, temperature=0, int8=True)) == with_kernel
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_without_a_compiler_there_is_no_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    native.library.cache_clear()
    try:
        assert native.library() is None
        assert not list((tmp_path / "hornbook").iterdir())  # nothing half-written
    finally:
        native.library.cache_clear()


def test_quantised_rows_are_near():
    shape = msgspec.structs.replace(SHAPES["gpt2"], vocabulary=200)
    weight = noisy(shape).head.projection.weight.detach()
    rows, scale = native.quantised_rows(weight)
    assert rows.dtype == torch.int8
    assert ((rows * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()


LOAD = """
import os, sys
from hornbook.model.cpu.native import library
print(library() is not None)
"""


@pytest.fixture
def load(tmp_path):
    """Loads the kernel in a fresh process, with a home of its own."""

    def start(**variables):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
        environment.pop("XDG_CACHE_HOME", None)
        done = subprocess.run(
            [sys.executable, "-c", LOAD], env=environment | variables, cwd=tmp_path, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "True\n"), (done.returncode, done.stderr)

    return start


def test_a_kernel_that_was_cut_off_or_changed_is_built_anew(load, tmp_path):
    load()
    (built,) = (tmp_path / ".cache" / "hornbook").iterdir()
    whole = built.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        built.write_bytes(damaged)
        load()
        assert built.read_bytes() == whole
    before = built.stat().st_mtime_ns
    load()
    assert built.stat().st_mtime_ns == before  # taken from the cache


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_the_kernel_of_another_user_is_not_loaded(load, tmp_path):
    load()
    folder = tmp_path / ".cache" / "hornbook"
    (built,) = folder.iterdir()
    marker = tmp_path / "ran"
    evil = tmp_path / "evil.c"
    evil.write_text(f'#include <stdio.h>\n__attribute__((constructor)) void f() {{ fopen("{marker}", "w"); }}\n')
    subprocess.run(["g++", "-shared", "-fPIC", "-x", "c", "-o", str(built), str(evil)], check=True)
    content = built.read_bytes()
    sealed = content + hashlib.sha256(content).digest()
    for chown, mode in ((built, 0o700), (folder, 0o700), (None, 0o722)):
        built.write_bytes(sealed)
        built.chmod(mode)
        if chown is not None:
            os.chown(chown, 65534, 65534)
        load()
        assert not marker.exists()
        os.chown(folder, 0, 0)
        os.chown(built, 0, 0)


def test_a_relative_cache_is_not_taken(load, tmp_path):
    load(XDG_CACHE_HOME="cache")
    assert not (tmp_path / "cache").exists()
    load(XDG_CACHE_HOME="", HOME="home")
    assert not (tmp_path / "home").exists()
