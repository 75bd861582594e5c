"""Requests that must not get through, sent over raw sockets to a real process with a valid cookie wherever a browser
could be made to send one. docs/dashboard.md lists each by its name."""

import json
import os
import shutil
import socket
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

ROOT = Path(__file__).parents[2]
SECRET = b"what is outside of the folder"
SCRIPT = "<script>alert(1)</script>"
RUN_NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_run):
    """A folder of runs beside a secret, with links that lead out of it, and with markup in names and samples."""
    parent = tmp_path_factory.mktemp("dashboard")
    folder = parent / "runs"
    folder.mkdir()
    (parent / "secret.txt").write_bytes(SECRET)
    for name in ("good", RUN_NAME, "linked"):
        shutil.copytree(tiny_run.run, folder / name)
    shutil.copytree(tiny_run.run, parent / "outside")
    (parent / "outside" / "reports" / "secret.json").write_bytes(SECRET)
    (folder / "escape").symlink_to(parent / "outside")
    (folder / "good" / "reports" / "secret.json").symlink_to(parent / "secret.txt")
    (folder / "linked" / "metrics.jsonl").unlink()
    (folder / "linked" / "metrics.jsonl").symlink_to(parent / "secret.txt")
    shutil.rmtree(folder / "linked" / "reports")
    (folder / "linked" / "reports").symlink_to(parent / "outside" / "reports")
    (folder / "linked" / "environment.json").unlink()
    (folder / "linked" / "environment.json").symlink_to(parent / "secret.txt")
    with open(folder / "good" / "samples.jsonl", "a") as log:
        log.write(json.dumps({"step": 3, "tokens": 9, "prompt": SCRIPT, "text": SCRIPT}) + "\n")
    (folder / "good" / "reports" / "own.html").write_text(SCRIPT)
    os.mkfifo(folder / "good" / "reports" / "pipe.json")
    return folder


@pytest.fixture(scope="module")
def dashboard(runs, show):
    with show(runs) as started:
        yield started


GOOD = "api/runs/good"
# name: request line, headers ("cookie" sends the cookie, "Host: ..." is instead of the right one)
ASKED = {
    "no token": ("GET /api/runs", ()),
    "wrong token": ("GET /?token=0123456789abcdef0123456789abcdef", ()),
    "empty token": ("GET /?token=", ()),
    "wrong token beside a right cookie": ("GET /?token=x", ("cookie",)),
    "token in the address of an answer": ("GET /api/runs?token={token}", ()),
    "wrong cookie": ("GET /api/runs", ("Cookie: {name}=0123456789abcdef",)),
    "cookie of another name": ("GET /api/runs", ("Cookie: hornbook={token}",)),
    "rebound name": ("GET /api/runs", ("cookie", "Host: evil.example")),
    "rebound name with our port": ("GET /api/runs", ("cookie", "Host: evil.example:{port}")),
    "name that begins as ours": ("GET /api/runs", ("cookie", "Host: 127.0.0.1.evil.example")),
    "name with a user": ("GET /api/runs", ("cookie", "Host: 127.0.0.1@evil.example")),
    "wildcard address": ("GET /api/runs", ("cookie", "Host: 0.0.0.0:{port}")),
    "no name": ("GET /api/runs", ("cookie", "Host:")),
    "two names": ("GET /api/runs", ("cookie", "Host: {host}", "Host: evil.example")),
    "page of another origin": ("GET /api/runs", ("cookie", "Origin: http://evil.example")),
    "page of another port": ("GET /api/runs", ("cookie", "Origin: http://127.0.0.1:1")),
    "page without origin": ("GET /api/runs", ("cookie", "Origin: null")),
    "picture in a page of another site": ("GET /api/runs", ("cookie", "Sec-Fetch-Site: cross-site")),
    "script of another port": ("GET /static/app.js", ("cookie", "Sec-Fetch-Site: same-site")),
    "frame in another site": ("GET /", ("cookie", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")),
    "address with another name": ("GET http://evil.example/api/runs", ("cookie", "Host: evil.example")),
    "tunnel": ("CONNECT evil.example:443", ("cookie",)),
    "POST": ("POST /api/runs", ("cookie", "Content-Length: 0")),
    "PUT": ("PUT /api/runs/good", ("cookie", "Content-Length: 0")),
    "DELETE": ("DELETE /api/runs/good", ("cookie",)),
    "OPTIONS": ("OPTIONS /api/runs", ("cookie", "Origin: http://evil.example")),
    "TRACE": ("TRACE /", ("cookie",)),
    "web socket": ("GET /api/events", ("cookie", "Upgrade: websocket", "Connection: Upgrade")),
    "traversal": ("GET /static/../../../../secret.txt", ("cookie",)),
    "traversal, encoded": ("GET /static/%2e%2e/%2e%2e/api.py", ("cookie",)),
    "traversal, encoded slashes": ("GET /static/..%2f..%2fapi.py", ("cookie",)),
    "traversal, encoded twice": ("GET /static/%252e%252e%252fapi.py", ("cookie",)),
    "traversal, overlong UTF-8": ("GET /static/%c0%ae%c0%ae%c0%afapi.py", ("cookie",)),
    "traversal, backslashes": ("GET /static/..\\..\\api.py", ("cookie",)),
    "traversal, encoded backslashes": ("GET /static/..%5c..%5capi.py", ("cookie",)),
    "traversal, full-width dots": ("GET /static/%ef%bc%8e%ef%bc%8e/api.py", ("cookie",)),
    "absolute path": ("GET /static//etc/passwd", ("cookie",)),
    "absolute path, encoded": ("GET /static/%2fetc%2fpasswd", ("cookie",)),
    "run above the folder": ("GET /api/runs/..", ("cookie",)),
    "run above the folder, encoded": ("GET /api/runs/%2e%2e%2foutside", ("cookie",)),
    "run that is a link": ("GET /api/runs/escape", ("cookie",)),
    "run by an absolute path": ("GET /api/runs/%2fetc", ("cookie",)),
    "model outside": ("GET /api/inspect?run=../outside&text=a", ("cookie",)),
    "model that is a link": ("GET /api/generate?run=escape&prompt=a", ("cookie",)),
    "model by an absolute path": ("GET /api/inspect?run=/etc&text=a", ("cookie",)),
    "comparison with what is outside": ("GET /api/compare?runs=good,..%2foutside", ("cookie",)),
    "report that is a link": ("GET /runs/good/reports/secret.json", ("cookie",)),
    "report above the reports": ("GET /runs/good/reports/..%2fmetrics.jsonl", ("cookie",)),
    "report in a linked folder": ("GET /runs/linked/reports/secret.json", ("cookie",)),
    "report that is a pipe": ("GET /runs/good/reports/pipe.json", ("cookie",)),
    "null byte in a name": ("GET /api/runs/good%00.json", ("cookie",)),
    "null byte in a file": ("GET /static/app.js%00.html", ("cookie",)),
    "line end in a name": ("GET /api/runs/good%0d%0aX-Evil:%201", ("cookie",)),
    "long address": ("GET /api/runs?" + "a" * 5000, ("cookie",)),
    "very long address": ("GET /" + "a" * 200_000, ("cookie",)),
    "long text": ("GET /api/inspect?run=good&text=" + "a" * 20_001, ("cookie",)),
    "long headers": ("GET /api/runs", ("cookie", "X-Long: " + "a" * 20_000)),
    "many headers": ("GET /api/runs", ("cookie", *(f"X-{i}: {'a' * 100}" for i in range(300)))),
    "body where none is read": ("GET /api/runs", ("cookie", "Content-Length: 5")),
    "negative length": ("GET /api/runs", ("cookie", "Content-Length: -1")),
    "two lengths": ("GET /api/runs", ("cookie", "Content-Length: 0", "Content-Length: 44")),
    "chunks and a length": ("GET /api/runs", ("cookie", "Transfer-Encoding: chunked", "Content-Length: 4")),
    "chunks, spelled oddly": ("GET /api/runs", ("cookie", "Transfer-Encoding: xchunked")),
    "space before a colon": ("GET /api/runs", ("cookie", "Content-Length : 4")),
    "folded header": ("GET /api/runs", ("cookie", "X-A: b\r\n Transfer-Encoding: chunked", "Content-Length: 3")),
    "points without end": (f"GET /{GOOD}/series?points=1000000000", ("cookie",)),
    "points that are no number": (f"GET /{GOOD}/series?points=NaN", ("cookie",)),
    "axis that is code": (f"GET /{GOOD}/series?x=__class__", ("cookie",)),
    "tokens without end": ("GET /api/generate?run=good&prompt=a&max_tokens=99999999", ("cookie",)),
    "plan without end": ("GET /api/plan?parameters=1e300&tokens=1e300&on=8xA100", ("cookie",)),
}  # fmt: skip


def request_of(dashboard, line, headers):
    method, _, path = line.partition(" ")
    names = {"host": dashboard.host, "port": dashboard.host.rpartition(":")[2], "token": dashboard.token,
             "name": dashboard.cookie.partition("=")[0]}  # fmt: skip
    lines = [f"{method} {path.replace('{token}', dashboard.token)} HTTP/1.1"]
    if not any(header.startswith("Host:") for header in headers):
        lines.append(f"Host: {dashboard.host}")
    for header in headers:
        lines.append(f"Cookie: {dashboard.cookie}" if header == "cookie" else header.format(**names))
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


@pytest.mark.parametrize("name", ASKED)
def test_it_does_not_get_through(dashboard, name):
    status, head, body = dashboard.send(request_of(dashboard, *ASKED[name]))
    assert status is None or 400 <= status < 500, (status, body[:300])
    assert SECRET not in body
    assert b"set-cookie" not in head
    assert b"x-evil" not in head
    assert dashboard.get("/api/runs")[0] == 200


def test_the_same_requests_without_what_is_wrong_do_get_through(dashboard):
    """So that what is refused is refused for what is wrong with it."""
    assert dashboard.get("/api/runs", f"Origin: http://{dashboard.host}", "Sec-Fetch-Site: same-origin")[0] == 200
    assert dashboard.get("/api/runs", host="localhost:7000")[0] == 200  # through a tunnel
    assert dashboard.get("/api/runs/good")[0] == 200
    assert dashboard.get("/api/runs/good/series?points=50")[0] == 200
    assert dashboard.get("/runs/good/reports/report.html")[0] == 200
    assert dashboard.get("/", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")[0] == 200  # a link in a mail


def test_a_request_behind_a_refused_one_is_not_answered(dashboard):
    inner = f"GET /api/runs HTTP/1.1\r\nHost: {dashboard.host}\r\nCookie: {dashboard.cookie}\r\n\r\n"
    outer = f"GET /api/runs HTTP/1.1\r\nHost: {dashboard.host}\r\nContent-Length: {len(inner)}\r\n\r\n"
    status, _, body = dashboard.send((outer + inner).encode(), all_of_it=True)
    assert status == 400
    assert b'"runs"' not in body


def test_what_is_not_http_ends_the_connection(dashboard):
    for request in (b"\x16\x03\x01\x02\x00" + b"\0" * 600, b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 50_000, b"GET\r\n\r\n"):
        status, _, body = dashboard.send(request, all_of_it=True)
        assert status in (None, 400, 403, 405)
        assert SECRET not in body
    assert dashboard.get("/api/runs")[0] == 200


def test_connections_that_are_held_open_do_not_stop_it(dashboard):
    held = [socket.create_connection(dashboard.host.rsplit(":", 1)) for _ in range(40)]
    for connection in held:
        connection.sendall(b"GET /api/runs HTTP/1.1\r\nHost: ")
    assert dashboard.get("/api/runs")[0] == 200
    for connection in held:
        connection.close()


def test_a_head_that_never_ends_is_closed(dashboard):
    """However its bytes trickle in, as the first of a connection or after an answer; a stream of events goes on."""
    whole = f"GET /static/app.js HTTP/1.1\r\nHost: {dashboard.host}\r\nCookie: {dashboard.cookie}\r\n\r\n".encode()
    stream = whole.replace(b"/static/app.js", b"/api/events")
    begun = [b"GET /api/runs HTTP/1.1\r\nX-Slow: ", whole + b"GET /api/runs HTTP/1.1\r\nX-Slow: ", b"", stream]
    connections = [socket.create_connection(dashboard.host.rsplit(":", 1), timeout=1) for _ in begun]
    for connection, first in zip(connections, begun, strict=True):
        connection.sendall(first)
    slow, listening = connections[:3], connections[3]
    while slow:
        for connection in list(slow):
            try:
                if connection is not connections[2]:
                    connection.sendall(b"a")
                if not connection.recv(65_536):
                    slow.remove(connection)
            except TimeoutError:
                pass
            except ConnectionError:
                slow.remove(connection)
    answer = b""
    while b": nothing new" not in answer:
        answer += listening.recv(65_536)  # closed, it would be b""
        assert answer
    for connection in connections:
        connection.close()


def test_markup_in_names_samples_and_prompts_stays_text(dashboard):
    """Answers are JSON that no browser takes for a page, and the page has a policy that runs nothing of theirs."""
    for path in ("/api/runs", f"/api/runs/{quote(RUN_NAME)}", "/api/runs/good/samples",
                 f"/api/runs/{quote(SCRIPT)}", f"/api/runs/good/series?x={quote(SCRIPT)}",
                 f"/api/inspect?run={quote(SCRIPT)}&text={quote(SCRIPT)}"):  # fmt: skip
        _, head, body = dashboard.get(path)
        assert b"content-type: application/json" in head
        assert b"x-content-type-options: nosniff" in head
        json.loads(body)
    rows = json.loads(dashboard.get("/api/runs")[2])["runs"]
    assert RUN_NAME in [row["id"] for row in rows]
    prompts = json.loads(dashboard.get("/api/runs/good/samples")[2])["prompts"]
    assert SCRIPT in [prompt["prompt"] for prompt in prompts]
    assert b"script-src 'self'" in dashboard.get("/")[1]
    report = dashboard.get("/runs/good/reports/own.html")[1]
    assert b"content-security-policy: sandbox; default-src 'none'" in report


def test_a_linked_file_of_a_run_is_not_read(dashboard):
    for path in ("/api/runs/linked", "/api/runs/linked/samples", "/api/runs/linked/series", "/api/runs"):
        assert SECRET not in dashboard.get(path)[2]
    rows = {row["id"]: row for row in json.loads(dashboard.get("/api/runs")[2])["runs"]}
    assert "escape" not in rows
    assert rows["linked"]["state"] == "damaged"


def test_many_at_once_are_answered(dashboard):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(dashboard.get("/api/runs")[0])) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 30


@pytest.mark.parametrize(("arguments", "sentence"), [
    (("--host", "0.0.0.0"), "set a token"), (("--host", "0.0.0.0", "--token", "short"), "16 letters and digits"),
    (("--token", "with\r\nline ends 1234567890"), "letters and digits"), (("--port", "99999"), "must be from 0"),
    (("--host", "no such host", "--token", "a" * 16), "is not a name"), (("elsewhere",), "there is no folder"),
])  # fmt: skip
def test_a_start_that_is_not_safe_is_refused(runs, hornbook_in, arguments, sentence):
    arguments = arguments if arguments == ("elsewhere",) else ("runs", *arguments)
    done = hornbook_in(runs.parent)("dashboard", *arguments, "--no-browser")
    assert (done.code, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_the_page_lists_every_request():
    page = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    assert [name for name in ASKED if f"| {name} |" not in page] == []
