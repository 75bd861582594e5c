"""The dashboard's page in Chromium, for `python benchmarks/dashboard.py --browser`: playwright and Debian's chromium.

Seconds from what a person does to the second frame after it, when it is painted; and the longest task meanwhile.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMES = 5
WATCH = """() => {
  window.tasks = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((entry) => entry.duration)))
    .observe({ type: "longtask", buffered: true });
}"""
# What a person does, then two frames: the second begins when the first is painted.
PAINTED = """async ([act, until]) => {
  const done = new Function(`return (${until})`);
  window.tasks.length = 0;
  const begin = performance.now();
  new Function(act)();
  while (!done()) await new Promise(requestAnimationFrame);
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  const seconds = (performance.now() - begin) / 1000;
  await new Promise((later) => setTimeout(later, 100));
  return [seconds, Math.max(0, ...window.tasks) / 1000];
}"""
# The longest of 60 frames while the pointer moves over the plot.
FRAMES = """async () => {
  const plot = document.querySelector(".part-chart .u-over"), box = plot.getBoundingClientRect(), gaps = [];
  let before = await new Promise(requestAnimationFrame);
  for (let i = 0; i < 60; i++) {
    const at = { clientX: box.left + box.width * i / 60, clientY: box.top + 50, bubbles: true };
    plot.dispatchEvent(new MouseEvent("mousemove", at));
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - before);
    before = now;
  }
  return Math.max(...gaps) / 1000;
}"""
ROWS = "document.querySelectorAll('tr.run').length"
FILTER = (
    "const box = document.querySelector('input[type=search]'); box.value = '{}'; box.dispatchEvent(new Event('input'))"
)
KEY = "document.querySelector('.part-chart .plot').dispatchEvent(new KeyboardEvent('keydown', { key: '+' }))"
IS_SHOWN = "document.querySelector('.part-chart canvas') && document.querySelector('.part-reading').textContent === ''"


def measured(page: Any, steps: list[tuple[str, str]]) -> dict[str, float]:
    """Medians of doing the first step; the others put back what it did."""
    seconds, tasks = [], []
    for _ in range(TIMES):
        taken, task = page.evaluate(PAINTED, list(steps[0]))
        seconds.append(taken)
        tasks.append(task)
        for step in steps[1:]:
            page.evaluate(PAINTED, list(step))
    return {"seconds": statistics.median(seconds), "longest_task_seconds": max(tasks)}


def opened(page: Any, address: str, shown: str, whole: str) -> dict[str, float]:
    """Seconds from the navigation to the first rows or curve, and to all of them."""
    page.goto(address, wait_until="commit")
    seconds = []
    for until in (shown, whole):
        page.wait_for_function(until)
        seconds.append(page.evaluate("performance.now()") / 1000)
    return {"first_seconds": seconds[0], "whole_seconds": seconds[1]}


def looked_at(start: Callable[[Path], Any], many: Path, long: Path) -> dict[str, Any]:
    """Times of the list of `many` runs and of one run, and of the `long` run, each after the start of a server."""
    from playwright.sync_api import sync_playwright

    results: dict[str, Any] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1300, "height": 900}, bypass_csp=True)
        for folder in (many, long):
            server = start(folder)
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.add_init_script(f"({WATCH})()")
            num_runs = len(list(folder.iterdir()))
            context.request.get(server.login, max_redirects=0)
            if folder == many:
                results["list"] = opened(page, server.address, f"{ROWS} > 0", f"{ROWS} === {num_runs}")
                page.wait_for_selector("main:not([aria-busy])")
                sort = ("document.getElementById('sort-{}').click()", f"{ROWS} === {num_runs}")
                results["sort"] = measured(page, [(sort[0].format(name), sort[1]) for name in ("bits", "started")])
                filters = [(FILTER.format("run-01"), f"{ROWS} === 10"), (FILTER.format(""), f"{ROWS} === {num_runs}")]
                results["filter"] = measured(page, filters)
                run = ("location.hash = '#/run/run-100'", IS_SHOWN)
                results["open a run"] = measured(page, [run, ("location.hash = '#/'", f"{ROWS} === {num_runs}")])
            else:
                address = f"{server.address}#/run/{next(folder.iterdir()).name}"
                shown = "document.querySelector('.part-chart canvas')"
                results["long run"] = opened(page, address, shown, IS_SHOWN)
                page.wait_for_selector("main:not([aria-busy])")
                reset = "[...document.querySelectorAll('button')].find((one) => one.textContent === 'Show all')"
                old = "window.old = document.querySelector('.part-chart canvas');"
                is_new = "document.querySelector('.part-chart canvas') !== window.old"
                steps = [(f"{old} {KEY}", is_new), (f"{old} {reset}.click()", is_new)]
                results["zoom the long run"] = measured(page, steps)
                results["longest frame while the cursor moves"] = page.evaluate(FRAMES)
            page.close()
            server.stop()
        browser.close()
    return results
