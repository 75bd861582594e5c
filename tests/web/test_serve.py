"""`hornbook serve` as a client meets it: a real process, real requests."""

import http.client
import json
import signal
import socket
import time
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

import hornbook

ENDLESS = {"prompt": "The", "max_tokens": 1_000_000, "stream": True, "seed": 1}
TOKEN = "aTokenThatSomebodySet7"


@contextmanager
def served(command_line, *arguments):
    """The address of a server, and its process."""
    process = command_line.start("serve", *arguments, "--port", "0", "--json")
    try:
        yield urlsplit(command_line.printed(process)["address"]).netloc, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def server(tiny_run, hornbook_in):
    with served(hornbook_in(tiny_run.folder), "run", "--waiting", "1") as (address, _):
        yield address


def sent(address, body, method="POST", path="/v1/completions", **headers):
    """The response to a request, whose body is not read yet."""
    connection = http.client.HTTPConnection(address, timeout=120)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, content, {"Content-Type": "application/json"} | headers)
    response = connection.getresponse()
    response.hung_up = lambda: (response.close(), connection.close())
    return response


def asked(address, body, *arguments, **options):
    with closing(sent(address, body, *arguments, **options)) as response:
        return response.status, json.loads(response.read())


def test_it_writes_what_generate_writes_with_the_same_seed(server, tiny_run):
    body = {"prompt": "The", "max_tokens": 30, "temperature": 0.7, "top_p": 0.9, "seed": 5, "n": 2}
    status, answer = asked(server, body)
    assert status == 200
    for index, choice in enumerate(answer["choices"]):
        options = {"max_tokens": 30, "temperature": 0.7, "top_p": 0.9, "seed": 5 + index}
        assert choice["text"] == "".join(hornbook.generate(str(tiny_run.run), "The", **options))
        assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (index, "length", None)
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 60, "total_tokens": 63}
    assert (answer["object"], answer["model"]) == ("text_completion", "run")


def test_prompts_are_a_text_or_ids_or_many(server):
    def texts(prompt):
        status, answer = asked(server, {"prompt": prompt, "max_tokens": 5, "temperature": 0})
        assert status == 200
        return [choice["text"] for choice in answer["choices"]]

    ids = [256, *b"The"]  # what stands before a document is one of the ids
    assert texts("The") == texts(["The"]) == texts(ids) == texts([ids])
    assert texts(["The", "A"]) == texts("The") + texts("A")


def test_a_stream_is_the_same_answer_in_parts(server):
    body = {"prompt": "The", "max_tokens": 12, "seed": 3, "logprobs": 2, "echo": True}
    _, whole = asked(server, body)
    with closing(sent(server, body | {"stream": True, "stream_options": {"include_usage": True}})) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        *events, done = response.read().decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    *chunks, last = [json.loads(event.removeprefix("data: ")) for event in events]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [value for choice in choices for value in choice["logprobs"][name]]
        assert joined == whole["choices"][0]["logprobs"][name]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])


def test_logprobs_of_echo_and_completion_stand_where_their_tokens_do(server):
    _, answer = asked(server, {"prompt": "naïve", "max_tokens": 9, "seed": 3, "logprobs": 1, "echo": True})
    (choice,) = answer["choices"]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == answer["usage"]["total_tokens"] == 6 + 9
    assert logprobs["tokens"][2:4] == ["bytes:\\xc3", "bytes:\\xaf"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert token.startswith("bytes:") or choice["text"].startswith(token, offset)
    for own, top in zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert own in top.values()
        assert len(top) in (1, 2)


def test_a_stop_string_ends_the_text_before_it(server):
    body = {"prompt": "The", "max_tokens": 60, "seed": 3, "logprobs": 0}
    whole = asked(server, body)[1]["choices"][0]["text"]
    stop = whole[10:13]
    (choice,) = asked(server, body | {"stop": ["\0", stop]})[1]["choices"]
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert all(offset < len(choice["text"]) for offset in choice["logprobs"]["text_offset"])


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"suffix": "end"}, "suffix"),
        ({"max_token": 3}, "max_token"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": "two"}, "n"),
        ({"n": 1000}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": [1]}, "stop"),
        ({"prompt": [999]}, None),
        ({"prompt": "x" * 33}, None),
        ({"temperature": -1}, None),
        ({"top_p": 2}, None),
        ({"seed": -1}, None),
    ],
)
def test_what_is_not_supported_is_refused_by_name(server, changes, param):
    status, answer = asked(server, {"prompt": "The", "max_tokens": 2} | changes)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert answer["error"]["param"] == param
    assert answer["error"]["message"].endswith(".")


def test_fields_that_ask_for_nothing_are_let_through(server):
    asking = {
        "best_of": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "suffix": None,
        "user": "u",
    }
    assert asked(server, {"prompt": "The", "max_tokens": 2, "model": "run"} | asking)[0] == 200


def test_other_requests_are_refused_with_their_status(server):
    assert asked(server, {"prompt": "The", "model": "gpt-4"})[0] == 404
    assert asked(server, b"{")[0] == 400
    assert asked(server, b"[" * 100_000)[0] == 400
    assert asked(server, {"prompt": "x" * 5_000_000})[0] == 413
    assert asked(server, b"prompt=The", **{"Content-Type": "application/x-www-form-urlencoded"})[0] == 415
    assert asked(server, {"prompt": "The"}, Host="evil.example")[0] == 403
    assert asked(server, {"prompt": "The"}, Origin="http://evil.example")[0] == 403
    assert asked(server, {"prompt": "The"}, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert asked(server, None, "GET", "/serve.py")[0] == 404
    assert asked(server, None, "GET", "/..%2fserve.py")[0] == 404
    assert asked(server, None, "DELETE", "/v1/models")[0] == 405


def test_the_model_is_listed(server):
    _, answer = asked(server, None, "GET", "/v1/models")
    (listed,) = answer["data"]
    assert (listed["id"], listed["object"], listed["context"], listed["step"]) == ("run", "model", 32, 24)
    assert asked(server, None, "GET", "/v1/models/run")[1] == listed
    assert asked(server, None, "GET", "/v1/models/other")[0] == 404


def test_requests_wait_for_each_other_and_beyond_the_limit_are_told_to_come_again(server):
    first = sent(server, ENDLESS)
    assert first.readline().startswith(b"data: ")
    host, _, port = server.partition(":")
    body = json.dumps({"prompt": "The", "max_tokens": 3, "seed": 1}).encode()
    with socket.create_connection((host, int(port))) as second:  # sent, and not waited for
        second.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        status, answer = 200, {}
        while status == 200:  # until the second has come to wait, this one waits with it and leaves
            with closing(sent(server, {"prompt": "A", "max_tokens": 1})) as third:
                status, answer = third.status, json.loads(third.read())
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        first.hung_up()  # its place is free
        assert second.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_frees_its_place(server):
    for stream in (True, False):
        leaving = http.client.HTTPConnection(server, timeout=120)
        body = json.dumps(ENDLESS | {"stream": stream})
        leaving.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        time.sleep(0.2)
        leaving.close()
        assert asked(server, {"prompt": "The", "max_tokens": 3})[0] == 200


def test_the_page_asks_nothing_of_others(server):
    with closing(sent(server, None, "GET", "/")) as response:
        page = response.read().decode()
        policy = response.headers["Content-Security-Policy"]
    assert response.status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "//" not in page.replace("<!doctype html>", "")
    assert "style=" not in page


def test_another_host_only_with_a_token_and_then_nothing_without_it(command_line, tiny_run):
    for wrong in (("--host", "0.0.0.0"), ("--token", "short"), ("--port", "70000"), ("--waiting", "-1")):
        finished = command_line("serve", tiny_run.run, *wrong)
        assert (finished.code, finished.stdout, finished.stderr.count("\n")) == (2, "", 1)
    missing = command_line("serve", tiny_run.folder / "nothing")
    assert missing.code == 2
    with served(command_line, tiny_run.run, "--host", "0.0.0.0", "--token", TOKEN) as (address, process):
        address = address.replace("0.0.0.0", "127.0.0.1")
        body = {"prompt": "The", "max_tokens": 2}
        assert asked(address, body)[0] == 403
        assert asked(address, body, Authorization="Bearer wrong")[0] == 403
        assert asked(address, body, Authorization=f"Bearer {TOKEN}")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/models", "/"])
def test_what_else_openai_serves_is_refused_as_openai_refuses(server, path):
    status, answer = asked(server, {"model": "run", "messages": [{"role": "user", "content": "hi"}]}, path=path)
    assert status == 404
    assert answer["error"].keys() >= {"message", "type", "param", "code"}
    assert "only completions" in answer["error"]["message"]
    assert "POST /v1/completions" in answer["error"]["message"]
