"""A model in a process of its own, asked over pipes: real processes, a real model."""

import asyncio
import math
import os
import signal

import pytest

from hornbook import evaluate, generate, inspect
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.web.model_process import Busy, ModelProcess


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 300))


async def collected(process, **request):
    return [part async for part in process.stream(request)]


def test_it_says_what_the_commands_say_of_the_same_model(tiny_run):
    text = "The state of the Union is strong, café."

    async def ask():
        process = ModelProcess(str(tiny_run.run))
        assert not process.is_running
        answers = [await process.ask({"do": "inspect", "text": text})]
        answers.append(await process.ask({"do": "softmax", "text": text, "token": 3}))
        answers.append(await collected(process, do="complete", prompts=["The"], max_tokens=20, seed=7))
        answers.append(await process.ask({"do": "describe"}))
        await process.close()
        assert not process.is_running
        return answers

    view, row, parts, about = run(ask())
    assert view == inspect(str(tiny_run.run), text).to_dict()
    token = view["tokens"][3]
    (own,) = [other for other in row["rows"] if other["is_target"]]
    assert own["logit"] == token["logit"]
    assert own["exp_logit"] == pytest.approx(math.exp(token["logit"]))
    whole = [*row["rows"], row["others"]]
    assert math.fsum(other["probability"] for other in whole) == pytest.approx(1.0)
    assert math.fsum(other["exp_logit"] for other in whole) == pytest.approx(row["sum"]["exp_logit"])
    written = "".join(generate(str(tiny_run.run), "The", max_tokens=20, temperature=1.0, seed=7))
    assert "".join(part["text"] for part in parts) == written
    assert about["vocabulary"] == view["vocabulary"]


def test_what_is_refused_is_refused_by_a_sentence_and_the_process_lives_on(tiny_run):
    async def ask():
        process = ModelProcess(str(tiny_run.run))
        await process.ask({"do": "describe"})
        pid = process._process.pid
        for request in (
            {"do": "inspect", "text": ""},
            {"do": "describe", "step": 3},
            {"do": "describe", "model": "no"},
        ):
            with pytest.raises(InputError, match=r"\w"):
                await process.ask(request)
        with pytest.raises(InputError, match="bytes"):
            await process.ask({"do": "inspect", "text": "x" * 5_000_000})
        assert process._process.pid == pid
        await process.close()

    run(ask())


def test_a_killed_process_is_one_sentence_and_the_next_request_starts_another(tiny_run):
    async def ask():
        process = ModelProcess(str(tiny_run.run))
        await process.ask({"do": "describe"})
        os.kill(process._process.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(process.ask({"do": "describe"}))
        await asyncio.sleep(0)
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(SystemFailure, match="died"):
            await asking
        assert (await process.ask({"do": "describe"}))["context"] > 0
        await process.close()

    run(ask())


def test_one_at_a_time_so_many_wait_and_no_more_and_who_leaves_frees_the_place(tiny_run):
    async def ask():
        process = ModelProcess(str(tiny_run.run), most_waiting=1)
        endless = process.stream({"do": "complete", "prompts": ["The"], "max_tokens": 10**9, "seed": 1})
        assert (await anext(endless))["prompt"] > 0
        waiting = asyncio.ensure_future(process.ask({"do": "describe"}))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="2 requests"):
            await process.ask({"do": "describe"})
        await endless.aclose()  # the reader goes away
        assert (await waiting)["context"] > 0
        await process.close()

    run(ask())


def test_an_answer_that_takes_too_long_and_a_process_that_is_idle_are_ended(tiny_run):
    async def ask():
        process = ModelProcess(str(tiny_run.run), answer_seconds=0.05)
        with pytest.raises(SystemFailure, match="longer than"):
            await process.ask({"do": "describe"})
        with pytest.raises(SystemFailure, match="longer than"):  # of a process of its own, not of one that is dying
            await process.ask({"do": "describe"})
        process = ModelProcess(str(tiny_run.run), idle_seconds=0.01)
        await process.ask({"do": "describe"})
        await process._process.wait()
        await asyncio.sleep(0)
        assert not process.is_running
        assert (await process.ask({"do": "describe"}))["context"] > 0
        await process.close()

    run(ask())


def test_the_process_ends_with_the_one_that_asks(tiny_run):
    async def ask():
        process = ModelProcess(str(tiny_run.run))
        await process.ask({"do": "describe"})
        process._process.stdin.close()
        assert await process._process.wait() == 0

    run(ask())


def test_a_prompt_is_scored_as_evaluate_scores_it(tiny_run, tmp_path):
    text = "My fellow citizens, naïve"

    async def ask():
        process = ModelProcess(str(tiny_run.run))
        request = {"prompts": [text], "echo": True, "logprobs": 2, "max_tokens": 0}
        (part, end) = await collected(process, do="complete", **request)
        await process.close()
        return part, end

    part, end = run(ask())
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    report = evaluate(str(tiny_run.run), str(tmp_path / "text.txt"))
    rest = part["tokens"]  # without the one that stands before a document
    assert part["prompt"] == len(rest) == len(text.encode())
    assert part["text"] == text
    assert end["finish"] == "length"
    assert -math.fsum(item["log_probability"] for item in rest) == report.nats
    for item in rest:
        assert item["text"].startswith("bytes:") or text.startswith(item["text"], item["offset"])
        assert len(item["alternatives"]) == 2
    parts = [(item["text"], item["offset"]) for item in rest if item["text"].startswith("bytes:")]
    assert parts == [("bytes:\\xc3", text.index("ï")), ("bytes:\\xaf", text.index("ï"))]
