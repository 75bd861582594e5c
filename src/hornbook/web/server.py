"""uvicorn with one app: on one address, quiet, with limits, ending at once on Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import uvicorn

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.web.safety import SHORTEST_TOKEN, App

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
CONNECTIONS = 128
STOP_SECONDS = 0.1  # until Ctrl-C is noticed
HEAD_BYTES = 96 * 1024  # of a request's first line and headers
HEAD_SECONDS = 15  # until they are there, and until a connection that is kept has its next request


def token_for(host: str, token: str | None) -> str:
    """The token of this start: the one that is given (or HORNBOOK_TOKEN has), else a fresh one.

    Raises InputError where the host is not loopback and nobody set a token, or a short one.
    """
    token = token or os.environ.get("HORNBOOK_TOKEN") or None
    if token is None and host not in LOOPBACK_NAMES:
        raise InputError(
            f"--host {host} can be reached from other machines: set a token of {SHORTEST_TOKEN} characters or more "
            "with --token or HORNBOOK_TOKEN, or leave --host out and use an SSH tunnel."
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isalnum()):
        raise InputError(f"the token must be {SHORTEST_TOKEN} letters and digits or more.")
    return token or secrets.token_hex(16)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any that is free. Raises InputError where the port is taken, or the host none."""
    if not 0 <= port <= 65_535:
        raise InputError(f"--port is {port}, but must be from 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(128)
    except socket.gaierror:
        raise InputError(f"--host {host} is not a name or an address of this machine.") from None
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            reason = (error.strerror or "").lower()
            raise InputError(f"cannot listen on {host}, port {port} ({reason}): give another --port.") from None
        raise SystemFailure(f"cannot listen on {host}, port {port}: {error.strerror}.") from error
    return server


async def close_silent(server: uvicorn.Server) -> None:
    """Close each connection that has no whole head of a request for HEAD_SECONDS. uvicorn limits only the silence after
    an answer, and a few bytes now and then end that."""
    since: dict[Any, float] = {}
    while True:
        now, connections = time.monotonic(), server.server_state.connections
        waiting = [(one, one.cycle) for one in connections if one.cycle is None or one.cycle.response_complete]
        since = {key: since.get(key, now) for key in waiting}
        for (connection, _), begin in since.items():
            if now - begin > HEAD_SECONDS:
                connection.transport.abort()
        await asyncio.sleep(1)


def serve_app(
    app: App, listener: socket.socket, started: Callable[[], None] = lambda: None, stopping: Event | None = None
) -> None:
    """Answer until Ctrl-C or a signal. `started` is called when the first request can be answered; `stopping` is set
    when no more will be, so that streams end."""
    config = uvicorn.Config(
        app, http="h11", ws="none", loop="asyncio", log_level="error", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=HEAD_SECONDS,
        timeout_graceful_shutdown=3, h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    server = uvicorn.Server(config)

    async def main() -> None:
        closing = asyncio.ensure_future(close_silent(server))
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not (server.started or task.done()):
            await asyncio.sleep(0.01)
        if server.started:
            started()
        while not (server.should_exit or task.done()):
            await asyncio.sleep(STOP_SECONDS)
        if stopping is not None:
            stopping.set()
        await task
        closing.cancel()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
