"""Decoding at batch 1 by `decode.cpp`, built with g++ on first use; `decoder.py` is its oracle and its fallback.

PyTorch multiplies a matrix by one vector on one thread and stops at half of what the memory gives; and on small models
the calls cost more than the sums. int8 weights (one scale a row) make what is read four times smaller.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from hornbook.model.cpu import PLAIN
from hornbook.model.decoder import Block, Cache, Decoder, rotary_frequencies, rotary_table

COMPILE = ("g++", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-c")
MAX_THREADS = 16  # more wait for each other longer than they save
ACTIVATIONS = {"gelu": 0, "gelu_tanh": 1, "silu": 2}


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
    )  # fmt: skip


class _Norm(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class _Layer(ctypes.Structure):
    _fields_ = (
        ("attention_norm", _Norm), ("query", _Matrix), ("key", _Matrix), ("value", _Matrix), ("output", _Matrix),
        ("query_norm", _Norm), ("key_norm", _Norm), ("mlp_norm", _Norm), ("up", _Matrix), ("gate", _Matrix),
        ("down", _Matrix),
    )  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in (
            "layers", "width", "heads", "kv_heads", "head_width", "centred", "activation")),
        ("epsilon", ctypes.c_float), ("embedding", ctypes.c_void_p), ("positions", ctypes.c_void_p),
        ("layer", ctypes.POINTER(_Layer)), ("norm", _Norm), ("head", _Matrix),
    )  # fmt: skip


def quantised_rows(weight_RC: Tensor) -> tuple[Tensor, Tensor]:
    """int8 rows and the scale of each, (R, C) and (R,): the largest of a row becomes 127.

    >>> quantised_rows(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))[0].tolist()
    [[127, -50], [0, 0]]
    """
    scale_R = weight_RC.abs().amax(1) / 127
    return (weight_RC / scale_R.clamp_min(1e-30)[:, None]).round().to(torch.int8), scale_R


@torch.no_grad()
def quantise(model: Decoder) -> Decoder:
    """Replace the weight of every linear layer by what its int8 rows spell, in place: the oracle of int8 decoding, by
    which its loss can be measured. The embedding stays; a tied head gets weights of its own.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            rows, scale = quantised_rows(module.weight)
            module.weight = nn.Parameter(rows.float() * scale[:, None], requires_grad=False)
    return model


@lru_cache
def library() -> ctypes.CDLL | None:
    """The built kernel, from the user's cache; None where it cannot be built, and on Windows: then PyTorch decodes."""
    if sys.platform == "win32":
        return None
    source = files("hornbook.model.cpu").joinpath("decode.cpp").read_bytes()
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith(("flags", "Features"))), "")
    key = hashlib.sha256(b"\0".join([source, " ".join(COMPILE).encode(), cpu.encode()])).hexdigest()[:16]
    folder = _cache()
    built = None if folder is None else folder / f"decode-{key}.so"
    try:
        if built is not None and _is_sound(built):
            return _loaded(built)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            (Path(aside) / "decode.cpp").write_bytes(source)
            # Linked without libgomp: PyTorch's, which is loaded already, then shares its threads with us.
            for command in ((*COMPILE, "decode.cpp"), ("g++", "-shared", "-o", "decode.so", "decode.o")):
                subprocess.run(command, cwd=aside, check=True, capture_output=True, timeout=120)
            kernel = Path(aside) / "decode.so"
            kernel.write_bytes((content := kernel.read_bytes()) + hashlib.sha256(content).digest())
            kernel.chmod(0o700)
            return _loaded(kernel if built is None else kernel.replace(built))
    except (OSError, subprocess.SubprocessError):
        return None


def _loaded(path: Path) -> ctypes.CDLL:
    kernel = ctypes.CDLL(str(path))
    kernel.decode.restype = None
    return kernel


def _cache() -> Path | None:
    """This user's folder for what was built, which nobody else can write in; None where there is none."""
    if sys.platform == "win32":
        return None
    place = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(place):  # as the specification of that variable has it
        place = os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(place) / "hornbook"
    try:
        if not os.path.isabs(place):
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            return None
        folder.chmod(0o700)
    except OSError:
        return None
    return folder


def _is_sound(path: Path) -> bool:
    """Whether this user has written the file, and it is what was written: it ends with the SHA-256 of the rest. A file
    that was cut off would kill the process as soon as what is missing is called."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
            return False
        content = file.read()
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


class NativeDecoder:
    """Logits after one more token, reading and filling a `Cache` of one float32 sequence as the decoder does.

    Holds the model's own weights (float32) or int8 rows of them. Weights must not move while it is used.
    """

    def __init__(self, model: Decoder, cache: Cache, *, int8: bool, kernel: ctypes.CDLL) -> None:
        shape, self.cache, self.kernel = model.shape, cache, kernel
        self.kept: list[Tensor] = []  # what the kernel points at
        self.threads = min(torch.get_num_threads(), MAX_THREADS)
        self.int8 = int8
        layers = (_Layer * shape.layers)()
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            a, m = block.attention, block.mlp
            layers[i] = _Layer(
                self._norm(block.attention_norm), self._matrix(a.query), self._matrix(a.key), self._matrix(a.value),
                self._matrix(a.output), self._norm(a.query_norm), self._norm(a.key_norm), self._norm(block.mlp_norm),
                self._matrix(m.up), self._matrix(m.gate), self._matrix(m.down),
            )  # fmt: skip
        positions = self._pointer(model.positions.weight) if model.positions is not None else None
        self.model = _Model(
            shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_width, shape.kind.norm == "layer",
            ACTIVATIONS[shape.activation or "silu"], shape.norm_epsilon, self._pointer(model.embedding.weight),
            positions, layers, self._norm(model.head.norm), self._matrix(model.head.projection),
        )  # fmt: skip
        self.rotary: tuple[int | None, int | None] = (None, None)
        if model.positions is None:
            frequencies = rotary_frequencies(shape.head_width, shape.rope_base, shape.rope_scaling)
            cos, sin = rotary_table(torch.arange(cache.capacity), frequencies)
            self.rotary = (self._pointer(cos), self._pointer(sin))
        between = 2 * shape.width + 2 * (shape.heads + shape.kv_heads) * shape.head_width + 2 * shape.hidden
        self.scratch = torch.empty(between + self.threads * (shape.width + cache.capacity + 8))
        self.logits = torch.empty(1, shape.vocabulary)

    def __call__(self, token_11: Tensor) -> Tensor:
        """Logits (1, V) after a token, (1, 1); they are overwritten by the next call."""
        cache, (cos, sin) = self.cache, self.rotary
        self.kernel.decode(
            ctypes.byref(self.model), ctypes.c_int64(int(token_11)), cache.length,
            ctypes.c_void_p(cache.store.data_ptr()), cache.capacity, ctypes.c_void_p(cos), ctypes.c_void_p(sin),
            ctypes.c_void_p(self.scratch.data_ptr()), ctypes.c_void_p(self.logits.data_ptr()), self.threads,
        )  # fmt: skip
        cache.length += 1
        return self.logits

    def _pointer(self, tensor: Tensor) -> int:
        self.kept.append(tensor.detach().contiguous())
        return self.kept[-1].data_ptr()

    def _norm(self, norm: nn.Module) -> _Norm:
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        return _Norm(*(None if t is None else self._pointer(t) for t in (weight, bias)))

    def _matrix(self, linear: nn.Linear | None) -> _Matrix:
        if linear is None:
            return _Matrix()
        bias = None if linear.bias is None else self._pointer(linear.bias)
        weight, scale = quantised_rows(linear.weight.detach()) if self.int8 else (linear.weight, None)
        pointers = (self._pointer(weight), None if scale is None else self._pointer(scale), bias)
        return _Matrix(*pointers, *linear.weight.shape)


def native_decoder(model: Decoder, cache: Cache | None, *, int8: bool) -> tuple[Decoder, NativeDecoder | None]:
    """What reads the prompt, with the weights of the kernel; and the kernel, or None where PyTorch must decode: without
    a cache, on another device, in another dtype, without a compiler."""
    weight = model.embedding.weight
    decode = None
    if cache is not None and not PLAIN and weight.device.type == "cpu" and weight.dtype == torch.float32:
        kernel = library()
        decode = None if kernel is None else NativeDecoder(model, cache, int8=int8, kernel=kernel)
    return (quantise(deepcopy(model)) if int8 else model), decode
