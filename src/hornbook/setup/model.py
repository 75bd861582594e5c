"""MODEL, as every command takes it: a run, a checkpoint, a Hugging Face folder, a GGUF file, a hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from hornbook.engine import checkpoint as checkpoints
from hornbook.engine import loading
from hornbook.engine.device import device
from hornbook.facts.errors import InputError
from hornbook.facts.io import write_aside
from hornbook.facts.settings import Settings, from_table, parse_table
from hornbook.model.decoder import Decoder
from hornbook.planning.choose import SHAPE
from hornbook.records.listing import check_model, resolved
from hornbook.records.run import Run, checkpoint_step, is_run
from hornbook.text.tokenizer import Tokenizer, load_tokenizer
from hornbook.training.decisions import decisions_of

UNCHECKED = "it was made before file hashes were kept, so changed files cannot be detected"
RESOLVED = (  # settings that every run has
    "model.context", "optimizer.learning_rate", "optimizer.muon_learning_rate", "optimizer.weight_decay",
    "optimizer.beta2", "optimizer.momentum", "schedule.warmup_steps", "train.batch", "train.microbatch", "train.steps",
    "watch.evaluate_every", "watch.sample_every", "watch.probe_tokens", "checkpoint.every",
)  # fmt: skip


@dataclass(frozen=True)
class LoadedModel:
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
        """Which weights of a run these are, where they are not its last; and what of it cannot be checked."""
        notes = []
        if self.from_step is not None:
            notes.append(f"at step {self.step:,} the run went back to the weights of step {self.from_step:,}")
        elif self.step is not None and self.step != self.last:
            notes.append(f"the weights of step {self.step:,}; its last are those of step {self.last:,}")
        if self.run is not None and self.run.hashes is None:
            notes.append(UNCHECKED)
        return f"{self.name}: {'; '.join(notes)}" if notes else None


class Beginning(msgspec.Struct):
    """What environment.json says that a run that goes on needs to know."""

    request: dict[str, dict[str, Any]]
    versions: dict[str, str | None]
    cpu: str | None = None
    plain: bool = False
    from_: str | None = msgspec.field(default=None, name="from")


def beginning(run: Run) -> Beginning:
    """How a run began. Raises InputError when that is damaged."""
    try:
        return msgspec.convert(run.environment, Beginning)
    except msgspec.ValidationError as error:
        raise InputError(f"{run.folder}/environment.json is damaged ({error}): put back a copy of it.") from None


def settings_of(run: Run) -> Settings:
    """The settings of a run. Raises InputError when they are not what was written, or some are missing."""
    path = run.folder / "settings.toml"
    settings = from_table(parse_table(run.settings_toml, path), source=str(path))
    for name in RESOLVED:
        section, _, key = name.partition(".")
        if getattr(getattr(settings, section), key) is None:
            raise InputError(f"{path} is cut off: it has no {name}; put back a copy of it.")
    return settings


def last_saved(run: Run) -> int:
    """The step of the newest checkpoint by the log, whether it is still there or not."""
    return max((row["step"] for row in run.rows() if row["event"] == "checkpoint"), default=0)


def tokenizer_of_run(run: Run) -> Tokenizer:
    """The tokenizer of a run. Raises InputError when it is not what was written."""
    run.check("settings.toml", "environment.json", "tokenizer.json", "tokenizer_config.json")
    return load_tokenizer(run.folder).of_our_model()


def open_model(name: str | Path, *, step: int | None = None) -> LoadedModel:
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
            raise InputError(f"{name} gives probabilities that are not numbers (NaN or infinite); {remedy}.")
    return opened


def _open(name: str | Path, step: int | None) -> LoadedModel:
    path = resolved(name)
    if is_run(path):
        run = Run.open(path)
        folder = _checkpoint_of(run, step)
        with _naming_whole(run, folder):
            model = loading.load_model(folder).to(device())
        at, last = checkpoint_step(folder), checkpoint_step(run.checkpoints()[-1])
        back = [
            decision.from_step
            for decision in decisions_of(run.rows())
            if decision.decision == "decay" and decision.step == at
        ]
        return LoadedModel(str(path), model, tokenizer_of_run(run), run, at, last, *back[:1])
    if (path / "manifest.json").is_file():
        run = Run.open(path.parent.parent)
        model = loading.load_model(path).to(device())
        step = checkpoint_step(path)
        return LoadedModel(str(path), model, tokenizer_of_run(run), run, step, step)
    if path.suffix == ".gguf" and not path.is_dir():
        from hornbook.formats.gguf import load_gguf
        from hornbook.formats.gguf_file import load_gguf_tokenizer

        return _foreign(str(path), load_gguf(path), load_gguf_tokenizer(path))
    check_model(name)
    from hornbook.formats import huggingface as weights

    folder = weights.find_huggingface(name)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{name} is not a model: give a run, a checkpoint, a Hugging Face folder (config.json and "
            "*.safetensors) or a .gguf file."
        )
    return _foreign(str(name), weights.load_huggingface(folder), load_tokenizer(folder))


def _foreign(name: str, model: Decoder, tokenizer: Tokenizer) -> LoadedModel:
    """A model from another program's file, whose embedding may have more rows than its tokenizer has ids, or fewer."""
    try:
        return LoadedModel(name, model.to(device()), tokenizer.for_model(model.shape.vocabulary))
    except InputError as error:
        raise InputError(f"{name}: {error}.") from None


@contextmanager
def _naming_whole(run: Run, damaged: Path) -> Iterator[None]:
    """What is said of a damaged checkpoint ends with the newest one that is whole."""
    from hornbook.training.left_out import why_not_good

    try:
        yield
    except InputError as error:
        others = [folder for folder in run.checkpoints() if folder != damaged and checkpoint_step(folder) > 0]
        whole = [checkpoint_step(folder) for folder in others if why_not_good(folder, []) is None]
        if not whole:
            raise
        raise InputError(f"{str(error).rstrip('.')}: the newest whole one is that of --step {whole[-1]}.") from None


def _checkpoint_of(run: Run, step: int | None) -> Path:
    folders = run.checkpoints()
    if not folders:
        raise InputError(f"{run.folder} has no checkpoint yet.")
    if step is None:
        newest = last_saved(run)
        if newest > checkpoint_step(folders[-1]):
            raise InputError(
                f"{run.folder} has lost its newest checkpoint, of step {newest}: put it back, or name an older one, "
                f"such as --step {checkpoint_step(folders[-1])}."
            )
        with _naming_whole(run, folders[-1]):
            best = checkpoints.read_manifest(folders[-1])["state"].get("use_step")
        step = checkpoint_step(folders[-1]) if best is None else best
    folders += run.best_checkpoints()
    for folder in folders:
        if checkpoint_step(folder) == step:
            return folder
    kept = ", ".join(map(str, sorted({checkpoint_step(folder) for folder in folders})))
    raise InputError(f"{run.folder} has no checkpoint at step {step}: it keeps {kept}.")


def tokenizer_of(opened: LoadedModel) -> str:
    """A folder with the tokenizer of given weights, so that the text is prepared with it."""
    folder = opened.run.folder if opened.run is not None else Path(opened.name)
    if not (folder / "tokenizer.json").is_file():  # a GGUF file or a hub id
        folder = Path("prepared") / f"tokenizer-{opened.tokenizer.fingerprint[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in opened.tokenizer.files().items():
            write_aside(folder / name, content)
    return str(folder)


def refuse_other_shape(wanted: Settings, opened: LoadedModel) -> None:
    """Given weights have their shape: raises InputError when another one is asked for."""
    for name in ("preset", *SHAPE):
        asked = getattr(wanted.model, name)
        if asked is not None and asked != getattr(opened.model.shape, SHAPE.get(name, name), None):
            raise InputError(f"model.{name} is {asked!r}, but the shape is that of {opened.name}: leave it out.")


def prompt_ids(opened: LoadedModel, prompt: str) -> list[int]:
    """The prompt as ids, with the token that begins a document in front where the tokenizer has one."""
    tokenizer = opened.tokenizer
    first = tokenizer.end_of_text if tokenizer.kind != "foreign" else tokenizer.beginning
    ids = ([] if first is None else [first]) + [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        raise InputError(f"give a prompt: {opened.name} has no beginning-of-document token.")
    return ids
