"""`hornbook.export`: a model as others open it, with its tokenizer and its numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import torch

from hornbook.facts.errors import InputError, WorldError, suggestion
from hornbook.facts.quantities import counted
from hornbook.model.gguf import Kind, write_gguf
from hornbook.model.weights import write_huggingface
from hornbook.records.result import Report
from hornbook.records.run import EVALUATION
from hornbook.report.card import model_card
from hornbook.session.decisions import tokens_read
from hornbook.session.models import Opened, open_model, settings_of
from hornbook.session.texts import stem

DTYPES = {"huggingface": ("float32", "bfloat16", "float16"), "gguf": ("f16", "f32", "q8_0")}  # the default first


def export(
    model: str | Opened, *, to: str, out: str | Path, dtype: str | None = None, step: int | None = None
) -> dict[str, Any]:
    """Write `model` into the fresh folder `out` and return what was written, as `hornbook export --json` prints it.

    `to`: "huggingface" (for transformers, vLLM and llama.cpp's converter) or "gguf" (for llama.cpp). The folder is
    whole or not there. Raises InputError when it exists or the format cannot hold the model.
    """
    if to not in DTYPES:
        raise InputError(f'--to is "{to}"{suggestion(to, DTYPES)}, but must be {" or ".join(DTYPES)}.')
    dtype = DTYPES[to][0] if dtype is None else dtype
    if dtype not in DTYPES[to]:
        raise InputError(f"{to} is written as {', '.join(DTYPES[to])}, not {dtype}{suggestion(dtype, DTYPES[to])}.")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: give another folder, or remove it first.")
    opened = open_model(model, step=step) if isinstance(model, str) else model
    card = model_card(_facts(opened), _numbers(opened), to=to, dtype=dtype, name=out.name)
    if to == "huggingface":
        kind: torch.dtype = getattr(torch, dtype)
        write_huggingface(opened.model, out, tokenizer=opened.tokenizer, card=card, dtype=kind)
    else:
        _write_gguf_folder(opened, out, cast(Kind, dtype), card)
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return {
        "model": opened.name,
        "step": opened.step,
        "weights": opened.note,
        "to": to,
        "dtype": dtype,
        "out": str(out),
        "num_bytes": files,
    }


def _write_gguf_folder(opened: Opened, out: Path, kind: Kind, card: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            aside = Path(scratch) / "model"
            write_gguf(opened.model, aside / f"{out.name}.gguf", tokenizer=opened.tokenizer, kind=kind, name=out.name)
            (aside / "README.md").write_text(card, encoding="utf-8")
            aside.replace(out)
    except OSError as error:
        raise WorldError(f"{out} could not be written: {error.strerror or error}.") from None


def _facts(opened: Opened) -> dict[str, Any]:
    """What the card says about the model itself."""
    shape = opened.model.shape
    facts: dict[str, Any] = {
        "architecture": f"{shape.family}, {counted(shape.layers, 'layer')}, width {shape.width}, "
        f"{counted(shape.heads, 'head')}",
        "parameters": f"{shape.parameters:,}",
        "context": f"{shape.context:,} tokens",
        "tokenizer": f"{opened.tokenizer.kind}, {opened.tokenizer.vocabulary:,} ids",
    }
    if opened.tokenizer.kind != "foreign":
        facts["a document begins with"] = "`<|endoftext|>` (put it before a prompt)"
    if opened.run is not None:
        rows = [row for row in opened.run.rows() if row["event"] == "step" and row["step"] <= (opened.step or 0)]
        facts["trained on"] = stem(settings_of(opened.run).text.paths)
        facts["training"] = counted(opened.step or 0, "step")
        if rows:
            tokens, spent = tokens_read(opened.run.rows(), opened.step or 0), rows[-1]["tokens"]
            facts["training"] += f", {tokens:,} tokens, {rows[-1]['epoch'] * tokens / spent:.2f} epochs"
    return facts


def _numbers(opened: Opened) -> Report | None:
    """The run's own evaluation, where it is of just this checkpoint."""
    if opened.run is None:
        return None
    if not (opened.run.folder / EVALUATION).is_file():
        return None
    report = Report.from_json(opened.run.read(EVALUATION))
    return report if report.model.endswith(f" at step {opened.step}") else None
