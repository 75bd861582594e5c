"""A device that lacks what Apple's or Intel's GPUs may lack, on a CPU: float64, fused optimizers, autocast.

As a plugin, `HORNBOOK_PLAIN=1 python -m pytest -p lacking FILES`, it runs other tests so: what Hornbook computes on the
device is computed under a mode that forbids those, and what asks whether they are there hears no. Tensors of tests, and
what is computed after it has left the device, are free. OPERATIONS counts what was seen, by what it was under.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

OPERATIONS = Counter()


def doubles(values):
    if isinstance(values, torch.Tensor):
        return values.dtype == torch.float64
    return any(x.dtype == torch.float64 for x in tree_leaves(values) if isinstance(x, torch.Tensor))


class Lacking(TorchDispatchMode):
    """Whatever makes float64 of something else raises, and so does what is only there on some devices. Memory of the
    CPU, in which float64 is allowed, is float64 from the start, and so are random numbers."""

    def __init__(self, label="", autocast=False):
        super().__init__()
        self.label, self.autocast = label, autocast

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = str(function)
        assert "mkldnn" not in name, f"{name} is a CPU's"
        assert not name.startswith("aten._fused_"), f"{name} is a fused kernel"
        assert self.autocast or not torch.is_autocast_enabled("cpu"), f"{name} is under autocast"
        out = function(*arguments, **(options or {}))
        assert not doubles(out) or doubles(arguments) or name.startswith(("aten.empty", "aten.rand")), (
            f"{name} makes float64"
        )
        OPERATIONS[self.label] += 1
        return out


def under(function, label):
    """`function`, whose operations are the device's."""

    def call(*arguments, **options):
        with Lacking(label):
            return function(*arguments, **options)

    return call


def under_each(function, label):
    """A generator, whose operations are the device's."""

    def call(*arguments, **options):
        made, ends = function(*arguments, **options), object()
        while True:
            with Lacking(label):
                one = next(made, ends)
            if one is ends:
                return
            yield one

    return call


def on_the_cpu(function):
    """What is computed with tensors that have left the device."""

    def call(*arguments, **options):
        with _disable_current_modes():
            return function(*arguments, **options)

    return call


@contextmanager
def lacking(patch):
    """Has it all answer as such a device; `patch(owner, name, value)` sets an attribute."""
    from hornbook import likelihood
    from hornbook.model import generate
    from hornbook.optim import adamw
    from hornbook.training import loop, step

    for module in (step, loop):
        patch(module, "reading_is_free", lambda device: False)
    patch(likelihood, "has_float64", lambda device: False)
    patch(torch.amp, "is_autocast_available", lambda kind: False)
    patch(adamw, "FUSED", ())
    patch(generate, "probabilities", on_the_cpu(generate.probabilities))
    yield


def pytest_configure():
    """Before any test has imported what is put under the mode."""
    from hornbook import likelihood
    from hornbook.model import cpu, decoder, generate
    from hornbook.training import step

    assert cpu.PLAIN, "what makes a CPU fast is forbidden too: set HORNBOOK_PLAIN=1"

    step.train_step = under(step.train_step, "train_step")
    decoder.Decoder.hidden = under(decoder.Decoder.hidden, "hidden")
    decoder.Head.forward = under(decoder.Head.forward, "head")
    likelihood.head_logits = under_each(likelihood.head_logits, "head_logits")
    generate._continue = under_each(generate._continue, "generate")
    lacking(setattr).__enter__()


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"operations {dict(OPERATIONS)}")
