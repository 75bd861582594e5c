"""Weights & Biases: one run there, in files in the run's folder wandb/; sent only where WANDB_MODE=online says so."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from hornbook.records.run import Run


class Mirror:
    """Its history only grows: a step that was trained again keeps the numbers it had first."""

    keeps = True

    def __init__(self, run: Run, settings: Mapping[str, Any]) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        # The same in each session, and in a copy of the folder.
        number = hashlib.sha256((run.folder / "environment.json").read_bytes()).hexdigest()[:8]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "hornbook"), name=run.folder.name, id=number, resume="allow",
            dir=str(run.folder), config=dict(settings), mode=mode,
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )  # fmt: skip
        self.place = f"wandb sync {self._run.settings.sync_dir}" if self._run.offline else str(self._run.url)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # not its own counter, which rows of one step would share

    def numbers(self, numbers: Mapping[str, float], step: int, event: str) -> None:
        self._run.log(dict(numbers))

    def text(self, name: str, text: str, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, name: text})

    def back(self, step: int) -> None:
        """Nothing can be taken back there."""

    def close(self) -> None:
        self._run.finish()
