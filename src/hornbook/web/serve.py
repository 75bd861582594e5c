"""`hornbook serve`: a model behind OpenAI's /v1/completions, and a page to try it. Torch-free; the model is a child."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from hornbook.commands.options import MODEL, check_inputs, value
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.printing import print, print_json
from hornbook.web.completions import Answer, CompletionRequest, NotAnswered, in_openais_words, read_request
from hornbook.web.model_process import REQUEST_BYTES, Busy, ModelProcess
from hornbook.web.safety import LOOPBACK, Guard
from hornbook.web.server import HEAD_SECONDS, LOOPBACK_NAMES, close_silent, listening, token_for

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from hornbook.web.safety import App, Receive, Scope, Send

PORT, WAITING = 8000, 16
TRANSFER_SECONDS = 30.0  # for a client to send its request, or to take a part of the answer
STATIC = Path(__file__).parent / "static"
PAGE = {"": "text/html", "serve.js": "text/javascript", "serve.css": "text/css"}  # its files; the first is serve.html

T = TypeVar("T")


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--port", type=value(int), default=PORT, metavar="N", help=f"(default: {PORT}; 0: a free one)")
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help="another than loopback needs --token")
    parser.add_argument(
        "--token", metavar="TEXT", help="what each request must have as its API key (or HORNBOOK_TOKEN)"
    )
    parser.add_argument("--waiting", type=value(int), default=WAITING, metavar="N",
                        help=f"requests that may wait for the one that is answered (default: {WAITING})")  # fmt: skip
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")


def command(arguments: argparse.Namespace) -> None:
    check_inputs(arguments.model)
    serve(
        arguments.model, port=arguments.port, host=arguments.host, token=arguments.token, waiting=arguments.waiting,
        step=arguments.step, as_json=arguments.json,
    )  # fmt: skip


def serve(
    model: str, *, port: int = PORT, host: str = "127.0.0.1", token: str | None = None, waiting: int = WAITING,
    step: int | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Answer requests at http://host:port until a signal comes; the address is printed once the model is open.

    `model` is a run, a checkpoint, a Hugging Face folder or a GGUF file. One request is answered at a time, `waiting`
    more may wait, and others are told to come again. With a `token` (or HORNBOOK_TOKEN) each request needs it as
    `Authorization: Bearer`; any `host` but loopback needs one. Raises InputError for a model that cannot be opened and
    for an address that cannot be had.
    """
    if token or os.environ.get("HORNBOOK_TOKEN") or host not in LOOPBACK_NAMES:
        token = token_for(host, token)
    if waiting < 0:
        raise InputError(f"--waiting is {waiting}, but must be 0 or more.")
    asyncio.run(_serve(ModelProcess(model, step=step, most_waiting=waiting), host, port, token, as_json))


async def _serve(process: ModelProcess, host: str, port: int, token: str | None, as_json: bool) -> None:
    import uvicorn

    with listening(host, port) as listener:
        try:
            about = await process.ask({"do": "describe"})
            name = Path(about["name"]).name or about["name"]
            port = listener.getsockname()[1]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            if as_json:
                print_json({"address": f"{address}/v1", "model": name, "step": about["step"]})
            else:
                print(
                    f"{name} answers at {address}/v1 as OpenAI's completions; a page to try it: {address}", flush=True
                )
            hosts = (*LOOPBACK, host, socket.gethostname()) if token is not None else LOOPBACK
            guarded = Guard(application(process, name, about), token=token, hosts=hosts, methods=("GET", "POST"))
            config = uvicorn.Config(
                guarded, log_level="error", access_log=False, lifespan="off", server_header=False,
                timeout_keep_alive=HEAD_SECONDS, timeout_graceful_shutdown=2,
            )  # fmt: skip
            server = uvicorn.Server(config)
            closing = asyncio.create_task(close_silent(server))
            await server.serve(sockets=[listener])
            closing.cancel()
        finally:
            await process.close()


def application(process: ModelProcess, name: str, about: dict[str, Any]) -> App:
    """The ASGI app that answers for the model called `name`, of which `process` says what is `about` it."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.responses import Response as Plain
    from starlette.routing import Route

    listed = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "hornbook"} | {
        key: about[key] for key in ("step", "context", "vocabulary", "num_parameters")
    }

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [listed]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] == name:
            return JSONResponse(listed)
        return JSONResponse(NotAnswered("there is no such model.", status=404).to_dict(), 404)

    async def page(request: Request) -> Response:
        if request.method == "POST":
            only = "only completions of a prompt are served: POST /v1/completions (no chats, no embeddings)."
            return JSONResponse(NotAnswered(only, status=404).to_dict(), 404)
        file = request.path_params.get("file", "")
        if file not in PAGE:
            return JSONResponse(NotAnswered("there is no such page.", status=404).to_dict(), 404)
        return Plain((STATIC / (file or "serve.html")).read_bytes(), media_type=PAGE[file])

    async def completions(request: Request) -> Any:
        try:
            asked = read_request(await _body(request), name)
            parts, answer = process.stream(asked.asked()), Answer(asked, name)
            if asked.stream:
                first = await while_connected(request.receive, _first(parts))
                return Events(_lines(first, parts, asked, answer))
            return JSONResponse(await while_connected(request.receive, _whole(parts, answer)))
        except (NotAnswered, InputError, SystemFailure, Busy) as error:
            said = error if isinstance(error, NotAnswered) else in_openais_words(error)
            return JSONResponse(said.to_dict(), said.status, {"Retry-After": "1"} if said.status == 429 else None)
        except Gone:
            return Plain(status_code=499)  # nobody reads it

    routes = [Route("/v1/models", models), Route("/v1/models/{name:path}", model), Route("/", page)]
    routes += [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/{file:path}", page, methods=["GET", "POST"]),
    ]
    return Starlette(routes=routes)


async def _body(request: Request) -> bytes:
    """The body of a request of JSON. Raises NotAnswered when it is another, too large or too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise NotAnswered("the body must be JSON, sent with Content-Type: application/json.", status=415)
    body = b""
    try:
        async with asyncio.timeout(TRANSFER_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > REQUEST_BYTES:
                    raise NotAnswered(f"the body has more than {REQUEST_BYTES:,} bytes.", status=413)
    except TimeoutError:
        raise NotAnswered("the body took too long to arrive.", status=408) from None
    return body


# ---- Answers, for as long as somebody waits for them


class Gone(Exception):
    """The client went away."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. Raises Gone, with the work cancelled, when the client goes away first."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(disconnected())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(BaseException):
                await task


async def _first(parts: AsyncGenerator[dict[str, Any]]) -> dict[str, Any]:
    """The first part, before which an error still has a status of its own."""
    return await anext(parts)


async def _whole(parts: AsyncGenerator[dict[str, Any]], answer: Answer) -> dict[str, Any]:
    async with aclosing(parts):
        async for part in parts:
            answer.chunk(part)
    return answer.whole()


async def _lines(
    first: dict[str, Any], parts: AsyncGenerator[dict[str, Any]], asked: CompletionRequest, answer: Answer
) -> AsyncGenerator[bytes]:
    """The answer as server-sent events."""
    async with aclosing(parts):
        try:
            chunk = answer.chunk(first)
            if asked.echo:
                yield _event(chunk)
            async for part in parts:
                chunk = answer.chunk(part)
                if asked.echo or "prompt" not in part:
                    yield _event(chunk)
            if asked.stream_options.include_usage:
                yield _event(answer.last())
            yield b"data: [DONE]\n\n"
        except (InputError, SystemFailure) as error:
            yield _event(in_openais_words(error).to_dict())


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


class Events:
    """A response that sends `lines` one by one, and closes them when the client goes away or does not take them."""

    def __init__(self, lines: AsyncGenerator[bytes]) -> None:
        self.lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.lines):
            with suppress(Gone, TimeoutError):
                await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for line in self.lines:
            async with asyncio.timeout(TRANSFER_SECONDS):
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
