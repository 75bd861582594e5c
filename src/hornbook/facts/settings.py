"""Every setting once: its name, type, unit and one line. TOML <-> Settings. What is None is chosen automatically.

A recipe is a TOML file of these settings; the resolved file of a run is itself a recipe. Only session and cli read
Settings: below them, functions take plain arguments.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.names import Field, by_dotted_names, by_present_names, read_names
from hornbook.facts.printing import on_one_line

Precision = Literal["float32", "bfloat16"]
LARGEST = 2**62  # sums of two such numbers fit a machine's integers
Whole = Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Context = Annotated[int, Meta(ge=2, le=LARGEST)]
Index = Annotated[int, Meta(ge=0, le=LARGEST)]
Seed = Annotated[int, Meta(ge=0, le=LARGEST)]
Threads = Annotated[int, Meta(ge=1, le=1024)]
Positive = Annotated[float, Meta(gt=0, le=1e38)]  # products of them fit float32
Epochs = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e38)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


# fmt: off
def row(sentence: str, unit: str = "", *, also: str = "", was: str = "") -> Meta:
    """A setting beside its type and default: what it is, its unit, its names in other trainers, its name of before. Its
    short name is the last part of the dotted one, where no other setting has that."""
    return Meta(description=sentence, extra={"unit": unit, "aliases": tuple(also.split()), "was": was})


class Text(msgspec.Struct, forbid_unknown_fields=True):
    """The text, its tokenizer and its split."""

    paths: Annotated[list[str], row("files, folders or globs; empty: the built-in corpus")] = []
    field: Annotated[str, row("field that holds the text in rows of .jsonl, .json, .csv, .tsv, .parquet")] = "text"
    separator: Annotated[str | None, row(
        "a string that separates documents within a file; none: a file is one document")] = None
    errors: Annotated[Literal["strict", "replace"], row("what to do with bytes that are not UTF-8")] = "strict"
    tokenizer: Annotated[str, row(
        "auto, bpe:4096, characters (of the whole text), bytes, gpt2, or a folder with a tokenizer.json")] = "auto"
    split: Annotated[str, row(
        "hash:0.1, tail:0.1, blocks:0.1 or folder:PATH; auto by the number of documents")] = "auto"
    dedup: Annotated[bool, row(
        "leave out training documents that copy an earlier one or a validation document")] = False
    canaries: Annotated[bool, row(
        "plant random lines (canaries) in the training split, to measure memorization")] = False


class Model(msgspec.Struct, forbid_unknown_fields=True):
    """The decoder."""

    preset: Annotated[str | None, row("a named shape such as 6M or gpt2; other settings override it")] = None
    family: Annotated[str | None, row("gpt2, llama, qwen2 or qwen3")] = None
    layers: Annotated[Count | None, row(
        "number of blocks", "blocks", also="n_layer n_layers num_layers num_hidden_layers")] = None
    width: Annotated[Count | None, row("hidden size", "features", also="n_embd hidden_size")] = None
    heads: Annotated[Count | None, row(
        "attention heads", "heads", also="n_head n_heads num_heads num_attention_heads")] = None
    kv_heads: Annotated[Count | None, row(
        "key/value heads (grouped-query attention)", "heads", also="n_kv_heads num_key_value_heads")] = None
    intermediate_size: Annotated[Count | None, row("hidden size of the MLP", "features", was="hidden")] = None
    context: Annotated[Context | None, row(
        "context length", "tokens", also="block_size context_length seq_len max_seq_len n_positions")] = None
    tied: Annotated[bool | None, row(
        "whether the head shares the embedding's weights", also="tie_weights tie_word_embeddings")] = None
    rope_base: Annotated[Positive | None, row("base of the rotary position frequencies", also="rope_theta")] = None
    dropout: Annotated[Fraction, row("dropout probability in training")] = 0.0


class Optimizer(msgspec.Struct, forbid_unknown_fields=True):
    """How weights are updated."""

    name: Annotated[Literal["adamw", "muon"] | None, row(
        "adamw, or muon for matrices and adamw for the rest", also="optimizer")] = None
    learning_rate: Annotated[Positive | None, row("peak learning rate of AdamW", also="lr max_lr")] = None
    muon_learning_rate: Annotated[Positive | None, row(
        "peak learning rate of Muon", also="muon_lr", was="matrix_learning_rate")] = None
    weight_decay: Annotated[NotNegative | None, row("decoupled weight decay, on matrices only", also="wd")] = None
    beta1: Annotated[Fraction, row("AdamW: decay of the first moment", also="adam_beta1")] = 0.9
    beta2: Annotated[Fraction | None, row("AdamW: decay of the second moment", also="adam_beta2")] = None
    epsilon: Annotated[Positive, row("AdamW: added to the denominator", also="eps adam_epsilon")] = 1e-8
    momentum: Annotated[Fraction | None, row("Muon: momentum")] = None
    clip_norm: Annotated[Positive, row("gradient clipping: largest global norm", also="grad_clip max_grad_norm")] = 1.0


class Schedule(msgspec.Struct, forbid_unknown_fields=True):
    """The learning-rate schedule."""

    name: Annotated[Literal["wsd", "cosine", "linear", "constant"], row(
        "after the warm-up: wsd holds, then decays linearly; cosine and linear decay at once",
        also="schedule lr_schedule lr_scheduler_type", was="kind")] = "wsd"
    warmup_steps: Annotated[Index | None, row("warm-up steps", "steps", also="warmup warmup_iters")] = None
    decay_fraction: Annotated[Share, row("wsd: share of the steps in the decay")] = 0.6
    final_fraction: Annotated[Share, row("final learning rate as a fraction of the peak")] = 0.0


class Train(msgspec.Struct, forbid_unknown_fields=True):
    """Length, batch size and precision of training."""

    steps: Annotated[Count | None, row(
        "length in steps (optimizer updates)", "steps", also="max_steps max_iters num_steps")] = None
    epochs: Annotated[Epochs | None, row(
        "length in passes over the training text", "epochs", also="num_epochs max_epochs num_train_epochs")] = None
    tokens: Annotated[Count | None, row("length in training tokens", "tokens", also="num_tokens")] = None
    budget: Annotated[str | None, row(
        "length in wall time, such as 90s, 10m or 2h, start to end; beside another length a limit")] = None
    batch: Annotated[Count | None, row("sequences per step", "sequences", also="batch_size")] = None
    microbatch: Annotated[Count | None, row(
        "sequences per forward pass; gradients are accumulated", "sequences", also="micro_batch_size")] = None
    seed: Annotated[Seed, row("seed of weights, data order and dropout")] = 0
    precision: Annotated[Precision | None, row(
        "of the forward pass; weights stay float32; bfloat16 where the hardware supports it", also="dtype")] = None
    compile: Annotated[bool | None, row("torch.compile each block", also="torch_compile")] = None
    deterministic: Annotated[bool, row(
        "bit-for-bit reproducible on an accelerator too, with slower attention")] = False
    shift_windows: Annotated[bool, row(
        "each epoch cuts the text in other places; false: always the same ones, as in Raschka's book")] = True
    recompute: Annotated[bool, row(
        "activation checkpointing: keep only the inputs of blocks; less memory, a third more time",
        also="gradient_checkpointing activation_checkpointing")] = False
    document_mask: Annotated[bool, row("attention never crosses a document")] = False
    early_stop: Annotated[Count | None, row(
        "early stopping: evaluations without a better validation loss", "evaluations", also="patience")] = None
    skip_spikes: Annotated[Positive | None, row(
        "robust z-score from which a loss spike is undone and its batches left out; none: only a warning")] = None
    threads: Annotated[Threads | None, row(
        "CPU threads of each process; part of the run's identity", also="num_threads")] = None
    processes: Annotated[Threads, row(
        "processes of this machine that train together; under torchrun its own number counts", "processes")] = 1
    parallel: Annotated[Literal["replicate", "shard", "hybrid"] | None, row(
        "of several processes: each has all weights, or some; hybrid: some, all of them on each machine")] = None
    timeout: Annotated[Positive, row("how long processes wait for each other", "seconds")] = 1800.0


class Watch(msgspec.Struct, forbid_unknown_fields=True):
    """Evaluation and samples during training. None of it changes the weights."""

    evaluate_every: Annotated[Count | None, row(
        "steps between evaluations of the probe", "steps", also="eval_interval eval_every eval_steps")] = None
    sample_every: Annotated[Count | None, row("steps between text samples", "steps", also="sample_interval")] = None
    probe_tokens: Annotated[Count | None, row("tokens that the probe scores in each split", "tokens")] = None
    prompts: Annotated[list[str], row("prompts of the samples; empty: the start of a document")] = []
    sample_tokens: Annotated[Count, row("length of a sample in tokens", "tokens")] = 100
    temperature: Annotated[NotNegative, row("sampling temperature; 0 is greedy")] = 0.8
    price: Annotated[str | None, row(
        "US dollars for the machine, such as 30/hour, to report the cost")] = None


class Checkpoints(msgspec.Struct, forbid_unknown_fields=True):
    """Which checkpoints are kept."""

    every: Annotated[Count | None, row(
        "steps between checkpoints", "steps", also="save_every save_interval save_steps")] = None
    keep: Annotated[Count, row(
        "newest checkpoints kept, besides step 0 and the best weights", "checkpoints", also="save_total_limit")] = 2
    best: Annotated[bool | None, row(
        "use the weights with the lowest probe loss, not the last; true where no length is given",
        also="load_best_model_at_end")] = None
# fmt: on


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """All settings of a run."""

    text: Text = msgspec.field(default_factory=Text)
    model: Model = msgspec.field(default_factory=Model)
    optimizer: Optimizer = msgspec.field(default_factory=Optimizer)
    schedule: Schedule = msgspec.field(default_factory=Schedule)
    train: Train = msgspec.field(default_factory=Train)
    watch: Watch = msgspec.field(default_factory=Watch)
    checkpoint: Checkpoints = msgspec.field(default_factory=Checkpoints)


RECIPES = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")  # of a wheel; of a checkout
FREE = ("processes", "parallel", "timeout")  # of [train]; a run may go on with others
LENGTHS = ("steps", "epochs", "tokens", "budget")  # of [train]; a run has one of them, and a budget perhaps


@cache
def fields() -> tuple[Field, ...]:
    """Every setting in order."""
    rows = []
    for section, struct in get_type_hints(Settings).items():
        hints = get_type_hints(struct, include_extras=True)
        for info in msgspec.structs.fields(struct):
            inner, *metas = get_args(hints[info.name])
            alternatives = [a for a in get_args(inner) if a is not type(None)] if type(None) in get_args(inner) else []
            default = info.default if info.default is not msgspec.NODEFAULT else info.default_factory()
            facts = (f"{section}.{info.name}", (alternatives or [inner])[0], bool(alternatives), default)
            rows.append(Field(*facts, metas[-1].description, **metas[-1].extra))
    return tuple(rows)


@cache
def names() -> dict[str, Field]:
    """Every name by which a setting is read."""
    return read_names(fields())


OFF = (
    "text.separator",
    "train.early_stop",
    "train.skip_spikes",
    "watch.price",
)  # None means: not done; every other None is chosen automatically
_PLAIN = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def expected(message: str, kind: Any = None) -> str:
    """What msgspec says of a wrong value, in plain words and with the allowed ones.

    >>> expected("Expected `int | null`, got `str`"), expected("Invalid enum value 'sgd'", Literal["adamw", "muon"])
    ('expected a whole number, got text', "expected adamw or muon, not 'sgd'")
    """
    if get_origin(kind) is Literal and (wrong := re.fullmatch(r"Invalid enum value (.*)", message)):
        return f"expected {' or '.join(get_args(kind))}, not {wrong[1]}"
    plain = message[:1].lower() + message[1:].replace("`", "").replace(" | null", "")
    return re.sub(r"\b(int|float|bool|str)\b", lambda word: _PLAIN[word[0]], plain)


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that the generators of random numbers do not take."""
    if not 0 <= seed <= LARGEST:
        raise InputError(f"the seed is {seed}, but must be from 0 to {LARGEST}.")


def from_table(table: Mapping[str, Any], *, source: str) -> Settings:
    """Settings from nested tables; raises InputError naming the unknown or wrong key, its place and the nearest."""
    sections = get_type_hints(Settings)
    table = by_present_names(table, names(), source=source)
    for section, values in table.items():
        if section not in sections:
            raise InputError(f'{source}: unknown section "{section}"{suggestion(section, sections)}.')
        if not isinstance(values, Mapping):
            raise InputError(f'{source}: "{section}" must be a section of settings, not a value.')
        known = [info.name for info in msgspec.structs.fields(sections[section])]
        for key in values:
            if key not in known:
                near = suggestion(names()[key].name, [names()[key].name]) if key in names() else suggestion(key, known)
                raise InputError(f'{source}: unknown setting "{section}.{key}"{near}.')
    try:
        settings = msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`")
        kinds = [field.type for field in fields() if field.name == name]
        raise InputError(f"{source}: {expected(message, *kinds)}{place and f' at {name}'}.") from None
    text = settings.text
    for name in (*text.paths, text.tokenizer, text.split):
        if wrong := re.search("[\0\ud800-\udfff]", name):
            what = "has a NUL character" if wrong[0] == "\0" else "is not UTF-8"
            raise InputError(f"{source}: {on_one_line(name)} {what}; rename what it names, or give a pattern for it.")
    text.paths = [os.path.expanduser(path) for path in text.paths]  # no shell reads a recipe
    text.tokenizer = os.path.expanduser(text.tokenizer)
    rule, colon, argument = text.split.partition(":")
    text.split = f"{rule}{colon}{os.path.expanduser(argument)}"
    return settings


def read_table(path: Path) -> dict[str, Any]:
    """The nested tables of a TOML file, or of one of Hornbook's own recipes by its bare name, such as "by-heart".

    Raises InputError when it is missing or is not TOML.
    """
    own = {file.stem: file for folder in RECIPES for file in folder.glob("*.toml")}
    if not path.exists():
        path = own.get(str(path), path)
    try:
        if path.exists() and not path.is_file():  # a device may have no end, a FIFO no writer
            raise IsADirectoryError
        table = parse_table(path.read_text(encoding="utf-8-sig"), path)
        return by_present_names(table, names(), source=str(path), note=True)
    except FileNotFoundError:
        there = sorted(str(file) for folder in (path.parent, Path("recipes")) for file in folder.glob("*.toml"))
        near = suggestion(str(path), there) if path.suffix else suggestion(str(path), own)
        raise InputError(f"there is no recipe at {path}{near}.") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise InputError(f"{path} is not a recipe: a recipe is a TOML file of settings.") from None


def parse_table(text: str, path: Path) -> dict[str, Any]:
    """The nested tables of the TOML in `path`. Raises InputError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    except (ValueError, RecursionError):
        raise InputError(
            f"{path} is not a recipe: a number in it has too many digits, or too much is nested."
        ) from None


def overridden(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with `changes` put in, by any name of a setting. A length in `changes` replaces that of the table.

    >>> overridden({"train": {"epochs": 3.0, "batch": 4}}, {"steps": 300, "lr": 3e-3})
    {'train': {'batch': 4, 'steps': 300}, 'optimizer': {'learning_rate': 0.003}}
    """
    changes = by_dotted_names(changes, names())
    merged: dict[str, Any] = {s: dict(values) if isinstance(values, Mapping) else values for s, values in table.items()}
    if any(f"train.{length}" in changes for length in LENGTHS) and isinstance(merged.get("train"), dict):
        for length in LENGTHS:
            merged["train"].pop(length, None)
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if isinstance(merged.setdefault(section, {}), dict):  # else from_table refuses it
            merged[section][key] = value
    return merged


def to_toml(settings: Settings) -> str:
    """The settings as a recipe; what is None is left out."""
    table = msgspec.to_builtins(settings)
    return tomli_w.dumps({s: {k: v for k, v in values.items() if v is not None} for s, values in table.items()})
