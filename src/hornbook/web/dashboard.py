"""`hornbook dashboard`: the runs of a folder as pages, live. Reads, never writes, and shares nothing with training."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

from hornbook.commands.options import value
from hornbook.facts.errors import InputError
from hornbook.facts.printing import print, print_json

PORT = 8090


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="runs, or one (default: runs)")
    add_server_flags(parser, PORT)
    parser.add_argument("--no-browser", action="store_true", help="open no browser; print the address alone")


def add_server_flags(parser: argparse.ArgumentParser, port: int) -> None:
    parser.add_argument("--port", type=value(int), metavar="N", help=f"0: any that is free (default: {port}, or free)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="another than loopback needs a token")
    parser.add_argument(
        "--token", metavar="TOKEN", help="who asks must know it (default: HORNBOOK_TOKEN, else a fresh one)"
    )


def command(arguments: argparse.Namespace) -> None:
    dashboard(
        arguments.folder, port=arguments.port, host=arguments.host, token=arguments.token,
        browser=not arguments.no_browser and not arguments.json, as_json=arguments.json,
    )  # fmt: skip


def dashboard(
    folder: str | Path = "runs", *, port: int | None = None, host: str = "127.0.0.1", token: str | None = None,
    browser: bool = True, as_json: bool = False,
) -> None:  # fmt: skip
    """Show the runs in `folder`, or the one run that it is, at an address that is printed, until Ctrl-C.

    `port` 0: any that is free; None: 8090, or any where that is taken. `host`: another than loopback needs a `token`,
    by default the one in HORNBOOK_TOKEN. Raises InputError for a folder, a host or a port that there is not.
    """
    from starlette.applications import Starlette

    from hornbook.web.api import TEXT_PATHS, Api, unknown
    from hornbook.web.folder import RunsFolder
    from hornbook.web.model_process import ModelProcess
    from hornbook.web.safety import LOOPBACK, Guard
    from hornbook.web.server import listening, serve_app, token_for

    runs, token = RunsFolder(Path(folder)), token_for(host, token)
    try:
        listener = listening(host, PORT if port is None else port)
    except InputError:
        if port is not None:
            raise
        listener = listening(host, 0)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        warming = asyncio.ensure_future(api.warm())
        try:
            yield
        finally:
            warming.cancel()
            await models.close()

    models, stopping = ModelProcess(str(runs.folder)), Event()
    api = Api(runs, models, stopping)
    app = Starlette(routes=api.routes(), lifespan=lifespan, exception_handlers={404: unknown})
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listener.getsockname()[1]}/?token={token}"

    def started() -> None:
        if as_json:
            print_json({"address": address, "folder": str(folder)})
        else:
            print(f"dashboard of {folder}: {address}\nCtrl-C ends it; runs go on.", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve_app(Guard(app, token=token, hosts=(*LOOPBACK, name), text_paths=TEXT_PATHS), listener, started, stopping)
