"""What must not change while the code does: old runs, prepared texts and recipes are read, commands print what they
printed, training gives the same bits. Only through the command line and `import hornbook`. See make.py."""

import importlib.util
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hornbook

GOLDEN = Path(__file__).parent
specification = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
make = importlib.util.module_from_spec(specification)
specification.loader.exec_module(make)

NAMES = {
    "train", "prepare", "evaluate", "generate", "inspect", "compare", "export", "memorize", "plan", "sweep",
    "open_model", "Decoder", "GPTShape", "Settings", "Surprise", "InputError", "SystemFailure", "__version__",
}  # fmt: skip
CLOSE, ELSEWHERE = 1e-4, 1e-2  # relative; the latter of what was trained, on another machine
LOSS = 1e-3
RECORDED = json.loads((GOLDEN / "hashes.json").read_bytes())


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    make.lay_out(folder)
    return folder


@pytest.fixture(autouse=True)
def _within(laid_out, monkeypatch):
    monkeypatch.chdir(laid_out)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def golden(name):
    text = (GOLDEN / "json" / f"{name}.json").read_text(encoding="utf-8")
    for old, new in make.RENAMED.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return json.loads(text)


def other_machine() -> str:
    """In what this machine differs from that of the hashes; "" where the bits must be the same."""
    here = make.machine()
    return "; ".join(f"{key}: {here[key]}, not {was}" for key, was in RECORDED["machine"].items() if here[key] != was)


def differences(was, now, close=CLOSE, where=""):
    """Sentences: keys, texts and counts are the same, other numbers are close."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [f"{where}: {key} is {'new' if key in now else 'gone'}" for key in was.keys() ^ now.keys()]
        both = [key for key in was if key in now]
        return names + [line for key in both for line in differences(was[key], now[key], close, f"{where}.{key}")]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return [
            line
            for place, (a, b) in enumerate(zip(was, now, strict=True))
            for line in differences(a, b, close, f"{where}[{place}]")
        ]
    numbers = not {type(was), type(now)} - {int, float}
    if numbers and float in (type(was), type(now)):
        same = math.isclose(was, now, rel_tol=close, abs_tol=close / 100)
    else:
        same = type(was) is type(now) and was == now
    return [] if same else [f"{where}: was {was!r}, is {now!r}"]


def check(name, was, now, close=CLOSE):
    changed = differences(was, now, close)
    assert not changed, f"where this is meant: python tests/golden/make.py printed {name}\n" + "\n".join(changed)


@pytest.mark.parametrize("name", make.CASES)
def test_a_command_prints_what_it_printed(name):
    if name == "export-gguf":
        pytest.importorskip("gguf", reason="GGUF is an extra")
    check(name, golden(name), make.printed(name, *make.CASES[name]))


@pytest.mark.parametrize("name", make.TRAINED)
def test_an_old_prepared_text_trains_and_old_runs_go_on(name):
    close = ELSEWHERE if other_machine() else CLOSE
    check(name, golden(name), make.printed(name, *make.TRAINED[name]), close)


@pytest.mark.slow
def test_a_sweep_prints_what_it_printed():
    close = 1.0 if other_machine() else 0.05  # it takes all cores and the precision that is fast
    assert differences(golden("sweep"), make.printed("sweep", *make.SWEEP), close) == []


@pytest.mark.parametrize("name", make.RECIPES)
def test_an_old_recipe_gives_the_same_settings(name):
    was = tomllib.loads((GOLDEN / "settings" / f"{name}.toml").read_text(encoding="utf-8"))
    for old, new in make.RENAMED.items():
        (section, key), (new_section, new_key) = old.split("."), new.split(".")
        if key in was.get(section, {}):
            was.setdefault(new_section, {})[new_key] = was[section].pop(key)
    now = tomllib.loads(make.resolved(name))
    gone = [f"{section}.{key}" for section in was for key in was[section].keys() - now.get(section, {}).keys()]
    assert gone == []
    assert {section: {key: now[section][key] for key in was[section]} for section in was} == was  # new ones may come


@pytest.mark.parametrize("length", make.LENGTHS)
def test_every_length_of_an_old_recipe_is_read(length):
    assert make.planned_steps(length) == golden("lengths")[length]


@pytest.mark.parametrize("name", make.HASHED)
def test_weights_are_the_same_to_the_last_bit(name):
    was, now = RECORDED["weights"][name], make.trained_weights(name)
    if reason := other_machine():
        print(f"{name}: another machine than that of the hashes ({reason}), so only the loss is compared")
        assert now["train_loss_nats_per_token"] == pytest.approx(was["train_loss_nats_per_token"], rel=LOSS)
    else:
        print(f"{name}: the CPU and the version of torch are those of the hashes, so every bit is compared")
        assert now == was


def test_the_module_is_the_command_and_the_names_are_there():
    command = [sys.executable, "-m", "hornbook", "runs", "runs", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == make.hornbook("runs", "runs", "--json")[1]
    assert set(dir(hornbook)) >= NAMES
    report = make.masked(hornbook.evaluate("runs/qwen3", "note.txt").to_dict())
    assert differences(golden("evaluate-text"), json.loads(json.dumps(report))) == []
    compared = make.masked(hornbook.compare("runs/qwen3", "runs/qwen3", step_a=16))
    assert differences(golden("compare"), json.loads(json.dumps(compared))) == []


@pytest.mark.parametrize("run", ["qwen3", "gpt2"])
def test_an_old_run_says_nothing_of_its_machine(run):
    environment = json.loads((GOLDEN / "runs" / run / "environment.json").read_bytes())
    assert {environment[key] for key in make.OF_A_MACHINE} == {None}
