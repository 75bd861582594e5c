"""The clients that people have, against `hornbook serve`: OpenAI's own, lm-eval, and a browser."""

import json
import math
import shutil
import signal
import subprocess
import sys

import pytest

import hornbook


@pytest.fixture(scope="module")
def address(tiny_run, hornbook_in):
    """The address of a server for the tiny run."""
    run = hornbook_in(tiny_run.folder)
    process = run.start("serve", "run", "--port", "0", "--json")
    try:
        yield run.printed(process)["address"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def client(address):
    openai = pytest.importorskip("openai", reason="the openai package is an extra")
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0)


def test_openai_completes_as_generate_does(client, tiny_run):
    answer = client.completions.create(model="run", prompt="The", max_tokens=20, temperature=1, seed=11)
    (choice,) = answer.choices
    assert choice.text == "".join(hornbook.generate(str(tiny_run.run), "The", max_tokens=20, temperature=1.0, seed=11))
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 20
    again = client.completions.create(model="run", prompt="The", max_tokens=20, temperature=1, seed=11)
    assert again.choices[0].text == choice.text


def test_openai_streams(client):
    options = {"model": "run", "prompt": "The", "max_tokens": 20, "seed": 11}
    whole = client.completions.create(**options).choices[0].text
    chunks = list(client.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "length"


def test_openai_reads_logprobs_and_echo(client, tiny_run):
    text = "The parser of options"
    answer = client.completions.create(model="run", prompt=text, max_tokens=0, echo=True, logprobs=3)
    logprobs = answer.choices[0].logprobs
    tokens = hornbook.inspect(str(tiny_run.run), text).to_dict()["tokens"]
    assert logprobs.tokens == [token["text"] for token in tokens]
    assert logprobs.token_logprobs == [token["log_probability"] for token in tokens]
    assert logprobs.text_offset == list(range(len(text)))
    assert answer.choices[0].text == text


def test_openai_stops(client):
    options = {"model": "run", "prompt": "The", "max_tokens": 60, "seed": 2}
    whole = client.completions.create(**options).choices[0].text
    stopped = client.completions.create(**options, stop=whole[20:22]).choices[0]
    assert stopped.text == whole[: whole.index(whole[20:22])]
    assert stopped.finish_reason == "stop"


def test_openai_raises_its_own_errors(client):
    import openai

    with pytest.raises(openai.BadRequestError, match="best_of is not supported"):
        client.completions.create(model="run", prompt="The", best_of=3)
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.completions.create(model="gpt-4", prompt="The")
    assert [model.id for model in client.models.list()] == ["run"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 400)])
def test_the_page_tries_the_model_in_a_browser(address, tiny_run, scheme, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is an extra")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium here")
    said, prompt = [], "The <b>"
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for without_policy in (False, True):  # axe is a script of its own
            view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "bypass_csp": without_policy}
            page = browser.new_context(**view).new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(address.removesuffix("/v1"))
            playwright.expect(page.locator("#model")).to_have_text("run")
            page.fill("#prompt", prompt)
            page.fill("#seed", "3")
            page.keyboard.press("Tab")
            page.click("#go")
            playwright.expect(page.locator("#status")).to_have_text("100 tokens: as long as asked", timeout=60_000)
            written = "".join(hornbook.generate(str(tiny_run.run), prompt, max_tokens=100, temperature=0.8, seed=3))
            assert page.locator("#answer").text_content() == written
            assert not page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        found = axe.Axe().run(page).response["violations"]
        browser.close()
    assert said == []
    assert [violation["id"] for violation in found] == []


TASK = """\
task: ours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def test_lm_eval_gives_the_numbers_of_evaluate(address, tiny_run, english, tmp_path):
    """Its tokenizer puts nothing before a text, so that texts are sent: before them the server puts what stands before
    a document, as evaluate does."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    words = english.split()
    questions = [
        {"context": words[at], "choices": [f" {words[at + 1]}", f" {words[at + 9]}", " é"], "gold": at % 2}
        for at in range(0, 400, 20)
    ]
    file = tmp_path / "ours.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in questions), encoding="utf-8")
    (tmp_path / "ours.yaml").write_text(TASK.format(file=file), encoding="utf-8")
    hornbook.export(str(tiny_run.run), to="huggingface", out=tmp_path / "exported")
    arguments = f"model=run,base_url={address}/completions,tokenizer={tmp_path / 'exported'},tokenized_requests=False"
    command = [
        sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", f"{arguments},max_length=32",
        "--tasks", "ours", "--include_path", str(tmp_path), "--log_samples", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "out").glob("*/results_*.json")
    (samples,) = (tmp_path / "out").glob("*/samples_*.jsonl")
    theirs = {row["doc_id"]: row for row in map(json.loads, samples.read_text(encoding="utf-8").splitlines())}
    report = hornbook.evaluate(str(tiny_run.run), tasks=[str(file)])["tasks"][str(file)]
    assert json.loads(results.read_text())["results"]["ours"]["acc,none"] == report["accuracy"]
    for number, question in enumerate(report["questions"]):
        nats = [-float(response[0]) for response in theirs[number]["filtered_resps"]]
        assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(nats, question["nats"], strict=True))
