"""Who may ask, and what: in front of every page and answer, before anything is read.

A page of another origin can make a browser on this machine send requests here. What keeps it out: the name in `Host`
(a rebound DNS name is another one), where the request comes from, and a token that only the printed address has.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from hornbook.facts.io import json_bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SHORTEST_TOKEN = 16  # characters, of one that a person sets
URL_BYTES, TEXT_URL_BYTES = 4096, 62_000  # the second where a text is given: 20 kB, each byte as %XX
TEXT_BYTES = 20_000
HEADERS_BYTES = 16_384
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _PAGE, "x-content-type-options": "nosniff", "cache-control": "no-store",
    "referrer-policy": "no-referrer", "x-frame-options": "DENY", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}  # fmt: skip


class Refused(Exception):
    """A status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Guard:
    """An ASGI app that lets through to `app` only what may pass.

    `hosts`: the names in `Host`, ports aside. `token`: whoever asks has it, in the address once (`?token=`), then in a
    cookie, or as `Authorization: Bearer`; None: nobody needs one. `methods`: the others are refused. `text_paths` are
    those that take a text in their address.
    """

    def __init__(
        self, app: App, *, token: str | None, hosts: Sequence[str] = LOOPBACK, methods: Sequence[str] = ("GET",),
        text_paths: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.app, self.token, self.hosts = app, token, {host.lower() for host in hosts}
        self.methods, self.text_paths = tuple(methods), tuple(text_paths)
        # Cookies do not know ports: two servers on one machine keep theirs apart by name.
        self.cookie = "hornbook-" + hashlib.sha256((token or "").encode()).hexdigest()[:12]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is spoken here")

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = dict(message.get("headers", []))
                message["headers"] = [
                    *((n.encode(), v.encode()) for n, v in _HEADERS.items() if n.encode() not in headers),
                    *message.get("headers", []),
                ]
            await send(message)

        try:
            self._check(scope)
        except Refused as refused:
            return await answer_json(send_guarded, refused.status, {"error": str(refused)})
        if self._is_login(scope):
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/".encode()
            headers = [(b"location", b"./"), (b"set-cookie", cookie)]
            return await answer_json(send_guarded, 303, {}, headers)
        return await self.app(scope, receive, send_guarded)

    def _check(self, scope: Scope) -> None:
        """Raise Refused for what may not pass, the cheapest and gravest first."""
        names = [name for name, _ in scope["headers"]]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if names.count(b"host") != 1 or _name_of(host) not in self.hosts:
            raise Refused(403, "the name of this server is another one: open the address that it printed.")
        if scope["method"] not in self.methods:
            raise Refused(405, f"only {' and '.join(self.methods)} is answered.")
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        if scope["method"] == "GET" and (has_body or "upgrade" in headers):
            raise Refused(400, "a request to read has no body.")
        path, query = scope["path"], scope.get("query_string", b"")
        most = TEXT_URL_BYTES if path in self.text_paths else URL_BYTES
        if len(scope.get("raw_path") or b"") + len(query) > most:
            raise Refused(414, f"the address is longer than {most:,} bytes.")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADERS_BYTES:
            raise Refused(431, "the headers are too long.")
        if re.search(r"[\x00-\x1f\x7f\\]", path):
            raise Refused(400, "the address has a character that no address of this server has.")
        self._check_origin(headers, path)
        if self.token is not None and not self._has_token(scope, headers):
            raise Refused(403, "this needs the token: open the address that the server printed when it started.")

    def _check_origin(self, headers: dict[str, str], path: str) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and origin not in (f"http://{headers['host']}", f"https://{headers['host']}"):
            raise Refused(403, "a page of another origin may not ask here.")
        is_visit = path == "/" and headers.get("sec-fetch-mode") == "navigate" and "origin" not in headers
        if site not in ("same-origin", "none") and not is_visit:
            raise Refused(403, "a page of another site may not ask here.")

    def _is_login(self, scope: Scope) -> bool:
        return self.token is not None and scope["path"] == "/" and b"token=" in scope.get("query_string", b"")

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        assert self.token is not None
        given = []
        if scope["path"] == "/":
            given += parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])[:1]
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        given += [cookies[self.cookie].value] if self.cookie in cookies else []
        given += [headers["authorization"][7:]] if headers.get("authorization", "").startswith("Bearer ") else []
        if self._is_login(scope):
            given = given[:1]
        return any(hmac.compare_digest(word.encode("utf-8", "replace"), self.token.encode()) for word in given)


def _name_of(host: str) -> str:
    """A `Host` without its port, in lower case; "" where it is not one.

    >>> _name_of("LocalHost:8000"), _name_of("[::1]:80"), _name_of("127.0.0.1@evil")
    ('localhost', '[::1]', '')
    """
    match = re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", host)
    return match[1].lower() if match else ""


async def answer_json(send: Send, status: int, content: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """One whole answer."""
    body = json_bytes(content)
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
