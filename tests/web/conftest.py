"""A dashboard of a folder in a process of its own, asked over raw sockets."""

import json
import signal
import socket
from contextlib import contextmanager

import pytest


class Dashboard:
    def __init__(self, address):
        self.address = address
        self.host = self.address.split("/")[2]
        self.token = self.address.partition("token=")[2]
        self.cookie = self.login()

    def login(self):
        status, head, _ = self.send(f"GET /?token={self.token} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
        assert status == 303
        assert b"httponly; samesite=strict" in head
        return head.partition(b"set-cookie: ")[2].partition(b";")[0].decode()

    def send(self, request: bytes, *, all_of_it=False):
        """(status, head, body) of the first answer; (None, b"", b"") where the server hung up. `all_of_it`: also what
        comes after it."""
        answer = b""
        with socket.create_connection(self.host.rsplit(":", 1), timeout=60) as connection:
            try:
                connection.sendall(request)
                if all_of_it:
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65_536):
                    answer += part
                    head, found, body = answer.partition(b"\r\n\r\n")
                    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                    if found and not all_of_it and length.isdigit() and len(body) >= int(length):
                        break
            except ConnectionError:
                pass
        head, _, body = answer.partition(b"\r\n\r\n")
        return (int(head.split()[1]) if head else None), head.lower(), body

    def get(self, path, *headers, host=None, cookie=True, method="GET", body=b""):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or self.host}", *headers]
        lines += [f"Cookie: {self.cookie}"] if cookie else []
        return self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def json(self, path):
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    @contextmanager
    def events(self, path):
        """The (name, content) of server-sent events, as they come."""
        with socket.create_connection(self.host.rsplit(":", 1), timeout=120) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\nCookie: {self.cookie}\r\n\r\n".encode())
            yield read_events(connection.makefile("rb"))


def read_events(lines):
    for line in lines:
        if line.startswith(b"event: "):
            name = line[7:].strip().decode()
            yield name, json.loads(next(lines).removeprefix(b"data: "))


@pytest.fixture(scope="session")
def show(hornbook_in):
    """show(folder) is a running dashboard of it, which ends without a word."""

    @contextmanager
    def started(folder):
        run = hornbook_in(folder.parent)
        process = run.start("dashboard", folder.name, "--port", "0", "--json")
        try:
            yield Dashboard(run.printed(process)["address"])
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()
            process.communicate()

    return started
