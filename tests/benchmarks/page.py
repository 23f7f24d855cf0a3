"""The page in a real Chromium before a fake engine: how soon a word is seen, how soon Stop stops, how it loads.

The engine's words are the times at which they left it (`tests/ui/paced_page.py`), so that what is measured is the
page alone: the server's threads and event loop, the way to the browser, and the browser until its next frame.
"""

import re
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.table import Row, Skip

FIRST_WORD = 0.100
STOPPED = 1.0
SESSIONS = 20
WORDS = 20

PANES = {
    "chat": ("#chat-question textarea", "#chat-send", ("#chat-coming",)),
    "compare": ("#compare-question textarea", "#compare-ask", ("#compare-a-answer", "#compare-b-answer")),
}
"""Where a pane's question is typed, what asks it, and where its answers are seen."""

# Notes for each place when its first word was seen: the frame after the one in which it was put there. Words of
# before the question are of the answer before.
WATCH = """(places) => {
  window.firstWords = {};
  const look = () => places.forEach((place) => {
    const found = /t(\\d+\\.\\d+) /.exec(document.querySelector(place)?.textContent ?? '');
    if (!found || Number(found[1]) < window.asked || place in window.firstWords) return;
    window.firstWords[place] = null;
    requestAnimationFrame(() => setTimeout(() => {
      window.firstWords[place] = (performance.timeOrigin + performance.now()) / 1000 - Number(found[1]);
    }));
  });
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


def run(quick: bool = False) -> list[Row]:
    """First words in two panes, Stop, many sessions at once, weight and load."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or find_spec("playwright") is None or find_spec("gradio") is None:
        raise Skip("it needs gradio, playwright and Chromium")
    from playwright.sync_api import sync_playwright

    times = 5 if quick else 20
    with tempfile.TemporaryDirectory() as folder, _page(Path(folder)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        rows = [_loading(browser, url, 3 if quick else 7)]
        rows += [_first_word(browser, url, pane, times) for pane in PANES]
        rows.append(_stop(browser, url, Path(folder) / "ended", times))
        browser.close()
        return [*rows, _together(url)]


@contextmanager
def _page(folder: Path) -> Iterator[str]:
    from tests.ui.pages import ROOT, served

    models = ("--engine", "fake", "--model", "fake", "--also", "fake:0.9", "--runs", str(folder / "runs"))
    settings = {"PYTHONPATH": str(ROOT / "tests"), "PACED_ENDED": str(folder / "ended")}
    with served("tests/ui/paced_page.py", *models, settings=settings) as url:
        yield url


def _opened(browser: Any, url: str, pane: str) -> Any:
    page = browser.new_page()
    page.goto(f"{url}/?tab={pane}")
    box, ask, _ = PANES[pane]
    page.locator(box).wait_for()
    page.locator(f"{ask}:not([disabled])").wait_for()
    time.sleep(1)  # what else it loads; the heartbeat never ends
    return page


def _first_word(browser: Any, url: str, pane: str, times: int) -> Row:
    box, ask, places = PANES[pane]
    page = _opened(browser, url, pane)
    seen: list[float] = []
    page.evaluate(WATCH, list(places))
    for i in range(times):
        page.evaluate("(now) => { window.firstWords = {}; window.asked = now; }", time.time())
        page.locator(box).fill(f"stamp of 5, {i}")
        page.locator(ask).click()
        page.wait_for_function(
            "(n) => Object.values(window.firstWords).filter(Boolean).length === n", arg=len(places)
        )
        seen += page.evaluate("Object.values(window.firstWords)")
        page.locator(f"{ask}:not([disabled])").wait_for()
        time.sleep(0.5)  # the rest of the answer
    page.close()
    worst = max(seen)
    return Row(
        what=f"First word in the pane {pane} after the engine yields it, {times} questions, real Chromium",
        baseline="–",
        workbench=f"median {1000 * statistics.median(seen):.0f} ms, worst {1000 * worst:.0f} ms",
        result=f"{1000 * worst:.0f} ms",
        floor=f"≤ {1000 * FIRST_WORD:.0f} ms",
        checked=f"{len(seen)} first words painted",
        passed=worst <= FIRST_WORD and len(seen) == times * len(places),
    )


def _stop(browser: Any, url: str, ended: Path, times: int) -> Row:
    """From the click to both: the generation has ended in the engine, and the pane says so."""
    page = _opened(browser, url, "chat")
    took: list[float] = []
    for i in range(times):
        page.locator("#chat-question textarea").fill(f"forever {i}")
        page.locator("#chat-send").click()
        page.locator("#chat-coming", has_text="word3 ").wait_for()
        clicked = time.time()
        page.locator("#chat-stop").click()
        page.locator("#chat-line", has_text="Stopped").wait_for()
        said = time.time()
        while len(lines := ended.read_text(encoding="utf-8").split() if ended.exists() else []) <= i:
            time.sleep(0.01)
        took.append(max(said, float(lines[i])) - clicked)
        page.locator("#chat-send:not([disabled])").wait_for()
    page.close()
    return Row(
        what=f"Stop in the chat pane until the generation has ended and the pane says so, {times} times",
        baseline="–",
        workbench=f"median {statistics.median(took):.2f} s, worst {max(took):.2f} s",
        result=f"{max(took):.2f} s",
        floor=f"≤ {STOPPED:g} s",
        checked="the engine's generator was closed each time",
        passed=max(took) <= STOPPED,
    )


def _together(url: str) -> Row:
    """Each session is a visitor of its own; all ask at the same moment."""
    from tests.ui.clients import Client

    clients = [Client(url) for _ in range(SESSIONS)]
    for client in clients:
        client.load()
    first: list[float] = []
    took: list[float] = []
    words: list[int] = []
    start = threading.Barrier(SESSIONS)

    def ask(client: Client) -> None:
        start.wait()
        began = time.time()
        said, late = "", 0.0
        for event in client.trigger("chat-send", "click", {"chat-question": f"stamp of {WORDS}"}):
            found = re.findall(r"t(\d+\.\d{4}) ", str(event.get("output", {}).get("data")))
            if found and not late:
                late = time.time() - float(found[0])
            said = " ".join(found) if found else said
        first.append(late)
        took.append(time.time() - began)
        words.append(len(set(said.split())))

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    whole = sum(count == WORDS for count in words)
    ratio = max(took) / min(took) if len(took) == SESSIONS else float("inf")
    return Row(
        what=f"{SESSIONS} sessions ask at the same moment (HTTP clients, chat pane, answers of {WORDS} words)",
        baseline=f"fastest {min(took):.1f} s",
        workbench=f"slowest {max(took):.1f} s; latest first word {1000 * max(first):.0f} ms after its engine",
        result=f"{ratio:.2f} ×",
        floor="≤ 2 ×, none starved",
        checked=f"{whole} of {SESSIONS} heard the whole answer",
        passed=ratio <= 2 and whole == SESSIONS,
    )


def _loading(browser: Any, url: str, times: int) -> Row:
    """Each time a browser that has never seen the page."""
    interactive, usable, weights, counts = [], [], [], []
    for _ in range(times):
        context = browser.new_context()
        page = context.new_page()
        sizes: list[float] = []
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", lambda told, sizes=sizes: sizes.append(told["encodedDataLength"]))
        page.goto(url)
        page.locator("#chat-question textarea").wait_for()
        page.wait_for_function("document.querySelector('#chat-model input')?.value")
        usable.append(page.evaluate("performance.now()") / 1000)
        interactive.append(page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive") / 1000)
        time.sleep(1)  # what else it loads; the heartbeat never ends
        weights.append(sum(sizes) / 1e6)
        counts.append(len(sizes))
        context.close()
    return Row(
        what=f"The page's load with an empty cache, median of {times}",
        baseline="–",
        workbench=f"{statistics.median(weights):.2f} MB in {statistics.median(counts):.0f} requests; DOM "
        f"interactive after {statistics.median(interactive):.2f} s",
        result=f"first tab usable after {statistics.median(usable):.2f} s",
        floor="–",
        checked="the model's list is filled",
    )
