"""A model in a process of its own: started when first asked, one answer at a time, ended when idle. Torch-free.

Requests and answers are lines of JSON over the child's pipes (`model_child.py` has the other end). An answer is lines
with the request's number and a last one with `end` or `error`; the lines of a request that nobody waits for any more
are skipped.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import msgspec

from hornbook.facts.errors import InputError, SystemFailure

REQUEST_BYTES = 4 * 2**20
ANSWER_BYTES = 64 * 2**20  # of one line
COMMAND = (sys.executable, "-P", "-m", "hornbook.web.model_child")


class Busy(Exception):
    """More requests wait than may. The message is one sentence."""


class ModelProcess:
    """`model` (a run, a checkpoint, a Hugging Face folder or a GGUF file) behind a queue, for one event loop.

    A request is a mapping with `do` and its options, and, where another is meant, `model` and `step`:

    - describe: {name, step, note, context, vocabulary, num_parameters, tokenizer}
    - inspect (text, top_k=5): what `hornbook inspect --json` prints
    - softmax (text, token, top_k=5): one scored token's row of logits, e^logits and probabilities, which sum to 1
    - copied (texts): {spans: for each text the [from, to] in characters that stand in the run's training text, or None
      where that text is no longer prepared}
    - complete (prompts: texts or lists of ids, max_tokens, n, temperature, top_k, top_p, min_p, seed, stop, logprobs,
      echo): a stream of {index, text, tokens, finish, num_tokens}, the prompt's own part first, with `prompt` its
      number of tokens

    At most `most_waiting` wait besides the one that is answered, each answer takes at most `answer_seconds`, and the
    process ends after `idle_seconds` without a request.
    """

    def __init__(
        self,
        model: str,
        *,
        step: int | None = None,
        most_waiting: int = 16,
        answer_seconds: float = 120.0,
        idle_seconds: float = 600.0,
    ) -> None:
        self.meant, self.most_waiting = {"model": model, "step": step}, most_waiting
        self.answer_seconds, self.idle_seconds = answer_seconds, idle_seconds
        self._turn, self._num_inside, self._number = asyncio.Lock(), 0, 0
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The first part of an answer; errors as `stream`."""
        async with aclosing(self.stream(request)) as parts:
            async for part in parts:
                return part
        return {}

    async def stream(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Yield the parts of an answer. Whoever stops early closes the generator (`contextlib.aclosing`): the model
        then stops too.

        Raises Busy when too many wait; InputError for what the model refuses, SystemFailure when its process died or
        took too long: the next request starts it anew.
        """
        self._number += 1
        line = msgspec.json.encode(self.meant | request | {"number": (number := self._number)})
        if len(line) > REQUEST_BYTES:
            raise InputError(f"the request has {len(line):,} bytes, but at most {REQUEST_BYTES:,} are read.")
        if self._num_inside > self.most_waiting:
            raise Busy(f"{self._num_inside} requests are waiting or being answered, as many as may: try again later.")
        self._num_inside += 1
        try:
            async with self._turn:
                if self._idle is not None:
                    self._idle.cancel()
                try:
                    async with aclosing(self._answer(number, line)) as parts:
                        async for part in parts:
                            yield part
                finally:
                    self._idle = asyncio.get_running_loop().call_later(self.idle_seconds, self._kill)
        finally:
            self._num_inside -= 1

    async def close(self) -> None:
        """End the process."""
        if self._idle is not None:
            self._idle.cancel()
        if (process := self._kill()) is not None:
            await process.wait()

    async def _answer(self, number: int, line: bytes) -> AsyncGenerator[dict[str, Any]]:
        process, is_whole = await self._started(), False
        assert process.stdin is not None
        loop = asyncio.get_running_loop()
        try:
            process.stdin.write(line + b"\n")
            await process.stdin.drain()
            stop_at = loop.time() + self.answer_seconds
            while True:
                part = await self._part(process, number, stop_at - loop.time())
                if is_whole := "part" not in part:
                    if "error" in part:
                        raise (InputError if part["is_input"] else SystemFailure)(part["error"])
                    return
                yield part["part"]
        except TimeoutError:
            self._kill()
            message = f"the model took longer than {self.answer_seconds:.0f} seconds for one answer: ask for less."
            raise SystemFailure(message) from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._kill()
            code = await process.wait()
            message = f"the model's process died (exit code {code}), of too little memory perhaps; ask again."
            raise SystemFailure(message) from None
        finally:
            if not is_whole and process is self._process:
                with suppress(OSError):
                    process.stdin.write(msgspec.json.encode({"cancel": number}) + b"\n")

    async def _part(self, process: asyncio.subprocess.Process, number: int, seconds: float) -> dict[str, Any]:
        """The next line of the answer to request `number`."""
        assert process.stdout is not None
        async with asyncio.timeout(seconds):
            while True:
                part: dict[str, Any] = msgspec.json.decode(await process.stdout.readuntil(b"\n"))
                if part["number"] == number:
                    return part

    async def _started(self) -> asyncio.subprocess.Process:
        if not self.is_running:
            # In a session of its own: Ctrl-C on the terminal comes here alone; the child ends with its standard input.
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=ANSWER_BYTES,
                start_new_session=True,
            )  # fmt: skip
        assert self._process is not None
        return self._process

    def _kill(self) -> asyncio.subprocess.Process | None:
        """End the process, which nobody asks any more, and return it; None where there is none."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
        return process
