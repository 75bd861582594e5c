"""What the pages ask for, as JSON; the contract between the server and its pages.

All by GET, with the cookie that `/?token=...` sets. Addresses are relative. An error is {"error": sentence} with the
status 400 (what was asked is wrong), 403 (not allowed), 404 (no such run or file), 429 (the model is busy) or 503 (the
model, or a file, cannot be read now). Numbers are never NaN: unknown is null, and so is what is not measured. A key
with an interval has `<key>_interval_95` or `_interval_90` beside it: [low, high] or null. RUN is a name from /api/runs.

`within=SECONDS`, where it is marked, asks for an answer by then of what has been read of the logs: after a start they
are read once. Ask again to have the rest; without it the answer is of everything.

/api/runs?within= -> {"folder", "runs": [ROW, oldest first], "num_unread": runs that are left out, or are as they were
    when they were read last, "differing": [dotted settings that are not the same in all of these runs]}
    ROW: id, title, shell_path (for a command line), state ("running", "finished", "interrupted", "unfinished",
    "damaged"), is_running, problem (a sentence where it is damaged, else null), started (seconds since 1970), changed
    (the same, of its log),
    text, model ("qwen3, 2 layers of width 64"), num_parameters, optimizer, step, planned_steps, tokens, epoch, seconds,
    loss_nats_per_token with interval, bits_per_byte with interval, perplexity with interval, best_step,
    loss_about ("validation": all of the validation text, of a run that has ended; "probe": the lowest of its curve so
    far; null), probe_lowest {step, loss_nats_per_token} where the weights used are above it by more than noise, else
    null, probe_validation_loss_nats_per_token (the last), train_loss_nats_per_token (the last step's),
    verdict {name, sentence (with the name), tag: "good" | "warning" | "bad"},
    memorization {by_heart: true | false | null, sentence, is_measured} or null,
    wall_seconds, gpu_hours, price_usd, plan [PLANNED], sparkline {"x": [steps], "y": [nats]} of at most 60 points,
    settings {dotted name: value}
    PLANNED: {name, title, predicted, predicted_interval_90, predicted_text, actual, actual_text, inside: true | false |
    null}
/api/runs/RUN?within= -> ROW with
    header [{title, text}], environment {name: value}, settings_toml,
    numbers [{name, title, value, text, unit, interval, interval_text, sentence, better: "lower" | "higher" | null}],
    conclusions [{id, sentence, tag}], interval_about, baselines [{name, title, loss_nats_per_token, bits_per_byte}] in
    order of n, uniform_loss_nats_per_token, tokens_per_epoch, vocabulary,
    forecast {at_step, at_tokens, loss_nats_per_token, loss_nats_per_token_interval_90, as_of_step} or null,
    gap_opens {steps: [a, b], tokens: [a, b]} or null, best_between [step | null, step | null],
    events [{event: "decision" | "warning" | "resume" | "checkpoint" | "end" | "sample", step, tokens, text, tag}],
    checkpoints [{step, name, is_best, is_used, num_bytes}], reports [{name, title, address}],
    evaluation {documents: [{name, num_tokens, num_bytes, loss_nats_per_token, bits_per_byte}], by_position:
    [{context_tokens: [a, b], num_tokens, loss_nats_per_token}], calibration: as in the report, or null, ...} or null,
    memorization_report: reports/memorization.json or null,
    share_read: of the log's steps, from 0 to 1; below 1 `conclusions` are of the evaluations and the last step alone,
    offset: bytes of metrics.jsonl that this answer is of
/api/runs/RUN/series?x=step|tokens|epoch|seconds|flops|price_usd&from=&to=&points=1200&within= ->
    {"x_axis", "x": [n], "is_reduced", "columns": {name: [n values] or, where `is_reduced`, [[n minima], [n maxima]]},
    "evaluations": {"x": [m], "columns": {name: [m values]}}, "num_steps", "share_read", "offset"}
    One bucket per point: `x` is where it begins. All numbers of a step are columns, by their names in
    docs/metrics.md; those of evaluations are never reduced, among them forecast_loss_nats_per_token_low and _high.
/api/runs/RUN/samples -> {"prompts": [{"prompt", "samples": [{step, tokens, text, temperature, seed, copied_spans,
    probe_validation_loss_nats_per_token, ...}]}]}
    copied_spans: what stands in the training text in longer spans than held-out text shares with it, as [[from, to] in
    characters of text], [] where nothing does, null where that is not known: a `samples` event says when it is;
    `copied_problem` is a sentence where it cannot be known, else null.
/api/runs/RUN/events?offset=N -> server-sent events, from byte N of metrics.jsonl, within a second:
    `rows` {"rows": [rows of the log, without the lists per window], "offset"}. A row {"event": "resume", "step": k}
        says: drop the rows with a greater step that came before it, but decisions.
    `reload` {"offset"}: more came than is sent, or the file is another one: ask for the series again.
    `samples` {}: ask for the samples again. `state` ROW: its state or its reports changed.
/api/events -> server-sent events: `runs` {"runs": [ROWs that are new or changed], "removed": [ids]}, at most one a
    second
/api/compare?runs=a,b -> {"runs": [ids], "settings": {dotted name: [one value per run]} of those that differ, "pairs":
    [{a, b, difference_bits_per_byte (b minus a) with interval, interval_about, interval_over, verdict, beyond_chance,
    share_of_documents_where_b_is_better, problem}] of the first with each other: `problem` is the sentence why there is
    no difference, else null; "groups": [{name, runs, settings, mean_bits_per_byte, standard_deviation}] of runs that
    differ in nothing but train.seed, where there are two or more}
/api/plan?parameters=7B&tokens=2T&on=8xA100&price=30/hour&context= -> {"rows": [{title, text}], "plan": as hornbook plan
    --json prints it, "sizes": [{parameters, tokens, loss_nats_per_token, price_usd, gpu_hours}] of one amount of
    computation, "unknown": [sentences], "warnings": [sentences], "devices": [what `on` may name, this machine first]}
/api/inspect?run=&step=&text=&top_k=5 -> as hornbook inspect --json prints it
/api/softmax?run=&step=&text=&token=&top_k=5 -> one token's row: see web/model_process.py
/api/generate?run=&step=&prompt=&max_tokens=100&temperature=1&top_k=&top_p=&min_p=&seed= -> server-sent events: `text`
    {"text"}, one a token; at the end `end` {"finish"}, or `problem` {"error"}
/runs/RUN/reports/NAME -> a file of its reports, in a sandbox
"""

from __future__ import annotations

import asyncio
import math
import mimetypes
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.io import json_bytes
from hornbook.web import live
from hornbook.web.copied import CopiedSpans
from hornbook.web.folder import RunFiles, RunsFolder, read_plain
from hornbook.web.model_process import Busy, ModelProcess
from hornbook.web.overview import differing
from hornbook.web.safety import TEXT_BYTES

T = TypeVar("T")
STATIC = Path(__file__).parent / "static"
TEXT_PATHS = ("/api/inspect", "/api/softmax", "/api/generate")
ANSWER_SECONDS = 60.0
WARM_SECONDS = 0.05  # of reading before others have their turn
MOST_COMPARED, MOST_TOKENS = 50, 2000
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


class _Missing(Exception):
    """There is no such run or file."""


class Api:
    """The answers for one folder of runs. What reads files runs in a thread, one at a time."""

    def __init__(self, folder: RunsFolder, models: ModelProcess, stopping: Event) -> None:
        self.folder, self.models, self.stopping = folder, models, stopping
        self.overviews, self.lock, self.copied = live.Overviews(folder), asyncio.Lock(), CopiedSpans(models)

    def routes(self) -> list[BaseRoute]:
        answers = {
            "/api/runs": self.runs, "/api/runs/{run}": self.run, "/api/runs/{run}/series": self.series,
            "/api/runs/{run}/samples": self.samples, "/api/runs/{run}/events": self.run_events,
            "/api/events": self.list_events, "/api/compare": self.compare, "/api/plan": self.plan,
            "/api/inspect": self.inspect, "/api/softmax": self.softmax, "/api/generate": self.generate,
            "/runs/{run}/reports/{name}": self.report, "/static/{name:path}": self.static, "/": self.page,
        }  # fmt: skip
        return [Route(path, _answered(answer), methods=["GET"]) for path, answer in answers.items()]

    async def _read(self, work: Callable[..., T], *arguments: Any) -> T:
        async with self.lock:
            return await asyncio.to_thread(work, *arguments)

    def _run(self, name: str) -> RunFiles:
        """The run of that id: one of those that are there, so that no name is ever made a path."""
        known = self.folder.runs()
        if name not in known:
            raise _Missing("there is no such run here.")
        return known[name]

    async def warm(self) -> None:
        """Read the runs once, so that the first page does not wait for it."""
        while await self._read(self._unread):  # a page that asks meanwhile does not wait for all of it
            pass

    def _unread(self) -> int:
        self.overviews.rows(time.perf_counter() + WARM_SECONDS)
        return self.overviews.num_unread

    async def page(self, request: Request) -> Response:
        return _file(STATIC / "index.html")

    async def static(self, request: Request) -> Response:
        files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
        if request.path_params["name"] not in files:
            raise _Missing("there is no such file here.")
        return _file(files[request.path_params["name"]])

    async def report(self, request: Request) -> Response:
        from hornbook.web.one_run import report_names

        run, name = self._run(request.path_params["run"]), request.path_params["name"]
        if name not in report_names(run):
            raise _Missing("there is no such report.")
        return _file(run.folder / "reports" / name, {"content-security-policy": REPORT_POLICY})

    async def runs(self, request: Request) -> Any:
        def read() -> Any:
            rows = list(self.overviews.rows(until).values())
            unread = self.overviews.num_unread
            return {"folder": self.folder.folder.name, "runs": rows, "num_unread": unread, "differing": differing(rows)}

        until = _until(request.query_params)
        return await self._read(read)

    async def run(self, request: Request) -> Any:
        from hornbook.web.one_run import one_run

        run, until = self._run(request.path_params["run"]), _until(request.query_params)
        return await self._read(one_run, run, until)

    async def series(self, request: Request) -> Any:
        from hornbook.web.one_run import series

        query = request.query_params
        low, high = _number(query, "from", None), _number(query, "to", None)
        points, until = _whole(query, "points", 1200) or 0, _until(query)
        run = self._run(request.path_params["run"])
        return await self._read(series, run, query.get("x", "step"), low, high, points, until)

    async def samples(self, request: Request) -> Any:
        from hornbook.web.one_run import samples

        run = self._run(request.path_params["run"])
        answer = await self._read(samples, run)
        self.copied.add_to(run, [sample for prompt in answer["prompts"] for sample in prompt["samples"]])
        return answer

    async def run_events(self, request: Request) -> Response:
        run, last = self._run(request.path_params["run"]), request.headers.get("last-event-id", "")
        offset = int(last) if last.isdecimal() and len(last) < 16 else _whole(request.query_params, "offset", 0) or 0
        return _stream(live.run_events(run, max(0, offset), self.overviews, self.lock, self.stopping, self.copied))

    async def list_events(self, request: Request) -> Response:
        return _stream(live.list_events(self.overviews, self.lock, self.stopping))

    async def compare(self, request: Request) -> Any:
        from hornbook.web.questions import compared

        names = [name for name in request.query_params.get("runs", "").split(",") if name]
        if not 1 < len(names) <= MOST_COMPARED:
            raise InputError(f"give two runs or more, at most {MOST_COMPARED}, as runs=a,b.")
        return await self._read(compared, [self._run(name) for name in names], self.overviews)

    async def plan(self, request: Request) -> Any:
        from hornbook.web.questions import planned

        return await asyncio.to_thread(planned, dict(request.query_params))

    async def inspect(self, request: Request) -> Any:
        query = request.query_params
        return await self._ask(query, {"do": "inspect", "text": _text(query, "text"), "top_k": _top_k(query)})

    async def softmax(self, request: Request) -> Any:
        query = request.query_params
        asked = {"do": "softmax", "text": _text(query, "text"), "top_k": _top_k(query)}
        return await self._ask(query, asked | {"token": _whole(query, "token", 0)})

    async def generate(self, request: Request) -> Response:
        query = request.query_params
        options = {name: _number(query, name, None) for name in ("top_p", "min_p")}
        max_tokens = _whole(query, "max_tokens", 100) or 0
        if not 1 <= max_tokens <= MOST_TOKENS:
            raise InputError(f"max_tokens is {max_tokens}, but must be from 1 to {MOST_TOKENS:,}.")
        asked = self._model(query) | options | {
            "do": "complete", "prompts": [_text(query, "prompt", may_be_empty=True)], "max_tokens": max_tokens,
            "temperature": _number(query, "temperature", 1.0), "top_k": _whole(query, "top_k", None),
            "seed": _whole(query, "seed", 0),
        }  # fmt: skip
        return _stream(self._generated(asked))

    async def _generated(self, asked: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self.models.stream(asked)) as parts:
                finish = None
                async for part in parts:
                    finish = part.get("finish") or finish
                    if part["text"]:
                        yield live.event("text", {"text": part["text"]})
            yield live.event("end", {"finish": finish})
        except (InputError, SystemFailure, Busy) as error:
            yield live.event("problem", {"error": str(error)})

    async def _ask(self, query: Mapping[str, str], asked: dict[str, Any]) -> Any:
        return await self.models.ask(self._model(query) | asked)

    def _model(self, query: Mapping[str, str]) -> dict[str, Any]:
        run = self._run(query.get("run", ""))
        return {"model": str(run.folder), "step": _whole(query, "step", None)}


def _answered(answer: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """`answer` within its time, as JSON, and its errors as sentences."""

    async def respond(request: Request) -> Response:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                content = await answer(request)
            return content if isinstance(content, Response) else _json(content)
        except InputError as error:
            return _json({"error": str(error)}, 400)
        except _Missing as error:
            return _json({"error": str(error)}, 404)
        except Busy as error:
            return _json({"error": str(error)}, 429)
        except (SystemFailure, OSError) as error:
            return _json({"error": f"cannot be read now: {error}"}, 503)
        except TimeoutError:
            return _json({"error": f"this took longer than {ANSWER_SECONDS:.0f} seconds: ask for less."}, 503)

    return respond


async def unknown(request: Request, error: Exception) -> Response:
    """The answer to an address that is none of ours."""
    return _json({"error": "there is nothing at this address."}, 404)


def _json(content: Any, status: int = 200) -> Response:
    return Response(json_bytes(content), status, media_type="application/json")


def _file(path: Path, headers: Mapping[str, str] | None = None) -> Response:
    content = read_plain(path)
    if content is None:
        raise _Missing("there is no such file here.")
    type_of = {".js": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json"}
    media_type = type_of.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(content, media_type=media_type, headers=dict(headers or {}))


def _stream(events: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _text(query: Mapping[str, str], name: str, *, may_be_empty: bool = False) -> str:
    text = query.get(name, "")
    if len(text.encode("utf-8", "replace")) > TEXT_BYTES:
        raise InputError(f"the {name} is longer than {TEXT_BYTES:,} bytes: give less.")
    if not (text or may_be_empty):
        raise InputError(f"give a {name}.")
    return text


def _top_k(query: Mapping[str, str]) -> int:
    top_k = _whole(query, "top_k", 5) or 0
    if not 1 <= top_k <= 50:
        raise InputError(f"top_k is {top_k}, but must be from 1 to 50.")
    return top_k


def _number(query: Mapping[str, str], name: str, default: float | None) -> float | None:
    given = query.get(name, "")
    if not given:
        return default
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if len(given) > 40 or not math.isfinite(number):
        raise InputError(f"{name} is not a number.")
    return number


def _until(query: Mapping[str, str]) -> float:
    """When reading ends, by time.perf_counter, where it is asked to end `within` some seconds."""
    seconds = _number(query, "within", math.inf)
    return time.perf_counter() + (math.inf if seconds is None else seconds)


def _whole(query: Mapping[str, str], name: str, default: int | None) -> int | None:
    number = _number(query, name, default)
    if number is not None and (number != int(number) or abs(number) > 2**53):
        raise InputError(f"{name} is not a whole number.")
    return None if number is None else int(number)
