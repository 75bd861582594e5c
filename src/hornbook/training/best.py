"""The weights of the best look: in memory as soon as they are seen, on the disk with the next checkpoint."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornbook.engine import checkpoint as checkpoints
from hornbook.facts.errors import InputError
from hornbook.records.run import Run, checkpoint_step
from hornbook.training.loop import TrainState


@dataclass
class Best:
    """The look with the lowest probe loss. `TrainState` keeps a copy of the weights until they are on the disk, and,
    where the run may go back to it, of the optimizer's state; an accelerator waits for it."""

    loss: float = math.inf
    step: int | None = None
    updates: int = 0

    def take(self, parts: TrainState, *, step: int, loss: float, updates: int, optimizer: bool) -> None:
        """Copy the weights of this step, if they are finite."""
        if not parts.is_finite():
            return
        self.loss, self.step, self.updates = loss, step, updates
        parts.keep(optimizers=optimizer)

    def state(self) -> dict[str, Any]:
        """For the manifest of a checkpoint."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"best_loss": loss, "best_step": self.step, "best_updates": self.updates}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Best:
        """From the manifest of a checkpoint."""
        loss = math.inf if state["best_loss"] is None else state["best_loss"]
        return cls(loss, state["best_step"], state.get("best_updates", state["best_step"] or 0))

    def write(self, run: Run, parts: TrainState, step: int) -> None:
        """Put the copies on the disk, unless the checkpoint of this `step` has them."""
        if self.step is not None and parts.kept and self.step != step:
            parts.write(parts.kept, run.best_folder(self.step), step=self.step, state={})
        parts.drop_kept()

    def can_go_on(self, run: Run, parts: TrainState) -> bool:
        """Whether training can go on from them: the optimizer's state is there too."""
        files = parts.kept or checkpoints.read_manifest(self.folder(run))["files"]
        return checkpoints.has_optimizer(files)

    def put_back(self, run: Run, parts: TrainState) -> None:
        """The state of the best look in place of the present one, from memory or from the disk."""
        if parts.kept:
            parts.put_back(self.updates)
        else:
            parts.load(self.folder(run), self.updates)

    def folder(self, run: Run) -> Path:
        """Where they are on the disk. Raises InputError when they are gone."""
        assert self.step is not None
        for folder in (run.best_folder(self.step), run.checkpoint_folder(self.step)):
            if (folder / "manifest.json").is_file():
                return folder
        raise InputError(f"{run.folder} has lost the weights of step {self.step}, its best: evaluate the last ones.")


def prune(run: Run, *, keep: int | None, steady: int = 0) -> None:
    """Discard all but the newest `keep` checkpoints, those of step 0 and `steady`, and the best weights that one of
    them speaks of. None: keep all."""
    checkpointed = run.checkpoints()
    keep = len(checkpointed) if keep is None else keep
    kept = checkpointed[-keep:]
    best = set()
    for folder in kept:
        with suppress(InputError):  # an older one that was damaged is no reason not to train on
            best.add(checkpoints.read_manifest(folder)["state"].get("best_step"))
    for folder in [*checkpointed[:-keep], *run.best_checkpoints()]:
        if checkpoint_step(folder) not in best | {0, steady}:
            checkpoints.discard(folder)
