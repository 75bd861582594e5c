"""Which parts of a run's samples stand in its training text: asked of the model's process, when the samples are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.records.run import Row
from hornbook.web.folder import RunFiles
from hornbook.web.model_process import Busy, ModelProcess

NOT_FOUND = (
    "what is copied is not known: the training text is not found as it was. Start hornbook dashboard in the folder in "
    "which the run was trained, so that the paths in its settings hold."
)
Spans = list[list[int]]  # [from, to] in characters


class CopiedSpans:
    """What is known so far, by run and text; what is not is asked for aside, and `version` differs once it has come."""

    def __init__(self, models: ModelProcess) -> None:
        self._models = models
        self._known: dict[str, dict[str, Spans | None]] = {}
        self._problems: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def version(self, run: RunFiles) -> int:
        return len(self._known.get(run.id, {}))

    def add_to(self, run: RunFiles, samples: Sequence[Row]) -> None:
        """Give each sample its `copied_spans`: [] where nothing is copied, None where that is not known (yet); then
        `copied_problem` is the sentence why not, None before the answer."""
        known = self._known.setdefault(run.id, {})
        for sample in samples:
            sample["copied_spans"] = known.get(sample["text"])
            is_asked = sample["text"] in known and sample["copied_spans"] is None
            sample["copied_problem"] = self._problems.get(run.id) if is_asked else None
        missing = list({sample["text"] for sample in samples} - known.keys())
        task = self._asking.get(run.id)
        if missing and run.names_in("checkpoints") and (task is None or task.done()):
            self._asking[run.id] = asyncio.ensure_future(self._ask(run, missing))

    async def _ask(self, run: RunFiles, texts: list[str]) -> None:
        answers: list[Spans | None] = [None] * len(texts)
        self._problems[run.id] = NOT_FOUND
        try:
            answer = await self._models.ask({"do": "copied", "model": str(run.folder), "texts": texts})
            answers = answer["spans"]
        except (InputError, SystemFailure, Busy) as error:
            self._problems[run.id] = f"what is copied is not known: {error}"
        self._known[run.id] |= dict(zip(texts, answers, strict=True))
