"""TensorBoard: event files in the run's folder tensorboard/, by TensorBoard's own writer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from hornbook.records.run import Run

POSITION = ("step", "tokens", "epoch", "seconds", "flops")  # steps have it, and so evaluations need not


class Mirror:
    """Written anew from the log with each session: nothing that a crash lost is missing, nothing is there twice."""

    keeps = False

    def __init__(self, run: Run, settings: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from tensorboard.util.tensor_util import make_tensor_proto

        folder = run.folder / "tensorboard"
        earlier = list(folder.glob("events.out.tfevents.*"))
        self.place = f"tensorboard --logdir {folder}"
        self._event, self._session, self._summary = event_pb2.Event, event_pb2.SessionLog, summary_pb2.Summary
        self._text, self._tensor = create_summary_metadata("", ""), make_tensor_proto
        # The wall time that it shows is training time from here on: that of all sessions, without the pauses.
        self._begun = (run.folder / "environment.json").stat().st_mtime
        self._writer = EventFileWriter(str(folder))
        self.back(-1)  # a page that is open forgets what it has read
        for file in earlier:
            file.unlink(missing_ok=True)

    def numbers(self, numbers: Mapping[str, float], step: int, event: str) -> None:
        shown = {name: value for name, value in numbers.items() if event == "step" or name not in POSITION}
        self._add(step, numbers, [self._summary.Value(tag=name, simple_value=value) for name, value in shown.items()])

    def text(self, name: str, text: str, numbers: Mapping[str, float], step: int) -> None:
        tensor = self._tensor(text, dtype=np.object_)
        self._add(step, numbers, [self._summary.Value(tag=name, metadata=self._text, tensor=tensor)])

    def back(self, step: int) -> None:
        # Whoever reads it drops the numbers from there on; TensorBoard keeps texts.
        start = self._session(status=self._session.START)
        self._writer.add_event(self._event(wall_time=time.time(), step=step + 1, session_log=start))

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, numbers: Mapping[str, float], values: list[Any]) -> None:
        at = self._begun + numbers.get("seconds", 0.0)
        self._writer.add_event(self._event(wall_time=at, step=step, summary=self._summary(value=values)))
