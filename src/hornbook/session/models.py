"""MODEL, as every command takes it: a run, a checkpoint, a Hugging Face folder, a GGUF file, a hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings, from_table, read_table
from hornbook.model.decoder import Decoder
from hornbook.records.listing import check_model
from hornbook.records.run import Run, checkpoint_step, is_run
from hornbook.session.decisions import decisions_of
from hornbook.text.tokenizer import Tokenizer, load_tokenizer
from hornbook.training import checkpoint as checkpoints


@dataclass(frozen=True)
class Opened:
    """A model ready to be used, with its tokenizer and where it came from."""

    name: str
    model: Decoder
    tokenizer: Tokenizer
    run: Run | None = None
    step: int | None = None
    last: int | None = None  # of a run, the step of its newest checkpoint
    from_step: int | None = None  # where the run had just gone back: the step whose weights these are

    @property
    def note(self) -> str | None:
        """Which weights of a run these are, where they are not its last."""
        if self.from_step is not None:
            return f"{self.name}: at step {self.step:,} the run went back to the weights of step {self.from_step:,}"
        if self.step == self.last or self.step is None:
            return None
        return f"{self.name}: the weights of step {self.step:,}; its last are those of step {self.last:,}"


def device() -> torch.device:
    """The accelerator where there is one (CUDA_VISIBLE_DEVICES is respected), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settings_of(run: Run) -> Settings:
    path = run.folder / "settings.toml"
    return from_table(read_table(path), source=str(path))


def open_model(name: str | Path, *, step: int | None = None) -> Opened:
    """Open whatever MODEL names. Of a run, the checkpoint of `step`, or the chosen one (best or newest).

    Raises InputError when it is not there, is damaged, is of a kind that cannot be read, or gives no numbers.
    """
    opened = _open(name, step)
    with torch.no_grad():
        tokens = torch.arange(min(8, opened.model.shape.vocabulary, opened.model.shape.context))
        logits = opened.model(tokens[None].to(next(opened.model.parameters()).device))
        weights = (parameter.aminmax() for parameter in opened.model.parameters())
        if not (logits.isfinite().all() and all(low.isfinite() and high.isfinite() for low, high in weights)):
            remedy = "its training had diverged: give an earlier --step" if opened.run else "its weights are damaged"
            raise InputError(f"{name} gives probabilities that are no numbers (NaN or infinite); {remedy}.")
    return opened


def _open(name: str | Path, step: int | None) -> Opened:
    path = Path(name)
    if is_run(path):
        run = Run.open(path)
        folder = _checkpoint_of(run, step)
        model = checkpoints.load_model(folder).to(device())
        at, last = checkpoint_step(folder), checkpoint_step(run.checkpoints()[-1])
        back = [each.from_step for each in decisions_of(run.rows()) if each.decision == "decay" and each.step == at]
        return Opened(str(path), model, load_tokenizer(path), run, at, last, *back[:1])
    if (path / "manifest.json").is_file():
        run = Run.open(path.parent.parent)
        model = checkpoints.load_model(path).to(device())
        step = checkpoint_step(path)
        return Opened(str(path), model, load_tokenizer(run.folder), run, step, step)
    if path.suffix == ".gguf":
        from hornbook.model.gguf import load_gguf
        from hornbook.text.gguf import load_gguf_tokenizer

        return Opened(str(path), load_gguf(path).to(device()), load_gguf_tokenizer(path))
    check_model(name)
    from hornbook.model import weights

    folder = weights.find_huggingface(name)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{name} is not a model: give a run, a checkpoint, a Hugging Face folder (config.json and "
            "*.safetensors) or a .gguf file."
        )
    return Opened(str(name), weights.load_huggingface(folder).to(device()), load_tokenizer(folder))


def _checkpoint_of(run: Run, step: int | None) -> Path:
    found = run.checkpoints()
    if not found:
        raise InputError(f"{run.folder} has no checkpoint yet.")
    if step is None:
        best = checkpoints.read_manifest(found[-1])["state"].get("use_step")
        step = checkpoint_step(found[-1]) if best is None else best
    found += run.best_checkpoints()
    for folder in found:
        if checkpoint_step(folder) == step:
            return folder
    kept = ", ".join(map(str, sorted({checkpoint_step(folder) for folder in found})))
    raise InputError(f"{run.folder} has no checkpoint at step {step}: it keeps {kept}.")
