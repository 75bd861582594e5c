"""The command line as a person and as a script meet it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hornbook
from hornbook.cli import main
from hornbook.cli.parser import COMMANDS, _parse, build_parser
from hornbook.commands.options import normal
from hornbook.facts.names import ELSEWHERE
from hornbook.facts.settings import fields
from hornbook.records.run import Run

HANG_SECONDS = float(os.environ.get("HORNBOOK_HANG_SECONDS", "300"))  # a guard against hanging, not a measurement
SOURCE = str(Path(hornbook.__file__).parents[1])
TORCH_FREE = ("facts", "text", "data", "records", "report", "planning", "cli")
TINY = {
    "text.tokenizer": "bytes", "text.split": "tail:0.1", "train.threads": 1, "model.layers": 1, "model.width": 32,
    "model.context": 32, "train.batch": 4, "watch.sample_tokens": 8,
}  # fmt: skip


def python(script, *arguments, cwd=None):
    """Run a script in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, capture_output=True, text=True, timeout=HANG_SECONDS,
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = "import sys; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'matplotlib', 'tokenizers'}))"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_without_torch(arguments):
    script = f"""
import contextlib, sys
from hornbook.cli import main
with contextlib.suppress(SystemExit):
    main({arguments!r})
{LOADED}
"""
    *said, loaded = python(script).splitlines()
    assert loaded == "[]"
    assert any("hornbook" in line for line in said)


def test_importing_is_free_and_names_are_found_when_used():
    script = f"""
import hornbook
assert 'train' in dir(hornbook) and 'numpy' not in __import__('sys').modules
{LOADED}
import hornbook.facts.settings
for name in hornbook.__all__:
    assert getattr(hornbook, name) is not None, name
try:
    hornbook.trian
except AttributeError as error:
    print(error)
"""
    assert python(script).splitlines() == ["[]", "module 'hornbook' has no attribute 'trian'"]


@pytest.mark.parametrize("ask", ["hornbook.evaluate", "main(['runs', '.'])"], ids=["function", "command"])
def test_on_a_busy_machine_waiting_threads_sleep_however_it_is_asked(ask, tmp_path):
    script = f"""
import os, sys
os.environ.pop('OMP_WAIT_POLICY', None)
os.getloadavg = lambda: (float(sys.argv[1]), 0.0, 0.0)
import hornbook
from hornbook.cli import main
{ask}
print(os.environ.get('OMP_WAIT_POLICY'))
"""
    said = [python(script, load, cwd=tmp_path).splitlines()[-1] for load in ("3.0", "0.1")]
    assert said == ["passive", "None"]


def test_torch_free_folders_load_no_torch():
    names = []
    for path in sorted(Path(SOURCE, "hornbook").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if len(parts) > 1 and parts[1] in TORCH_FREE:
            names.append(".".join(parts).removesuffix(".__init__"))
    assert len(names) > 25
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n" + LOADED
    assert python(script, *names).strip() == "[]"


def test_no_arguments_shows_the_help(command_line):
    finished = command_line()
    assert finished.code == 0
    for name in COMMANDS:
        assert name in finished.stdout


def test_json_prints_one_object_and_nothing_else(tiny_run):
    summary = tiny_run.summary  # was parsed from the whole of stdout
    assert summary["run"] == "run"
    assert summary["step"] == 24
    assert Path(tiny_run.folder, summary["report"]).is_file()
    low, high = summary["validation_loss_nats_per_token_interval_95"]
    assert low < summary["validation_loss_nats_per_token"] < high
    assert summary["validation_loss_nats_per_token"] < 5.5  # ln 257 = 5.55: it has learned something


def test_what_a_run_leaves(tiny_run):
    names = {path.name for path in tiny_run.run.iterdir()} - {".lock"}
    assert names == {
        "settings.toml", "environment.json", "metrics.jsonl", "samples.jsonl", "checkpoints", "reports", "plan.json",
        "tokenizer.json", "tokenizer_config.json", "files.json",
    }  # fmt: skip
    assert {p.name for p in (tiny_run.run / "reports").iterdir()} >= {"loss.png", "loss.svg", "report.html"}
    assert (tiny_run.run / "checkpoints" / "step-00000000").is_dir()
    assert (tiny_run.run / "checkpoints" / "step-00000024").is_dir()


@pytest.fixture(scope="module")
def reports(tiny_run):
    """The validation side and a text, scored with several batch sizes, in one process: name -> report."""
    script = """
import json, sys, hornbook
found = {}
for size in (1, 7, 32, 256):
    for name, texts in (("own", ()), ("text", ("text.txt",))):
        found[f"{name} {size}"] = json.loads(hornbook.evaluate("run", *texts, batch_size=size).to_json())
print(json.dumps(found))
"""
    return json.loads(python(script, cwd=tiny_run.folder))


@pytest.mark.parametrize("name", ["own", "text"])
def test_the_batch_size_does_not_change_a_bit(reports, name):
    for size in (7, 32, 256):
        assert reports[f"{name} {size}"] == reports[f"{name} 1"]


def test_evaluate_agrees_with_the_summary_to_the_last_bit(tiny_run, reports):
    """And so the command agrees with the function, and the function with training."""
    summary, own = tiny_run.summary, reports["own 1"]
    assert own["loss_nats_per_token"] == summary["validation_loss_nats_per_token"]
    for name in (
        "perplexity",
        "bits_per_byte",
        "bits_per_byte_interval_95",
        "num_tokens",
        "num_bytes",
        "num_documents",
    ):
        assert own[name] == summary[name], name


def test_the_command_evaluates_as_the_function_does(tiny_run, reports, hornbook_in):
    finished = hornbook_in(tiny_run.folder)("evaluate", "run", "text.txt", "--json", "--batch-size", "7")
    assert finished.code == 0, finished.stderr
    assert finished.json == reports["text 1"]
    assert finished.json["num_bytes"] == 30_000


def test_a_checkpoint_is_a_model_too(tiny_run):
    opened = hornbook.open_model(tiny_run.run)
    again = hornbook.open_model(tiny_run.run / "checkpoints" / "step-00000024")
    first = hornbook.open_model(tiny_run.run, step=0)
    assert (opened.step, again.step, first.step) == (24, 24, 0)
    for name, weight in opened.model.state_dict().items():
        assert weight.equal(again.model.state_dict()[name])
    assert any(not w.equal(first.model.state_dict()[name]) for name, w in opened.model.state_dict().items())
    assert opened.tokenizer.fingerprint == again.tokenizer.fingerprint


def test_generate_the_same_seed_gives_the_same_text(tiny_run, hornbook_in):
    run = hornbook_in(tiny_run.folder)
    asked = ("generate", "run", "Thé end", "--max-tokens", "40", "--seed", "3")
    plain, as_json = run(*asked), run(*asked, "--json")
    assert plain.code == as_json.code == 0
    assert as_json.json["prompt"] == "Thé end"
    assert plain.stdout == "Thé end" + as_json.json["text"] + "\n"
    assert "".join(hornbook.generate(str(tiny_run.run), "Thé end", max_tokens=40, seed=3)) == as_json.json["text"]
    other = "".join(hornbook.generate(str(tiny_run.run), "Thé end", max_tokens=40, seed=4))
    assert other != as_json.json["text"]
    assert len(as_json.json["text"]) > 10


def test_generate_writes_nothing_before_it_says_what_is_wrong(tiny_run, hornbook_in):
    finished = hornbook_in(tiny_run.folder)("generate", "run", "The", "--temperature", "-1")
    assert (finished.code, finished.stdout) == (2, "")
    assert "temperature is -1.0" in finished.stderr


def test_generate_stops_before_a_word_and_says_when_the_prompt_is_cut(tiny_run, hornbook_in):
    whole = "".join(hornbook.generate(str(tiny_run.run), "x", max_tokens=60, seed=1))
    word = whole[20:22]
    assert (
        "".join(hornbook.generate(str(tiny_run.run), "x", max_tokens=60, seed=1, stop=[word]))
        == (whole[: whole.index(word)])
    )
    finished = hornbook_in(tiny_run.folder)("generate", "run", "long " * 20, "--max-tokens", "3")
    assert finished.code == 0
    assert "the prompt has 101 tokens: only its last 32 are used" in finished.stderr


def test_the_function_trains_as_the_command_does(tiny_run, tmp_path, monkeypatch, english):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english, encoding="utf-8")
    summary = hornbook.train("text.txt", out="run", **TINY, **{"train.steps": 24})
    timed = {"wall_seconds", "train_seconds", "gpu_hours", "tokens_per_second", "mfu"}
    timed |= {"peak_memory_bytes", "plan_score"}
    assert summary.keys() == tiny_run.summary.keys()
    for name in summary.keys() - timed:
        ours = list(summary[name]) if isinstance(summary[name], tuple) else summary[name]
        assert ours == tiny_run.summary[name], name
    file = Path("checkpoints", "step-00000024", "model.safetensors")
    assert ("run" / file).read_bytes() == (tiny_run.run / file).read_bytes()


def test_a_recipe_and_flags_are_the_same_settings(tiny_run, tmp_path, monkeypatch, english):
    """The settings.toml of a run is a recipe that makes the run again, and a flag overrides it."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english, encoding="utf-8")
    hornbook.train(recipe=tiny_run.run / "settings.toml", out="run", **{"train.steps": 2})
    ours = Path("run", "settings.toml").read_text(encoding="utf-8").splitlines()
    theirs = (tiny_run.run / "settings.toml").read_text(encoding="utf-8").splitlines()
    assert [line for line in ours if line not in theirs] == ["steps = 2"]


def test_runs_lists_what_is_there(tiny_run, hornbook_in):
    run = hornbook_in(tiny_run.folder)
    finished = run("runs", ".", "--json")
    assert finished.code == 0, finished.stderr
    assert [Path(row["run"]).name for row in finished.json["runs"]] == ["run"]
    plain = run("runs", ".")
    assert plain.code == 0
    assert "run" in plain.stdout


def test_prepare_reports_and_is_not_done_twice(command_line, text_file):
    first = command_line(
        "prepare", "text.txt", "--tokenizer", "bytes", "--split", "tail:0.1", "--out", "shards", "--json"
    )
    assert first.code == 0, first.stderr
    assert first.json["parts"]["train"]["num_bytes"] == 27_000
    shard = command_line.folder / "shards" / "train-00000.bin"
    before = shard.stat().st_mtime_ns
    again = command_line(
        "prepare", "text.txt", "--tokenizer", "bytes", "--split", "tail:0.1", "--out", "shards", "--json"
    )
    assert again.json["key"] == first.json["key"]
    assert shard.stat().st_mtime_ns == before
    text_file.write_text(text_file.read_text(encoding="utf-8") + "changed", encoding="utf-8")
    changed = command_line(
        "prepare", "text.txt", "--tokenizer", "bytes", "--split", "tail:0.1", "--out", "shards", "--json"
    )
    assert changed.json["key"] != first.json["key"]


TRIES = {
    ("hornbook", "tr"): "train", ("hornbook", "train", "--optimizer.name", ""): "adamw",
    ("hornbook", "evaluate", "--per"): "--per-document", ("hornbook", "help", "ins"): "inspect",
    ("hornbook", "completion", ""): "fish",
}  # fmt: skip
ZSH = """
compdef() { :; }
source ./script
compadd() { for word in $@[2,-1]; do [[ $word == $PREFIX* ]] && print -r -- $word; done }
words=("$@"); CURRENT=$#; PREFIX=$@[-1]; _hornbook
"""
BASH = """
source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _hornbook; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(command_line, shell):
    """In the real shells, where they are installed."""
    finished = command_line("completion", shell)
    assert finished.code == 0
    assert "hornbook" in finished.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (command_line.folder / "script").write_text(finished.stdout)
    for words, expected in TRIES.items():
        if shell == "fish":
            command = ["fish", "--no-config", "-c", f"source script; complete -C '{' '.join(words)}'"]
        else:
            command = [shell, *(["-f"] if shell == "zsh" else []), "-c", ZSH if shell == "zsh" else BASH, shell, *words]
        done = subprocess.run(command, cwd=command_line.folder, capture_output=True, text=True, timeout=60, check=False)
        assert expected in [line.partition("\t")[0] for line in done.stdout.splitlines()], (words, done)


def test_a_shell_has_to_be_named(command_line):
    for arguments in ([], ["ksh"], ["bash", "zsh"]):
        refused = command_line("completion", *arguments)
        assert refused.code == 2
        assert "bash|zsh|fish" in refused.stderr


def test_the_help_of_train_is_one_screen_and_all_of_it_is_there(command_line):
    lines = command_line("train", "--help").stdout.splitlines()
    assert len(lines) <= 24
    assert all(len(line) < 80 for line in lines)
    assert sum(line.startswith("  hornbook train ") for line in lines) == 3
    whole = command_line("train", "--help-all").stdout
    assert all(f"--{field.name}" in whole for field in fields() if field.name != "text.paths")
    assert "--schedule.name wsd|cosine|linear|constant" in whole
    assert command_line("help", "train").stdout.splitlines() == lines
    assert command_line("help").stdout == command_line("--help").stdout == command_line().stdout
    assert command_line("-V").stdout == command_line("--version").stdout
    unknown = command_line("help", "tran")
    assert unknown.code == 2
    assert '"train"' in unknown.stderr


def test_quiet_and_verbose(command_line, text_file):
    made = command_line("train", "text.txt", "--steps", "2", "--model.preset", "0.2M", "--out", "run", "--quiet")
    assert made.code == 0
    assert made.stderr == ""
    assert "bits per byte" in made.stdout
    refused = command_line("train", "nix.txt", "--quiet")
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    shown = command_line("train", "nix.txt", "--verbose")
    assert shown.code == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1] == refused.stderr.splitlines()[0]


def test_a_dash_is_stdin(tiny_run, hornbook_in, monkeypatch):
    run, text = hornbook_in(tiny_run.folder), "A sentence from a pipe."
    (tiny_run.folder / "piped.txt").write_text(text)
    command = [sys.executable, "-m", "hornbook"]
    for name, same in (("generate", [text]), ("inspect", [text]), ("evaluate", ["piped.txt"])):
        rest = ["--json", *(["--max-tokens", "5"] if name == "generate" else [])]
        expected = run(name, "run", *same, *rest).json
        piped = subprocess.run([*command, name, "run", "-", *rest], cwd=tiny_run.folder, input=text.encode(),
                               capture_output=True, timeout=HANG_SECONDS, check=True)  # fmt: skip
        found = json.loads(piped.stdout)
        for key in ("text", "bits_per_byte", "tokens", "nats", "num_bytes"):
            if key in expected and (name, key) != ("evaluate", "text"):
                assert found[key] == expected[key], (name, key)
        assert "hornbook-" not in piped.stdout.decode(), "a temporary file is named"
    assert found["text"] == found["documents"][0]["name"] == "stdin"


def test_stdout_that_is_closed_is_no_traceback(tiny_run, hornbook_in):
    process = hornbook_in(tiny_run.folder).start("generate", "run", "x", "--max-tokens", "2000")
    process.stdout.close()
    stderr = process.stderr.read()
    process.wait(timeout=HANG_SECONDS)
    assert "Traceback" not in stderr


def test_from_given_weights(tiny_run, tmp_path, monkeypatch, english):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(english[::-1], encoding="utf-8")
    hornbook.train("text.txt", out="run", from_=str(tiny_run.run), **{"train.steps": 2, "train.threads": 1})
    start = Path("run", "checkpoints", "step-00000000", "model.safetensors").read_bytes()
    end = (tiny_run.run / "checkpoints" / "step-00000024" / "model.safetensors").read_bytes()
    assert start == end
    hornbook.train("text.txt", out="run", **{"train.steps": 3})
    said = [row["sentence"] for row in Run.open("run").rows() if row["event"] == "warning"]
    assert not any("a fresh model starts" in sentence for sentence in said), "it goes on, and did not begin fresh"


def test_a_short_text_is_learned_by_heart(tmp_path, monkeypatch, english):
    """recipes/verdict.toml in small: a gpt2-family model on a text that is much too short for it."""
    monkeypatch.chdir(tmp_path)
    story = re.sub(r"[^a-z]+", " ", english.lower())[:2000]  # characters that both sides of the split have
    Path("story.txt").write_text(story, encoding="utf-8")
    summary = hornbook.train(
        "story.txt", out="run",
        **{
            "text.tokenizer": "characters", "text.split": "tail:0.1", "model.family": "gpt2", "model.layers": 2,
            "model.width": 64, "model.heads": 4, "model.context": 32, "optimizer.name": "adamw",
            "optimizer.learning_rate": 5e-3, "optimizer.weight_decay": 0.1, "schedule.name": "constant",
            "train.batch": 8, "train.epochs": 150, "train.threads": 1, "watch.sample_tokens": 8,
        },
    )  # fmt: skip
    assert summary["train_loss_nats_per_token"] < 1
    assert summary["validation_loss_nats_per_token"] > summary["train_loss_nats_per_token"] + 1
    assert "probably memorized training text" in " ".join(summary["words"])
    assert "memorized" in Path(summary["report"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "tokens"), [("600K", 600_000), ("1.5m", 1_500_000), ("4096", 4096)])
def test_train_takes_tokens_as_plan_does(text, tokens):
    parsed = vars(build_parser().parse_args(["train", "text.txt", "--tokens", text]))
    assert parsed["train.tokens"] == tokens


def test_the_help_says_what_is_off_and_what_is_chosen(command_line):
    asked = " ".join(command_line("train", "--help-all").stdout.split())
    assert "one document (default: none)" in asked
    assert "(default: automatic)" in asked
    written = command_line("generate", "--help").stdout
    assert "None" not in written
    assert "(default: all)" in " ".join(written.split())


def test_a_size_has_both_names_and_a_device_is_found(command_line):
    size, rest = ("124M", "--tokens", "1B", "--on", "A100", "--json"), "--size"
    assert command_line("plan", rest, *size).json["parameters"] == 124_000_000
    assert "--size N" in " ".join(command_line("sweep", "--help").stdout.split())
    wrong = command_line("plan", "--parameters", "124M", "--tokens", "1B", "--accelerator", "A100")
    assert wrong.code == 2
    assert 'did you mean "--on"?' in wrong.stderr


def settings_of(*words):
    """The settings that `hornbook train` reads from these words."""
    arguments = _parse(build_parser(), ["train", *words])
    return {name: value for name, value in vars(arguments).items() if "." in name} | {"texts": arguments.texts}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (("--lr", "3e-3", "--batch_size=4"), {"optimizer.learning_rate": 3e-3, "train.batch": 4}),
        (("--n-layer=2", "--n_embd", "32"), {"model.layers": 2, "model.width": 32}),
        (("--learning-rate", "1", "--max_iters", "5"), {"optimizer.learning_rate": 1.0, "train.steps": 5}),
        (("--train.early-stop", "3", "--model.n_head", "2"), {"train.early_stop": 3, "model.heads": 2}),
        (("--dtype", "bfloat16", "--optimizer", "muon"), {"train.precision": "bfloat16", "optimizer.name": "muon"}),
        (("--dedup", "a.txt"), {"text.dedup": True, "texts": ["a.txt"]}),
        (("--dedup", "true", "a.txt"), {"text.dedup": True, "texts": ["a.txt"]}),
        (("--no-dedup", "true"), {"text.dedup": False, "texts": ["true"]}),
        (("--text.dedup", "false"), {"text.dedup": False}),
        (("--compile=False", "--no-train.shift_windows"), {"train.compile": False, "train.shift_windows": False}),
        (("--no-tie-weights", "--", "--dedup"), {"model.tied": False, "texts": ["--dedup"]}),
    ],
)  # fmt: skip
def test_a_setting_by_any_of_its_names(words, settings):
    assert settings_of(*words) == {"texts": []} | settings


@pytest.mark.parametrize("command", COMMANDS)
def test_hyphens_and_underscores_and_switches_of_a_command(command):
    options = build_parser().commands[command]._option_string_actions
    for name, action in options.items():
        if name.startswith("--"):
            value = [] if action.nargs == 0 else ["true" if action.nargs == "?" else "3"]
            for spelled in (name, name.replace("_", "-"), "--" + name[2:].replace("-", "_")):
                assert options[normal([spelled, *value], options)[0].partition("=")[0]] is action
    assert normal(["--no-json"], options) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("train", "--resume"), ": a run is resumed when --out names its folder, and --from MODEL starts from"),
        (("train", "--name", "x"), ": --out names the folder that is written; of the settings there are --optimizer.n"),
        (
            ("train", "--device=cpu"),
            ": the accelerator is used where there is one; in the environment, HORNBOOK_DEVICE=cpu",
        ),
        (("prepare", "--output_dir", "x"), ": --out names the folder that is written;"),
        (("train", "--min-lr", "0"), ": --final-fraction is the learning rate at the end, as a share of the peak;"),
        (("generate", "--lr", "1"), ": it is a setting of hornbook train, --optimizer.learning_rate;"),
        (("train", "--lrr", "1"), ' (did you mean "--lr"?);'),
        (("train", "--optimizer.schedule", "wsd"), ' (did you mean "--schedule.name"?);'),
        (("evaluate", "--model.lr", "1"), ": it is a setting of hornbook train, --optimizer.learning_rate;"),
        (("train", "--max-itters", "1"), ' (did you mean "--max-iters"?);'),
        (("train", "--no-dedupe"), ' (did you mean "--dedup"?);'),
        (("generate", "--lrs", "x"), "; a text that begins with - comes last"),
    ],
)
def test_an_option_that_is_none_is_answered_with_the_right_one(capsys, words, answer):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'hornbook: there is no option "{words[1].partition("=")[0]}"{answer}'), error
    assert error.count("\n") == 1


def test_the_flags_that_answers_name_are_flags_of_train():
    options = build_parser().commands["train"]._option_string_actions
    assert {flag for why in ELSEWHERE.values() for flag in re.findall(r"--[\w.-]+", why)} <= options.keys()


def test_a_flag_of_before_is_answered_with_the_present_one(capsys):
    expected = {"optimizer.muon_learning_rate": 0.3, "schedule.name": "wsd", "model.intermediate_size": 8, "texts": []}
    assert settings_of("--matrix-learning-rate", "0.3", "--schedule.kind=wsd", "--model.hidden", "8") == expected
    assert capsys.readouterr().err.splitlines() == [
        "hornbook: --matrix-learning-rate is now --optimizer.muon_learning_rate.",
        "hornbook: --schedule.kind is now --schedule.name.",
        "hornbook: --model.hidden is now --model.intermediate_size.",
    ]
