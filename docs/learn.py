"""Runs the commands of docs/learn.md and holds their output against the page: python docs/learn.py [--write]

A command is a line that begins with `$ ` in a block marked `console`; below it stands what it prints. Numbers may
differ by a few percent from one machine to another, words may not, except in generated text. `--write` puts what was
printed into the page, and the page into learn.ipynb.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("learn.md")
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
BARS = re.compile(r"[█▏▎▍▌▋▊▉▁▂▃▄▅▆▇]+")
SHELL = re.compile(r"^```sh\n.*?^```", re.MULTILINE | re.DOTALL)
BEGIN = """import os
import sys
from pathlib import Path

os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # where hornbook is
for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):  # a kernel asks for colours, which would be in the files too
    os.environ.pop(name, None)
checkout = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "docs" / "learn.md").is_file())
(checkout / "learn").mkdir(exist_ok=True)
os.chdir(checkout / "learn")
"""
WITHIN = 0.05  # of a number, or this much of a small one


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block, and what stands below it."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def printed(command: str, folder: Path) -> str:
    """What a command prints in this folder. Raises SystemExit where it fails."""
    source = str(PAGE.parents[1] / "src")
    run = re.sub("^(hornbook|python)", lambda word: sys.executable + " -m hornbook" * (word[0] == "hornbook"), command)
    variables = {**os.environ, "PYTHONPATH": source, "COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, shell=True, cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stderr}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def run(page: str) -> Iterator[tuple[str, str, str]]:
    """Of each command of the page: it, the output that the page has, the output that it has now."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "examples").symlink_to(PAGE.parents[1] / "examples")
        learn = Path(name) / "learn"
        learn.mkdir()
        for language, block in BLOCK.findall(page):
            if language == "python":
                done = subprocess.run([sys.executable, "-c", block], cwd=learn, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                continue
            for command, output in commands(block):
                yield command, output, printed(command, learn)


def differences(old: str, new: str) -> list[str]:
    """Where two outputs differ by more than their numbers may; bars are left out.

    >>> differences("loss 3.81 of 512", "loss 3.82 of 512"), differences("loss 3.81", "loss 4.2")
    ([], ['3.81 is now 4.2'])
    """
    words, now = ([" ".join(NUMBER.sub("N", BARS.sub("", text)).split())] for text in (old, new))
    if words != now:
        return [f"{words[0]!r} is now {now[0]!r}"]
    found = []
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
        x, y = (float(number.replace(",", "").replace("−", "-")) for number in (a, b))
        if not math.isclose(x, y, rel_tol=WITHIN, abs_tol=WITHIN):
            found.append(f"{a} is now {b}")
    return found


def notebook(page: str) -> str:
    """The page as a notebook: its text and blocks are cells, without what the commands print. It works in the folder
    that the page makes, wherever it was opened."""
    page = SHELL.sub(f"```python\n{BEGIN}```", page, count=1)
    cells: list[dict[str, object]] = []
    at = 0
    for match in [*BLOCK.finditer(page), None]:
        text = page[at : match.start() if match else len(page)].strip()
        if text:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)})
        if match is not None:
            at = match.end()
            code = (
                match[2]
                if match[1] == "python"
                else "%%bash\n" + "".join(f"{line}\n" for line, _ in commands(match[2]))
            )
            source = code.strip().splitlines(keepends=True)
            cells.append(
                {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
            )
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}, indent=1) + "\n"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    wrong = []
    for command, old, new in run(page):
        is_drawn = "generate" in command
        wrong += [f"{command}: {difference}" for difference in differences(old, new) if not is_drawn]
        page = page.replace(f"$ {command}\n{old}", f"$ {command}\n{new}", 1)
    if "--write" in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
        PAGE.with_suffix(".ipynb").write_text(notebook(page), encoding="utf-8")
    elif wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
