"""`hornbook.export`: a model in another program's format, with its tokenizer and a model card."""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hornbook.commands.options import MODEL, check_inputs, value
from hornbook.facts.errors import InputError, SystemFailure, suggestion
from hornbook.facts.printing import print, print_json
from hornbook.facts.units import counted
from hornbook.records.result import Report, proof_verdict
from hornbook.records.run import EVALUATION

if TYPE_CHECKING:
    import torch

    from hornbook.formats.gguf import Kind
    from hornbook.setup.model import LoadedModel

GGUF_TYPES = ("f16", "f32", "q8_0")
# Chats as text/chats.py writes them, for transformers and for ollama. No space after the last colon: it belongs to the
# first token of the answer.
JINJA = (
    "{{ bos_token }}{% for turn in messages %}{{ turn['role'] + ': ' + turn['content'] + '\\n' }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
OLLAMAS = '"""{{ range .Messages }}{{ .Role }}: {{ .Content }}\n\n{{ end }}assistant:"""'
DTYPES = {  # the default first
    "huggingface": ("float32", "bfloat16", "float16"), "gguf": GGUF_TYPES, "ollama": GGUF_TYPES,
}  # fmt: skip


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help=MODEL)
    parser.add_argument("--to", required=True, metavar="FORMAT", help="huggingface, gguf or ollama")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write; must not exist yet")
    parser.add_argument(
        "--dtype", metavar="TYPE", help="float32, bfloat16 or float16; for gguf, ollama f16, f32 or q8_0"
    )
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")


def command(arguments: argparse.Namespace) -> None:
    check_inputs(arguments.model)
    written = export(arguments.model, to=arguments.to, out=arguments.out, dtype=arguments.dtype, step=arguments.step)
    if arguments.json:
        print_json(written)
    else:
        for name, num_bytes in written["num_bytes"].items():
            print(f"{written['out']}/{name}  {num_bytes:,} bytes")
        if written["weights"] is not None:
            print(written["weights"])


def export(
    model: str | LoadedModel, *, to: str, out: str | Path, dtype: str | None = None, step: int | None = None
) -> dict[str, Any]:
    """Write `model` into the fresh folder `out` and return what was written, as `hornbook export --json` prints it.

    `to`: "huggingface" (for transformers) or "gguf" (for llama.cpp) or "ollama" (the same, and a
    Modelfile beside it). The folder appears only once it is complete.
    Raises InputError when it exists or the format cannot hold the model.
    """
    import torch

    from hornbook.formats.gguf import Kind
    from hornbook.formats.huggingface import write_huggingface
    from hornbook.reporting.card import model_card
    from hornbook.setup.model import open_model

    if to not in DTYPES:
        raise InputError(f'--to is "{to}"{suggestion(to, DTYPES)}, but must be {", ".join(DTYPES)}.')
    dtype = DTYPES[to][0] if dtype is None else dtype
    if dtype not in DTYPES[to]:
        raise InputError(f"{to} can be written as {', '.join(DTYPES[to])}, not {dtype}{suggestion(dtype, DTYPES[to])}.")
    out = Path(out)
    if out.suffix in (".gguf", ".safetensors"):
        raise InputError(f"--out names a folder, which will hold the weights: give {out.with_suffix('')}, not {out}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: give another folder, or remove it first.")
    opened = open_model(model, step=step) if isinstance(model, str) else model
    if _is_of_chats(opened):
        tokenizer = copy.copy(opened.tokenizer)
        tokenizer.config = tokenizer.config | {"chat_template": JINJA}
        opened = replace(opened, tokenizer=tokenizer)
    opener = "AutoTokenizer" if _auto_opens_it(opened) else "PreTrainedTokenizerFast"
    card = model_card(_facts(opened), _numbers(opened), to=to, dtype=dtype, name=out.name, opener=opener)
    generation = _generation(opened)
    if to == "huggingface":
        kind: torch.dtype = getattr(torch, dtype)
        write_huggingface(opened.model, out, tokenizer=opened.tokenizer, card=card, dtype=kind, generation=generation)
    else:
        ends = generation.get("eos_token_id")
        named = ends if isinstance(ends, list) else [ends]
        numbers = [id_ for id_ in named if isinstance(id_, int) and 0 <= id_ < opened.model.shape.vocabulary]
        texts = {"README.md": card} | ({"Modelfile": _modelfile(opened, out.name)} if to == "ollama" else {})
        _write_gguf_folder(opened, out, cast(Kind, dtype), texts, numbers)
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


def _auto_opens_it(opened: LoadedModel) -> bool:
    """Whether transformers' AutoTokenizer takes an export's tokenizer.json as it is.

    For qwen2 models transformers 5 makes the tokenizer of Qwen2 out of the tokens and merges, whatever the file and its
    `tokenizer_class` say about splitting and normalizing.
    """
    from hornbook.text.bytelevel import split_pattern

    content = opened.tokenizer.content
    is_qwen2s = split_pattern(content.get("pre_tokenizer")) == "qwen2" and content.get("normalizer") == {"type": "NFC"}
    return opened.model.shape.family != "qwen2" or is_qwen2s


def _generation(opened: LoadedModel) -> dict[str, Any]:
    """How the model came with text to be written, its list of ends among it; {} for our own."""
    from hornbook.formats.gguf_file import read_header
    from hornbook.formats.huggingface import find_huggingface, read_generation

    if opened.run is not None:
        return {}
    if not opened.name.endswith(".gguf"):
        return read_generation(find_huggingface(opened.name))
    metadata = read_header(Path(opened.name)).metadata
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(number for number in named if number is not None))
    return {"eos_token_id": ends} if len(ends) > 1 else {}


def _modelfile(opened: LoadedModel, name: str) -> str:
    """What ollama makes a model of: the prompt as it is, or a chat in the form of those it was trained on; the context
    it was trained with; the end of a document, or of an answer."""
    end, chats = opened.tokenizer.end_of_text, _is_of_chats(opened)
    template = OLLAMAS if chats else '"{{ .Prompt }}"'
    stops = [] if end is None else [opened.tokenizer.token_text(end)]
    lines = [f"FROM ./{name}.gguf", f"TEMPLATE {template}", f"PARAMETER num_ctx {opened.model.shape.context}"]
    return "\n".join([*lines, *(f'PARAMETER stop "{text}"' for text in [*stops, *["user:"] * chats])]) + "\n"


def _is_of_chats(opened: LoadedModel) -> bool:
    return opened.run is not None and bool(opened.run.environment.get("chats"))


def _write_gguf_folder(opened: LoadedModel, out: Path, kind: Kind, texts: dict[str, str], ends: list[int]) -> None:
    from hornbook.formats.gguf import write_gguf

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            aside = Path(scratch) / "model"
            path = aside / f"{out.name}.gguf"
            write_gguf(opened.model, path, tokenizer=opened.tokenizer, kind=kind, name=out.name, ends=ends)
            for file, text in texts.items():
                (aside / file).write_text(text, encoding="utf-8")
            aside.replace(out)
    except OSError as error:
        raise SystemFailure(f"{out} could not be written: {error.strerror or error}.") from None


def _facts(opened: LoadedModel) -> dict[str, Any]:
    """What the card says about the model itself."""
    from hornbook.setup.model import settings_of
    from hornbook.setup.text import stem
    from hornbook.training.deciding import tokens_read

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
    if _is_of_chats(opened):
        form = "`user: ...`, a blank line, `assistant: ...`"
        facts["its text was chats"] = f"{form} (end a prompt with `assistant:`; the chat template does)"
    if opened.run is not None:
        rows = [row for row in opened.run.rows() if row["event"] == "step" and row["step"] <= (opened.step or 0)]
        facts["trained on"] = stem(settings_of(opened.run).text.paths)
        facts["training"] = counted(opened.step or 0, "step")
        if rows:
            tokens, spent = tokens_read(opened.run.rows(), opened.step or 0), rows[-1]["tokens"]
            facts["training"] += f", {tokens:,} tokens, {rows[-1]['epoch'] * tokens / spent:.2f} epochs"
        if (verdict := proof_verdict(opened.run.reports)) is not None:
            facts["resume"] = verdict
    return facts


def _numbers(opened: LoadedModel) -> Report | None:
    """The run's own evaluation, where it is of just this checkpoint."""
    if opened.run is None:
        return None
    if not (opened.run.folder / EVALUATION).is_file():
        return None
    report = Report.from_json(opened.run.read(EVALUATION))
    return report if report.model.endswith(f" at step {opened.step}") else None
