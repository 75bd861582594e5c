"""The dashboard's page in a real Chromium, on real runs, one of them in progress.

Needs Debian's chromium, playwright and axe.
"""

import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hornbook.facts.accelerators import ACCELERATORS

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "src" / "hornbook" / "web" / "static" / "vendor"
IMAGES = ROOT / "docs" / "images"
SMALL = (
    "--model.layers", "1", "--model.width", "32", "--model.heads", "2", "--model.context", "32", "--train.batch", "4",
    "--train.threads", "1", "--tokenizer", "bytes", "--split", "blocks:0.1", "--watch.sample_tokens", "24",
    "--watch.price", "0.4/hour",
)  # fmt: skip
SCRIPT = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
WAIT = 60_000  # milliseconds, against hanging
VIEWS = {
    "runs": ("#/", "table.list a.name"), "run": ("#/run/first", ".part-chart canvas"),
    "samples": ("#/run/first/samples", ".sample-text"), "evaluation": ("#/run/first/evaluation", ".bar-row"),
    "memorization": ("#/run/first/memorization", ".passages, .bars-list"),
    "not measured": ("#/run/second/memorization", ".empty code"), "interrupted": ("#/run/stopped/evaluation", ".empty"),
    "inspect": ("#/inspect?run=first&with=second", ".panel + .panel .token"),
    "compare": ("#/compare?runs=first,second", ".pairs li"), "plan": ("#/plan", ".plan-out .figures"),
}  # fmt: skip


def test_what_is_vendored_is_what_was_published():
    hashes = dict(re.findall(r"\| `([\w.]+)` \|.*`([0-9a-f]{64})` \|", (VENDOR / "VENDORED.md").read_text()))
    present = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir()}
    present.pop("VENDORED.md")
    assert hashes == present


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[extras]'")
    with sync.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(browser, hornbook_in, english, tmp_path_factory):
    """Two seeds, the first with a prompt that is markup and a measurement of memorization; and an interrupted run."""
    made = tmp_path_factory.mktemp("dashboard")
    (made / "text.txt").write_text(english, encoding="utf-8")
    run = hornbook_in(made)
    for name, seed, steps in (("first", 0, 120), ("second", 1, 120)):
        prompts = ["--watch.prompts", SCRIPT] if name == "first" else []
        options = ["--steps", steps, "--train.seed", seed, "--checkpoint.every", 40, "--checkpoint.keep", 4, *prompts]
        finished = run("train", "text.txt", *SMALL, *options, "--out", f"runs/{name}")
        assert finished.code == 0, finished.stderr
    assert run("memorize", "runs/first").code == 0
    process = run.start("train", "text.txt", *SMALL, "--steps", 100_000, "--out", "runs/stopped")
    log = made / "runs" / "stopped" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b'"event":"step"') > 20):
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    assert run.finish(process).code == 130
    return made


def serve(run, *arguments):
    """A dashboard's process and its address, with the token."""
    process = run.start("dashboard", *arguments, "--port", 0, "--no-browser")
    for line in process.stdout:
        if address := re.search(r"http://\S+", line):
            return process, address[0]
    raise AssertionError(process.stderr.read())


@pytest.fixture(scope="module")
def address(folder, hornbook_in):
    process, where = serve(hornbook_in(folder), "runs")
    yield where
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


@pytest.fixture
def open_page(browser):
    """open_page(address, width=, scheme=): a page of which nothing may fail or leave the host."""
    problems, contexts = [], []

    def opened(where, width=1300, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        origin = where.split("/?")[0]
        page.on("console", lambda message: message.type in ("error", "warning") and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url.startswith((origin, "data:")) or problems.append(request.url))
        page.goto(where)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def go(page, view):
    route, shows = VIEWS[view]
    page.evaluate("route => { location.hash = route; }", route)
    page.wait_for_selector(shows, state="attached")
    page.wait_for_selector("main:not([aria-busy]) .result:not([aria-busy]), main:not([aria-busy]):not(:has(.result))")
    return page


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_opens_and_is_accessible(open_page, address, view):
    """No finding of axe that is serious or critical, in light and dark, and no scrolling sideways on a phone."""
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe
    for scheme, width in (("light", 1300), ("dark", 400)):
        page = go(open_page(address, width, scheme), view)
        findings = [
            (rule["id"], [node["html"][:200] for node in rule["nodes"]])
            for rule in Axe().run(page).response["violations"]
            if rule["impact"] in ("serious", "critical")
        ]
        assert findings == [], (view, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_run_appears_moves_and_ends(open_page, address, folder, hornbook_in):
    """Nothing is reloaded: what the training writes arrives."""
    page = go(open_page(address), "runs")
    page.evaluate("window.stays = true")
    run = hornbook_in(folder)
    process = run.start("train", "text.txt", *SMALL, "--steps", 1500, "--out", "runs/live")
    page.wait_for_selector("#run-live")
    page.wait_for_selector("tr:has(#run-live) .tag-live")
    page.click("#run-live")
    reading = page.locator(".part-chart .legend li:has-text('training, each batch') .reading")
    page.wait_for_selector(".part-chart canvas")
    seen = {reading.text_content()}
    for _ in range(3):
        page.wait_for_function(
            "seen => !seen.includes(document.querySelector('.part-chart .legend .reading')?.textContent ?? seen[0])",
            arg=list(seen),
        )
        seen.add(reading.text_content())
    assert run.finish(process).code == 0
    page.wait_for_selector(".run-head .tag-neutral:has-text('finished')")
    page.wait_for_selector(".figures dt:has-text('Top-1 accuracy')")
    assert page.evaluate("window.stays")


# Where in a plot, from 0 to 1, columns of pixels have the colour of a forecast: that of its cone, which one sees
# through, and that of its end.
FORECAST_COLUMNS = """() => {
  const [canvas, plot] = [document.querySelector(".part-chart canvas"), document.querySelector(".part-chart .u-over")];
  const context = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const whole = canvas.getBoundingClientRect(), box = plot.getBoundingClientRect();
  const ratio = canvas.width / whole.width;
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--forecast");
  const wanted = context.fillStyle.match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
  const [left, top] = [(box.left - whole.left) * ratio, (box.top - whole.top) * ratio];
  const { data, width, height } = context.getImageData(left, top, box.width * ratio, box.height * ratio);
  const isWanted = (at) => wanted.every((part, i) => Math.abs(part - data[at + i]) < 6);
  const [cone, end] = [[], []];
  for (let x = 0; x < width; x++) {
    const pixels = [...Array(height).keys()].map((y) => 4 * (y * width + x)).filter(isWanted);
    if (pixels.filter((at) => data[at + 3] < 128).length > 4) cone.push(x / width);
    if (pixels.filter((at) => data[at + 3] > 250).length > 4) end.push(x / width);
  }
  return { cone, end };
}"""


def test_a_cone_ends_at_the_last_step_that_is_planned(open_page, folder, hornbook_in):
    """Of a run that stands still after its first forecasts: what is painted is looked at."""
    run = hornbook_in(folder)
    log = folder / "forecast" / "on" / "metrics.jsonl"
    training = run.start("train", "text.txt", *SMALL, "--steps", 500, "--out", log.parent)
    while not (log.exists() and b'"forecast_loss_nats_per_token_interval_90":[' in log.read_bytes()):
        assert training.poll() is None, training.stderr.read()
        os.sched_yield()
    training.send_signal(signal.SIGSTOP)
    process, where = serve(run, "forecast")
    try:
        page = open_page(where)
        page.click("#run-on")
        page.wait_for_selector(".part-chart .line-key:has-text('forecast, 90 %')")
        page.wait_for_selector(".part-chart canvas")
        page.wait_for_function(f"({FORECAST_COLUMNS})().end.length > 0")
        painted = page.evaluate(FORECAST_COLUMNS)
        looks = [row for row in map(json.loads, log.read_bytes().splitlines()) if row["event"] == "evaluation"]
        assert looks[-1]["step"] / 500 <= min(painted["cone"]) < looks[-1]["step"] / 500 + 0.1
        assert min(painted["end"]) > 0.97
        page.goto("about:blank")
    finally:
        training.kill()
        training.communicate()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_everything_is_reached_by_keyboard(open_page, address):
    """Sort the list, open a run, move its cursor, zoom in and out, leave a series out, choose a token."""
    page = go(open_page(address), "runs")
    page.focus("#sort-bits")
    page.keyboard.press("Enter")
    assert page.get_attribute("th.col-bits", "aria-sort") == "ascending"
    page.focus("#run-first")
    page.keyboard.press("Enter")
    page.wait_for_selector(".part-chart canvas")
    readings = page.locator(".part-chart .legend .reading")
    before = readings.all_text_contents()
    page.focus(".part-chart .plot")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('.part-chart .legend .reading').textContent !== before", arg=before[0]
    )
    page.keyboard.press("+")
    page.wait_for_selector("button:has-text('Show all'):not([hidden])")
    page.focus(".part-chart .plot")
    page.keyboard.press("Escape")
    page.wait_for_selector("button:has-text('Show all')", state="hidden")
    key = page.locator(".part-chart .key").first
    key.focus()
    page.keyboard.press("Enter")
    assert key.get_attribute("aria-pressed") == "false"
    go(page, "inspect")
    page.focus(".panel .tokens")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(".panel .token:nth-child(2)", "aria-selected") == "true"


def test_a_filter_asks_for_a_setting_by_its_value(open_page, address):
    page = go(open_page(address), "runs")
    shown = page.locator("tr.run a.name")
    page.fill("input[type=search]", "seed=1")
    assert shown.all_text_contents() == ["second"]
    page.fill("input[type=search]", "seed")
    page.wait_for_selector("text=No run matches the filter.")


def test_an_address_opens_the_same_models_and_reference(open_page, address):
    page = go(open_page(address), "inspect")
    step = page.locator("output").first
    newest = step.text_content()
    page.locator("input[type=range]").first.press("Home")
    chosen = step.text_content()
    page.reload()
    page.wait_for_selector(".panel + .panel .token")
    assert step.text_content() == chosen != newest
    go(page, "compare")
    for run in ("second", "first"):
        page.get_by_label("Reference").select_option(run)
        page.wait_for_selector(f".pairs li:has-text('than {run}')")


def test_an_interrupted_run_says_how_it_goes_on(open_page, address):
    page = go(open_page(address), "interrupted")
    page.evaluate("location.hash = '#/run/stopped'")
    page.wait_for_selector(".verdict code:has-text('hornbook train --out runs/stopped')")


def test_a_zoom_asks_for_the_finer_range(open_page, address):
    page = go(open_page(address), "run")
    box = page.locator(".part-chart .u-over").bounding_box()
    with page.expect_request(lambda request: "/series?" in request.url and "from=" in request.url) as asked:
        page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 80)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 90, steps=4)
        page.mouse.up()
    limits = {name: float(value) for name, value in re.findall(r"(from|to)=([\d.]+)", asked.value.url)}
    assert 0 < limits["from"] < limits["to"] < 120


def test_the_softmax_of_a_token_sums_to_one(open_page, address):
    page = go(open_page(address), "inspect")
    rows = page.locator(".panel >> nth=0 >> .softmax-table tbody tr").all()
    cells = [row.locator("td").last.text_content() for row in rows]
    assert cells[-1] == "1"
    known = [float(cell) for cell in cells[:-1] if re.fullmatch(r"[01]\.\d+|1|0", cell)]
    assert sum(known) == pytest.approx(1, abs=0.005)


def test_what_a_run_says_is_text(open_page, address):
    page = go(open_page(address), "samples")
    assert SCRIPT in page.text_content(".sample-text")
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Samples of first · Hornbook"


def test_a_prompt_of_ones_own_is_continued_at_a_checkpoint(open_page, address):
    """By keyboard, as text; the same again is another draw, and what was asked for cannot be done is a sentence."""
    page = go(open_page(address), "samples")
    page.press("form.ask input[type=range]", "Home")
    page.fill("form.ask textarea", SCRIPT)
    page.click("form.ask button")
    page.wait_for_selector(".own-result .failure:has-text('the context only 32')")
    prompt, texts = "<script>1</script>", []
    page.fill("form.ask textarea", prompt)
    for seed in range(2):
        page.focus("form.ask button")
        page.keyboard.press("Enter")
        page.wait_for_selector(
            f".own-result:not([aria-busy]) .small:has-text('step 0 · temperature 0.8 · seed {seed}')"
        )
        texts.append(page.text_content(".own-result .sample-text"))
    assert all(text.startswith(prompt) and len(text) > len(prompt) for text in texts)
    assert texts[0] != texts[1]
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Samples of first · Hornbook"


def test_a_plan_is_for_this_machine_or_for_what_plan_knows_by_name(open_page, address):
    page = go(open_page(address), "plan")
    hardware = page.get_by_label("Hardware")
    assert hardware.locator("option").all_text_contents() == [
        "this machine's processors", *(known.name for known in ACCELERATORS),
    ]  # fmt: skip
    time = page.locator(".figures dt:has-text('Time') + dd")
    assert re.search(r"\d", time.text_content())
    for label, least in (("Parameters", "10K"), ("Training tokens", "100K")):
        page.get_by_label(label).press("Home")
        assert page.locator(f".field:has-text('{label}') output").text_content() == least
    page.wait_for_selector(".plan-out:has-text('hornbook sweep')")
    hardware.select_option("H100")
    page.wait_for_selector(".figures dt:has-text('Time') + dd:has-text('–')")  # no published run is as small
    for label, value in (("Parameters", 9), ("Training tokens", 10.3), ("How many", 3), ("Price of one, an hour", 3)):
        page.get_by_label(label, exact=True).fill(str(value))
    page.wait_for_selector("svg.frontier")
    page.wait_for_selector(".figures dt:has-text('Price') + dd:has-text('$')")


def test_what_is_measured_of_memorization_is_told_apart(open_page, address):
    page = go(open_page(address), "memorization")
    cards = page.locator(".pair .card")
    assert cards.locator("h2").all_text_contents() == [
        "Continued word for word", "Copied in its own samples", "Loss on both",
    ]  # fmt: skip
    assert [text.lstrip("–✕") for text in cards.locator(".tag").all_text_contents()] == ["shows none"] * 3


def test_pieces_of_a_document_are_not_called_documents(open_page, address):
    page = go(open_page(address), "evaluation")
    pieces = page.locator("tbody tr").count()
    page.wait_for_selector(f"text={pieces} pieces of 1 document")


def test_an_empty_folder_says_what_to_do(open_page, hornbook_in, tmp_path):
    (tmp_path / "runs").mkdir()
    process, where = serve(hornbook_in(tmp_path), "runs")
    try:
        page = open_page(where)
        page.wait_for_selector(".empty code:has-text('hornbook train')")
        page.evaluate("location.hash = '#/inspect'")
        page.wait_for_selector("h1:has-text('Inspect') >> xpath=../.. >> .empty")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


screenshots = pytest.mark.skipif(
    os.environ.get("HORNBOOK_SCREENSHOTS") != "1", reason="HORNBOOK_SCREENSHOTS=1 renews docs/images"
)


@screenshots
def test_screenshots(open_page, address):
    for view, width, scheme in (
        ("runs", 1300, "light"), ("run", 1300, "dark"), ("inspect", 800, "light"), ("runs", 400, "dark"),
        ("run", 400, "light"),
    ):  # fmt: skip
        page = go(open_page(address, width, scheme), view)
        page.wait_for_load_state("load")
        path = IMAGES / f"dashboard-{view}-{width}-{scheme}.png"
        page.set_viewport_size({"width": width, "height": 1250 if (view, width) == ("run", 1300) else 900})
        page.wait_for_function("document.fonts.ready.then(() => new Promise(requestAnimationFrame))")
        take(page, path)


@screenshots
def test_screenshot_of_the_heat_map(browser, tmp_path):
    """Of the first run of docs/learn.md and its sentence."""
    learn = runpy.run_path(str(ROOT / "docs" / "learn.py"))
    text = learn["PAGE"].read_text(encoding="utf-8")
    (texts,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-c", texts], cwd=tmp_path, check=True)
    for command in ("train", "inspect"):
        (first, *_) = re.findall(rf"^\$ (hornbook {command} .*)", text, re.MULTILINE)
        learn["printed"](first.replace("inspect ", "inspect --html page.html "), tmp_path)
    page = browser.new_page(viewport={"width": 1000, "height": 905})
    page.goto((tmp_path / "page.html").as_uri())
    take(page, IMAGES / "heatmap.png")
    page.close()


def take(page, path):
    from PIL import Image

    page.screenshot(path=path)
    Image.open(path).quantize(255).save(path, optimize=True)
    assert path.stat().st_size <= 150_000
