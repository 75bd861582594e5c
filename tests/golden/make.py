"""Make the golden files: what Hornbook wrote and said when they were made, through its command line alone.

    python tests/golden/make.py            all but the sweep; a minute
    python tests/golden/make.py printed NAME...  json/NAME.json of the old files as they are, and nothing else
    python tests/golden/make.py sweep      json/sweep.json; two minutes

Only a change of what is promised calls for this: of a file's format, a default, a key of `--json`, the arithmetic of
training. After a restructuring nothing here may change, and the old runs are worth most while they are old: "printed"
leaves them. A setting that gets a new name is entered in RENAMED instead. Look at the difference before committing it.

    texts.jsonl      30 documents from lists of words and a seed; parts.txt: 12 in one file
    note.txt         a text, and task.jsonl questions, for evaluate
    prepared-bpe/    texts.jsonl as `prepare` wrote it
    runs/            qwen3 by Muon, of prepared-bpe; gpt2 by AdamW, of texts.jsonl; without pages and pictures, and
                     with nothing about the machine in environment.json
    recipes/         two of recipes/ as they were, and one that sets every setting there was
    json/            what each command of CASES printed, for TRAINED also files and rows of the run; numbers and
                     sentences that may differ from time to time are "..." (see `masked`)
    settings/        the settings.toml of a run by each recipe
    hashes.json      SHA-256 of the weights after 50 steps of each family and optimizer (of every-setting.toml after its
                     12), and the machine of that
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parents[1]
RENAMED = {  # old dotted name of a setting -> its new one; recipes and runs keep the old one
    "optimizer.matrix_learning_rate": "optimizer.muon_learning_rate",
    "model.hidden": "model.intermediate_size",
    "schedule.kind": "schedule.name",
}
OLD = (
    "texts.jsonl",
    "parts.txt",
    "note.txt",
    "task.jsonl",
    "prepared-bpe",
    "runs",
    "recipes",
)  # what the commands are given
OF_A_MACHINE = ("system", "cpu", "cores", "cores_usable", "memory_bytes", "git_commit")  # in environment.json
PICTURES = ("report.html", "loss.png", "loss.svg")

ONE_CORE = ("--threads", "1", "--train.precision", "float32", "--json")
SMALL = (
    "--model.layers",
    "2",
    "--model.context",
    "32",
    "--train.batch",
    "4",
    "--watch.sample_tokens",
    "8",
    "--watch.evaluate_every",
    "10",
    "--watch.probe_tokens",
    "192",
    *ONE_CORE,
)
QWEN3 = (
    "train", "prepared-bpe", "--model.family", "qwen3", "--model.width", "8", "--model.heads", "2",
    "--model.kv_heads", "1", "--model.hidden", "16", "--model.tied", "true", "--optimizer.name", "muon",
    "--optimizer.learning_rate", "0.1", "--optimizer.matrix_learning_rate", "0.06", "--steps", "40",
    "--checkpoint.keep", "1", *SMALL,
)  # fmt: skip
GPT2 = (
    "train", "texts.jsonl", "--tokenizer", "characters", "--split", "tail:0.2", "--model.family", "gpt2",
    "--model.width", "16", "--model.heads", "2", "--optimizer.name", "adamw", "--optimizer.learning_rate", "0.02",
    "--schedule.kind", "constant", "--schedule.warmup_steps", "5", "--steps", "30", "--checkpoint.keep", "1",
    "--checkpoint.every", "30", *SMALL, "--model.layers", "1", "--train.batch", "16",
)  # fmt: skip
PREPARE = ("prepare", "texts.jsonl", "--tokenizer", "bpe:270", "--split", "tail:0.2", "--json")

# What is printed about the old runs; none of them changes one.
CASES: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate", "runs/qwen3", "--json"),
    "evaluate-gpt2": ("evaluate", "runs/gpt2", "--json"),
    "evaluate-text": ("evaluate", "runs/qwen3", "note.txt", "--json"),
    "evaluate-window": ("evaluate", "runs/gpt2", "note.txt", "--window", "16", "--stride", "4", "--json"),
    "evaluate-step": ("evaluate", "runs/qwen3", "note.txt", "--step", "0", "--json"),
    "evaluate-per-document": ("evaluate", "runs/qwen3", "--per-document", "--json"),
    "evaluate-huggingface": ("evaluate", "runs/qwen3", "note.txt", "--like", "huggingface", "--json"),
    "evaluate-lm-eval": ("evaluate", "runs/qwen3", "note.txt", "--like", "lm-eval", "--json"),
    "evaluate-tasks": ("evaluate", "runs/qwen3", "--tasks", "task.jsonl", "--json"),
    "evaluate-calibration": ("evaluate", "runs/qwen3", "note.txt", "--calibration", "--json"),
    "generate": ("generate", "runs/qwen3", "The cat", "--max-tokens", "24", "--seed", "3", "--json"),
    "generate-greedy": ("generate", "runs/gpt2", "A dog", "--max-tokens", "24", "--temperature", "0", "--json"),
    "inspect": ("inspect", "runs/qwen3", "The cat", "--gradients", "--top-k", "2", "--json"),
    "inspect-against": ("inspect", "runs/qwen3", "A dog", "--against-step", "16", "--top-k", "1", "--json"),
    "inspect-weights": ("inspect", "runs/gpt2", "--json"),
    "compare": ("compare", "runs/qwen3", "runs/qwen3", "--step-a", "16", "--json"),
    "compare-on": ("compare", "runs/qwen3", "runs/gpt2", "--on", "texts.jsonl", "--json"),
    "memorize": ("memorize", "runs/qwen3", "--json"),
    "runs": ("runs", "runs", "--json"),
    "prepare": (*PREPARE, "--out", "prepared-anew"),
    "export-huggingface": ("export", "runs/qwen3", "--to", "huggingface", "--out", "huggingface", "--json"),
    "export-gguf": ("export", "runs/qwen3", "--to", "gguf", "--out", "gguf", "--json"),
    "plan-size": (
        "plan", "--parameters", "7B", "--tokens", "2T", "--on", "8xA100", "--price", "30/hour", "--json",
    ),
    "plan-recipe": ("plan", "recipes/every-setting.toml", "--on", "A100", "--price", "2/hour", "--json"),
    "plan-text": ("plan", "prepared-bpe", "--steps", "100", "--model.context", "32", "--threads", "1", "--json"),
}  # fmt: skip

# What trains: numbers are those of the machine, see `test_golden.py`.
TRAINED: dict[str, tuple[str, ...]] = {
    "train": (*QWEN3, "--seed", "1", "--out", "trained"),  # also: the old prepared text trains
    "train-longer-qwen3": ("train", "--steps", "50", "--out", "longer/qwen3", "--json"),
    "train-longer-gpt2": ("train", "--steps", "40", "--out", "longer/gpt2", "--json"),
}

# Recipes, with which of them a run is resolved; every-setting.toml is used as it is.
RECIPES: dict[str, tuple[str, ...]] = {
    "by-heart": ("train", "texts.jsonl", "--recipe", "recipes/by-heart.toml", "--steps", "2", *ONE_CORE),
    "shakespeare-char": (
        "train", "texts.jsonl", "--recipe", "recipes/shakespeare-char.toml", "--steps", "2", *ONE_CORE,
    ),
    "every-setting": ("train", "--recipe", "recipes/every-setting.toml", "--json"),
}  # fmt: skip

SWEEP = ("sweep", "texts.jsonl", "--split", "tail:0.2", "--tokenizer", "bytes", "--budget", "30m", "--json")

HASHED = {
    f"{family}-{optimizer}": (
        "train", "texts.jsonl", "--tokenizer", "bytes", "--split", "tail:0.2", "--model.family", family,
        "--optimizer.name", optimizer, "--model.width", "32", "--steps", "50", *SMALL,
    )
    for family in ("gpt2", "llama", "qwen2", "qwen3") for optimizer in ("adamw", "muon")
} | {"every-setting": RECIPES["every-setting"]}  # fmt: skip

EVERY_SETTING = """\
# Every setting there was when this was made, by the name that it had. The lengths exclude each other: `steps` stands
# for `epochs`, `tokens` and `budget`, which the test puts in its place.
[text]
paths = ["parts.txt"]
field = "text"
separator = "###\\n"
errors = "replace"
tokenizer = "bpe:300"
split = "tail:0.25"
dedup = true
canaries = true

[model]
preset = "0.2M"
family = "llama"
layers = 2
width = 24
heads = 4
kv_heads = 2
hidden = 40
context = 24
tied = false
rope_base = 500.0
dropout = 0.1

[optimizer]
name = "muon"
learning_rate = 0.004
matrix_learning_rate = 0.02
weight_decay = 0.05
beta1 = 0.85
beta2 = 0.97
epsilon = 1e-7
momentum = 0.92
clip_norm = 0.8

[schedule]
kind = "cosine"
warmup_steps = 3
decay_fraction = 0.4
final_fraction = 0.05

[train]
steps = 12
batch = 5
microbatch = 2
seed = 11
precision = "float32"
compile = false
deterministic = true
shift_windows = false
recompute = true
document_mask = true
early_stop = 4
threads = 1

[watch]
evaluate_every = 5
sample_every = 6
probe_tokens = 300
prompts = ["The cat", "A dog"]
sample_tokens = 6
temperature = 0.7
price = "2/hour"

[checkpoint]
every = 6
keep = 3
best = true
"""

# ---- What is masked

SENTENCES = {
    "assumed", "chosen", "conventions", "held_out", "interval_method", "note", "notes", "reasons", "report_problem",
    "sentence", "sentences", "unknown", "verdict", "warnings", "words",
}  # fmt: skip
MEASURED = {  # by a clock, of a machine, or following from what is
    "checksum", "energy_kwh", "gpu_hours", "largest_microbatch", "largest_microbatch_checkpointing",
    "megabytes_per_second", "mfu", "peak_memory_bytes", "plan_score", "prepared", "price_usd", "sample", "seconds",
    "tokens_per_second", "train_seconds", "wall_seconds", "README.md",
}  # fmt: skip
DEVICE_NAMED = ("plan-size", "plan-recipe")  # these measure nothing


def masked(value: Any, measured: set[str] = MEASURED) -> Any:
    """`value` with "..." for sentences and for what was `measured`; keys stay, also those within."""
    if isinstance(value, dict):
        hidden = SENTENCES | measured
        return {
            key: _hidden(inner) if key.removesuffix("_interval_90") in hidden else masked(inner, measured)
            for key, inner in value.items()
        }
    return [masked(inner, measured) for inner in value] if isinstance(value, list) else value


def _hidden(value: Any) -> Any:
    return {key: _hidden(inner) for key, inner in value.items()} if isinstance(value, dict) else "..."


# ---- Running commands


def hornbook(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command, in this process: starting torch anew takes seconds."""
    from hornbook.cli import main

    place = contextlib.chdir("plans" if arguments[0] == "plan" else ".")
    with place, contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def printed(name: str, *arguments: str) -> Any:
    """What a case prints, masked; of training, with the names of the run's files and the keys of its rows."""
    code, out, err = hornbook(*arguments)
    assert code == 0, err
    found = masked(json.loads(out), set() if name in DEVICE_NAMED else MEASURED)
    if name in TRAINED:
        run = Path(arguments[arguments.index("--out") + 1])
        found = {"summary": found, "files": files_of(run), "rows": keys_of_rows(run)}
    if "export" in arguments:
        folder = Path(arguments[arguments.index("--out") + 1])
        found = {"printed": found, "sha256": hashes_of(folder), "evaluation": evaluation_of(folder)}
    return found


def hashes_of(exported: Path) -> dict[str, str]:
    """SHA-256 of what others read; not of the card, which is prose."""
    files = sorted(path for path in exported.iterdir() if path.name != "README.md")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def evaluation_of(exported: Path) -> Any:
    model = next(exported.glob("*.gguf"), exported)
    return printed("evaluate", "evaluate", str(model), "note.txt", "--json")


def files_of(run: Path) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def keys_of_rows(run: Path) -> dict[str, list[str]]:
    """The keys of the log's rows, by the event."""
    keys: dict[str, set[str]] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        keys.setdefault(row["event"], set()).update(row)
    return {event: sorted(names) for event, names in sorted(keys.items())}


def weights_hash(run: Path) -> str:
    """SHA-256 over the names and bytes of the newest checkpoint's weights, in the order of the names."""
    from safetensors.numpy import load_file

    newest = max((run / "checkpoints").glob("step-*"))
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(newest / "model.safetensors").items()):
        digest.update(name.encode() + tensor.tobytes())
    return digest.hexdigest()


def trained_weights(name: str) -> dict[str, Any]:
    """The hash of the weights of one of HASHED, and its last loss."""
    code, out, err = hornbook(*HASHED[name], "--out", f"hashed/{name}")
    assert code == 0, err
    loss = json.loads(out)["train_loss_nats_per_token"]
    return {"sha256": weights_hash(Path("hashed") / name), "train_loss_nats_per_token": loss}


def resolved(name: str) -> str:
    """The settings.toml of a run by a recipe."""
    code, _, err = hornbook(*RECIPES[name], "--out", f"resolved/{name}")
    assert code == 0, err
    return (Path("resolved") / name / "settings.toml").read_text(encoding="utf-8")


def machine() -> dict[str, Any]:
    """What the bits of a training on one core depend on besides the code."""
    import torch

    return {
        "cpu": cpu_model(), "instructions": torch.backends.cpu.get_cpu_capability(), "torch": str(torch.__version__),
        "threads": 1,
    }  # fmt: skip


def cpu_model() -> str:
    """The name alone is not enough: of virtual machines it is often that of a maker."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        facts = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
        numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts]
        if "model name" in facts:
            return ", ".join([facts["model name"], *numbers])
    return platform.processor()


LENGTHS = ("epochs = 2.0", "tokens = 2_000", 'budget = "10m"')


def planned_steps(length: str) -> int:
    """Steps of every-setting.toml with another length."""
    recipe = f"{length.split()[0]}.toml"
    Path("plans", recipe).write_text(EVERY_SETTING.replace("steps = 12", length), encoding="utf-8")
    code, out, err = hornbook("plan", recipe, "--on", "A100", "--json")
    assert code == 0, err
    steps = json.loads(out)["steps"]
    return steps if isinstance(steps, int) else 0


def lay_out(folder: Path) -> None:
    """Copy what the commands are given to `folder`, the old runs once more to be made longer. Plans are made in a
    place of their own, because one knows more of a text that has been prepared."""
    for place in (folder, folder / "plans"):
        place.mkdir(exist_ok=True)
        for name in OLD:
            copy = shutil.copytree if (GOLDEN / name).is_dir() else shutil.copy
            copy(GOLDEN / name, place / name)
    for order, name in enumerate(("qwen3", "gpt2"), 1):  # `hornbook runs` lists them by their age
        os.utime(folder / "runs" / name / "settings.toml", (order, order))
    shutil.copytree(folder / "runs", folder / "longer")
    with contextlib.chdir(folder):  # the text of runs/gpt2: `compare --on` reads it only where it is prepared
        code, _, err = hornbook("prepare", *GPT2[1:6], "--json")
    assert code == 0, err


# ---- Making

WORDS = """\
the cat,a dog,my sister,the old baker,one small bird,the teacher,an honest sailor,nobody
sees,finds,carries,forgets,paints,counts,follows,remembers
the blue door,a loaf of bread,seven stones,the letter,his coat,a wooden boat,the last train
in the morning,by the river,again,without a word,before supper,on the hill,for once"""


def write_texts() -> None:
    """30 documents, of which some sentences recur, as in any text."""
    draw = random.Random(20)
    who, does, what, where = (line.split(",") for line in WORDS.splitlines())

    def text(sentences: int) -> str:
        parts = (tuple(map(draw.choice, (who, does, what, where))) for _ in range(sentences))
        return " ".join(f"{a.capitalize()} {b} {c} {d}." for a, b, c, d in parts) + "\n"

    lines = [json.dumps({"id": number, "text": text(7)}) + "\n" for number in range(30)]
    (GOLDEN / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    (GOLDEN / "parts.txt").write_text("###\n".join(text(9) for _ in range(12)), encoding="utf-8")
    (GOLDEN / "note.txt").write_text(text(6), encoding="utf-8")
    questions = [
        {"context": f"{a.capitalize()} {b}", "choices": [f" {c}.", f" {c[::-1]}."], "gold": 0}
        for a, b, c in zip(who, does, what, strict=False)
    ]
    (GOLDEN / "task.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions), encoding="utf-8")


def make_old(work: Path) -> None:
    """The prepared text and the runs, made in `work`."""
    shutil.copy(GOLDEN / "texts.jsonl", work)
    for arguments in ((*PREPARE, "--out", "prepared-bpe"), (*QWEN3, "--out", "runs/qwen3"),
                      (*GPT2, "--out", "runs/gpt2")):  # fmt: skip
        code, _, err = hornbook(*arguments)
        assert code == 0, err
    for run in (work / "runs").iterdir():
        for name in PICTURES:
            (run / "reports" / name).unlink()
        (run / ".lock").unlink()
        environment = json.loads((run / "environment.json").read_bytes())
        environment |= dict.fromkeys(OF_A_MACHINE)
        content = json_bytes(environment)
        (run / "environment.json").write_bytes(content)
        hashes = json.loads((run / "files.json").read_bytes())
        hashes["environment.json"] = [hashlib.sha256(content).hexdigest()]
        (run / "files.json").write_bytes(json_bytes(hashes))
    for name in ("prepared-bpe", "runs"):
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
        shutil.copytree(work / name, GOLDEN / name)


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def write_json(name: str, value: dict[str, Any]) -> None:
    """One key a line, so that a difference is short."""
    path = GOLDEN / name
    path.parent.mkdir(exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(inner, ensure_ascii=False)}" for key, inner in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def check_every_setting() -> None:
    """EVERY_SETTING has all names there are."""
    import msgspec

    import hornbook as package

    given = {f"{section}.{key}" for section, keys in tomllib.loads(EVERY_SETTING).items() for key in keys}
    known = {f"{section}.{key}" for section, keys in msgspec.to_builtins(package.Settings()).items() for key in keys}
    lengths = {"train.epochs", "train.tokens", "train.budget"}
    assert {RENAMED.get(name, name) for name in given} == known - lengths


@contextlib.contextmanager
def empty_folder() -> Any:
    """A fresh folder outside the repository, in which we are."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        yield Path(name)


def commit() -> str:
    """The last one that changed the package."""
    command = ["git", "log", "-1", "--format=%H", "--", "src"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def make_texts_and_recipes() -> None:
    write_texts()
    (GOLDEN / "recipes").mkdir(exist_ok=True)
    for name in ("by-heart.toml", "shakespeare-char.toml"):
        shutil.copy(ROOT / "recipes" / name, GOLDEN / "recipes")
    (GOLDEN / "recipes" / "every-setting.toml").write_text(EVERY_SETTING, encoding="utf-8")


def make_printed(names: list[str]) -> None:
    for name in names:
        write_json(f"json/{name}.json", printed(name, *(CASES | TRAINED)[name]))


def make_hashes() -> None:
    write_json("json/lengths.json", {length: planned_steps(length) for length in LENGTHS})
    (GOLDEN / "settings").mkdir(exist_ok=True)
    for name in RECIPES:
        (GOLDEN / "settings" / f"{name}.toml").write_text(resolved(name), encoding="utf-8")
    weights = {name: trained_weights(name) for name in HASHED}
    write_json("hashes.json", {"commit": commit(), "machine": machine(), "weights": weights})


def main() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.insert(0, str(ROOT / "src"))
    asked, names = sys.argv[1] if len(sys.argv) > 1 else "all", sys.argv[2:]
    if (
        asked not in ("all", "printed", "sweep")
        or (asked == "printed") != bool(names)
        or not {*names} <= (CASES | TRAINED).keys()
    ):
        sys.exit(f"expected printed NAME..., sweep or nothing; names are {', '.join(CASES | TRAINED)}")
    if asked == "all":
        check_every_setting()
        make_texts_and_recipes()
        with empty_folder() as work:
            make_old(work)
    with empty_folder() as work:
        lay_out(work)
        if asked == "sweep":
            write_json("json/sweep.json", printed("sweep", *SWEEP))
        else:
            make_printed(names or [*CASES, *TRAINED])
            if asked == "all":
                make_hashes()


if __name__ == "__main__":
    main()
