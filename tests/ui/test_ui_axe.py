"""Every tab through axe, with content, light and dark, wide and narrow; and nothing comes from outside."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import MARKS, ROOT, served

pytestmark = MARKS

MODELS = ("--engine", "fake", "--model", "fake", "--also", "fake:0.9")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("axe") / "runs"
    flags = "--engine fake --model fake --questions 12 --rungs zero-shot majority-vote --quiet --name a-ladder"
    subprocess.run(
        [sys.executable, "-m", "recipes", "ladder", *flags.split(), "--runs", str(root)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with served("ui.py", *MODELS, "--start-recipes", "--runs", str(root)) as url:
        yield url


def chat(page: Any) -> None:
    page.wait_for_function("document.querySelector('#chat-model input')?.value")
    page.locator("#chat-question textarea").fill("What is 2 + 3?")
    page.locator("#chat-send").click()
    page.locator("#chat-view .assistant", has_text="The answer is").wait_for()


def compare(page: Any) -> None:
    page.wait_for_function("document.querySelector('#compare-b-model input')?.value")
    page.locator("#compare-question textarea").fill("What is 2 + 3?")
    page.locator("#compare-ask").click()
    page.locator("#compare-a-answer", has_text="The answer is").wait_for()
    page.locator("#compare-b-answer", has_text="The answer is").wait_for(state="attached")


def arena(page: Any) -> None:
    page.locator("#arena-own textarea").fill("What is 2 + 3?")
    page.locator("#arena-start").click()
    page.locator("#arena-left:not([disabled])").click()
    page.locator("#arena-standings table").wait_for()


def runs(page: Any) -> None:
    page.locator("#runs-list a", has_text="a-ladder").click()
    page.locator("#runs-head h2", has_text="a-ladder").wait_for()


def recipes(page: Any) -> None:
    page.locator("#recipes-name").select_option("majority_vote")
    page.locator("#recipes-form h2", has_text="majority_vote").wait_for()


PANES = {"chat": chat, "compare": compare, "arena": arena, "runs": runs, "recipes": recipes}
"""What is done in each tab, so that there is something in it."""


def findings(page: Any) -> list[str]:
    """What axe calls serious or critical: the rule, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    told = axe.Axe().run(page).response["violations"]
    grave = [one for one in told if one["impact"] in ("serious", "critical")]
    return [
        f"{one['id']}: {node['html'][:160]} {node.get('failureSummary', '')}"
        for one in grave
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("pane", PANES)
def test_axe_finds_nothing_serious(browser: Any, address: str, pane: str) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
        page = context.new_page()
        page.set_viewport_size({"width": 1200, "height": 900})
        page.goto(f"{address}/?tab={pane}")
        page.locator("#chat-model input").wait_for(state="attached")
        page.wait_for_function("document.querySelector('#chat-model input').value")
        assert findings(page) == [], f"{scheme}, empty"
        PANES[pane](page)
        for width in (1200, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(500)
            assert findings(page) == [], f"{scheme}, {width} px"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (
                f"{scheme}, {width} px: too wide"
            )
        context.close()


def test_nothing_is_loaded_from_outside(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: problems.append(f"{request.url}: {request.failure}"))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    # With the network off: what is not this machine's does not answer.
    context.route(lambda url: not url.startswith((f"{address}/", "data:", "blob:")), lambda route: route.abort())
    page.goto(address)
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(300)
    page.goto(f"{address}/?tab=chat")
    chat(page)
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((f"{address}/", "data:", "blob:"))] == []
    assert [problem for problem in problems if "ERR_ABORTED" not in problem] == []
    assert page.evaluate(
        "document.fonts.size === 0 || [...document.fonts].every((font) => font.status !== 'error')"
    )
    context.close()


def test_the_whole_page_is_installed_with_it(address: str) -> None:
    """Fonts, scripts and styles: no file of the package or of the page names another place to load from."""
    import re

    import httpx

    html = httpx.get(address).text
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?:https?:)?//([^/\"']+)", html)
    assert loaded == []
    for file in (*Path(ROOT, "workbench", "ui").glob("*.css"), *Path(ROOT, "workbench", "ui").glob("*.js")):
        assert not re.search(
            r"@import|url\(\s*[\"']?https?:|from\s+[\"']https?:", file.read_text(encoding="utf-8")
        )
