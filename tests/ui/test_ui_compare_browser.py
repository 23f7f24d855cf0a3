"""The compare pane in a real browser: side by side, stopped, differing, coloured by probability, voted, shared."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import MARKS, ROOT, choose, complaints_of, served

pytestmark = MARKS


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with fake engines that do what a question says (`paced_page.py`)."""
    flags = f"--engine fake --model fake:0.6 --also fake:0.1 --runs {tmp_path_factory.mktemp('compare') / 'runs'}"
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    with served("tests/ui/paced_page.py", *flags.split(), settings=path) as url:
        yield url


@pytest.fixture(scope="module")
def tiny_address(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[str]:
    """The page with a model whose tokens have probabilities."""
    flags = f"--engine hf --device cpu --dtype float32 --model {tiny_model}"
    with served("ui.py", *flags.split(), "--runs", str(tmp_path_factory.mktemp("tiny") / "runs")) as url:
        yield url


class Comparison:
    """The compare pane in one browser page, and what went wrong in it."""

    def __init__(
        self, browser: Any, address: str, query: str = "?tab=compare", width: int = 1200, **how: Any
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **how)
        self.page = self.context.new_page()
        self.complaints = complaints_of(self.page)
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address + "/" + query)
        self.page.locator("#compare-a-system", has_text="System").wait_for()
        self.address = address

    def __enter__(self) -> "Comparison":
        return self

    def __exit__(self, kind: Any, *raised: object) -> None:
        if kind is None:
            assert self.complaints == []
            own = (f"{self.address}/", "data:", "blob:")
            assert [url for url in self.requests if not url.startswith(own)] == []
        self.context.close()

    def on(self, name: str) -> Any:
        return self.page.locator(f"#compare-{name}")

    def ask(self, words: str) -> None:
        """Ask all by the keyboard."""
        box = self.on("question").locator("textarea")
        box.fill(words)
        box.press("Control+Enter")

    def show(self, way: str) -> None:
        self.on("view").locator("label", has_text=way).click()

    def decode(self, pane: str, way: str) -> None:
        if not self.on(f"{pane}-way").is_visible():
            self.on(f"{pane}-decoding").locator("button").first.click()
        self.on(f"{pane}-way").locator("label", has_text=way).click()


def test_answers_come_side_by_side_and_one_is_stopped(browser: Any, address: str) -> None:
    with Comparison(browser, address) as now:
        now.ask("forever")
        for pane in "ab":
            now.on(f"{pane}-answer").locator(".answer", has_text="word3").wait_for()
            assert now.on(f"{pane}-stop").is_enabled() and now.on(f"{pane}-retry").is_disabled()
        now.on("a-stop").click()
        now.on("a-status").get_by_text("stopped").wait_for(timeout=10_000)
        stopped = now.on("a-answer").inner_text()
        before = now.on("b-answer").inner_text()
        time.sleep(0.5)
        assert now.on("a-answer").inner_text() == stopped
        assert len(now.on("b-answer").inner_text()) > len(before), "the other goes on"
        assert now.on("a-retry").is_enabled()
        now.on("question").locator("textarea").press("Escape")
        now.on("b-status").get_by_text("stopped").wait_for(timeout=10_000)
        now.page.locator("#live", has_text="Pane B: stopped").wait_for(state="attached")


def test_one_pane_fails_and_is_asked_again(browser: Any, address: str) -> None:
    with Comparison(browser, address) as now:
        now.ask("broken 12 + 7")
        now.on("b-status").get_by_text("Failed: the connection was cut").wait_for()
        now.on("a-answer").get_by_text("The answer is").wait_for()
        now.on("question").locator("textarea").fill("What is 1 + 1?")
        now.on("b-retry").click()
        now.on("b-answer").get_by_text("The answer is").wait_for()
        assert "Failed" not in now.on("b-status").inner_text()


def test_differences_are_marked_and_texts_are_kept(browser: Any, address: str) -> None:
    with Comparison(browser, address) as now:
        now.show("Differences from A")
        for pane, name in (("a", "arithmetic-terse"), ("b", "arithmetic-steps")):
            choose(now.page, f"#compare-{pane}-prompt", name)
        now.ask("recite")
        now.on("b-answer").locator("ins").first.wait_for()
        kept = (
            now.on("b-answer")
            .locator(".answer")
            .evaluate("e => [...e.childNodes].filter(n => n.nodeName !== 'DEL').map(n => n.textContent).join('')")
        )
        assert now.on("b-answer").locator("del").first.evaluate("e => getComputedStyle(e).textDecorationLine") == (
            "line-through"
        )
        assert "underline" in now.on("b-answer").locator("ins").first.evaluate(
            "e => getComputedStyle(e).textDecorationLine"
        )
        now.show("Answers")
        now.on("b-answer").locator("ins").first.wait_for(state="detached")
        assert now.on("b-answer").locator(".answer").evaluate("e => e.textContent") == kept


def test_hostile_text_stays_text_in_every_view(browser: Any, address: str) -> None:
    with Comparison(browser, address) as now:
        now.ask("hostile")
        for way in ("Answers", "Differences from A", "Show probabilities"):
            now.show(way)
            now.on("b-answer").get_by_text("${document.title='owned'}").wait_for()
            assert "{{7*7}}" in now.on("b-answer").inner_text()
            assert (
                now.page.locator("#compare :is(.answer, .votes) :is(script, img, a, iframe, style)").count() == 0
            )
        assert now.on("a-answer").locator(".answer").evaluate("e => e.textContent").startswith("  two\n\ttab ")
        assert now.page.title() == "LLM workbench"


def test_tokens_by_keyboard_and_going_on_from_an_alternative(browser: Any, tiny_address: str) -> None:
    with Comparison(browser, tiny_address) as now:
        for pane in "ab":
            now.decode(pane, "Greedy")
            now.on(f"{pane}-max-tokens").locator("input").fill("12")
        now.show("Show probabilities")
        now.ask("What is 12 plus 7?")
        tokens = now.on("a-answer").locator("[data-token]")
        tokens.first.wait_for()
        now.on("b-answer").locator("[data-token]").first.wait_for()
        assert re.fullmatch(r"[\d.]+ %", tokens.first.get_attribute("title"))
        assert tokens.first.get_attribute("aria-label").endswith(" %")
        assert now.on("a-answer").locator("[tabindex='0']").count() == 1, "one stop for the Tab key"
        tokens.first.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            now.page.keyboard.press(key)
        assert now.page.evaluate("document.activeElement.dataset.token") == "1"
        now.page.keyboard.press("Enter")
        now.on("a-beside").get_by_text("Token 2").wait_for()
        assert now.page.evaluate("document.activeElement.dataset.token") == "1", "the focus stays"
        choices = now.on("a-beside").locator("button")
        other = choices.nth(1).locator("code").inner_text()
        choices.nth(1).click()
        now.on("a-status").get_by_text("beginning was given").wait_for()
        tokens.nth(2).wait_for()
        texts = tokens.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
        assert "".join(t.rpartition(",")[0] for t in texts[:3]).find(other) >= 0


def test_eight_samples_a_target_and_the_address_in_another_browser(browser: Any, address: str) -> None:
    with Comparison(browser, address) as now:
        now.on("tasks").locator("button").first.click()
        choose(now.page, "#compare-task", "arithmetic")
        now.on("number").locator("input").fill("3")
        now.on("take").click()
        now.on("target").get_by_text("Question 3 of 100").wait_for()
        words = now.on("question").locator("textarea").input_value()
        assert words.startswith("What is ")
        now.decode("a", "Majority vote")
        now.on("a-n").wait_for()
        now.page.wait_for_url(re.compile(r"a=[0-9a-f]{16}~question~vote~0\.7~8~256"))
        now.on("question").locator("textarea").press("Control+Enter")
        now.on("a-votes").locator("caption", has_text="Votes of 8 samples").wait_for()
        shares = [int(found) for found in re.findall(r"(\d+) of 8 \(", now.on("a-votes").inner_text())]
        assert sum(shares) == 8 and "wins" in now.on("a-votes").inner_text()
        now.on("a-votes").locator("summary").click()
        assert now.on("a-votes").locator("li:visible").count() == 8
        assert re.search("✓ right|✗ wrong", now.on("b-status").inner_text())
        assert "Target:" not in now.page.content()
        now.on("reveal").click()
        now.on("target").get_by_text(re.compile(r"Target: -?\d+")).wait_for()
        shared = now.page.url.removeprefix(f"{address}/")
    with Comparison(browser, address, shared) as then:
        then.page.wait_for_function(
            "words => document.querySelector('#compare-question textarea').value === words", arg=words
        )
        then.on("a-system").get_by_text("8 samples that vote").wait_for()
        assert then.on("a-answer").inner_text().strip() == "", "nothing runs by itself"
        assert then.page.url.removeprefix(f"{address}/") == shared
        then.on("ask").click()
        then.on("a-votes").locator("caption").wait_for()


def test_panes_are_added_and_removed(browser: Any, address: str) -> None:
    with Comparison(browser, address) as now:
        for pane in "cd":
            now.on("add").click()
            now.on(f"pane-{pane}").wait_for()
        assert now.on("add").is_disabled()
        now.ask("What is 1 + 1?")
        for pane in "abcd":
            now.on(f"{pane}-answer").get_by_text("The answer is").wait_for()
        now.on("remove").click()
        now.on("pane-d").wait_for(state="detached")
        now.page.wait_for_url(lambda url: "&c=" in url and "&d=" not in url)


def test_narrow_screens_show_one_pane_at_a_time_and_all_go_on(browser: Any, address: str) -> None:
    with Comparison(browser, address, width=390) as now:
        assert now.on("pane-a").is_visible() and not now.on("pane-b").is_visible()
        assert now.page.locator("#compare-which label:visible").count() == 2
        now.page.locator("#compare-show-a").focus()
        now.page.keyboard.press("ArrowRight")
        now.on("pane-b").wait_for()
        assert not now.on("pane-a").is_visible()
        now.ask("What is 1 + 1?")
        now.on("b-answer").get_by_text("The answer is").wait_for()
        now.page.locator("#compare-show-b").focus()
        now.page.keyboard.press("ArrowLeft")
        now.on("a-answer").get_by_text("The answer is").wait_for()
        assert now.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_serious(browser: Any, address: str, tiny_address: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def serious(now: Comparison) -> list[tuple[str, str]]:
        found = axe.run(now.page, context="#compare").response["violations"]
        return [
            (one["id"], node["html"][:200])
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    with Comparison(browser, address, width=width, color_scheme=scheme) as now:
        now.on("tasks").locator("button").first.click()
        now.decode("a", "Majority vote")
        now.ask("What is 12 + 7?")
        now.on("a-votes").locator("summary").click()
        now.show("Differences from A")
        time.sleep(0.5)
        assert serious(now) == []
    with Comparison(browser, tiny_address, width=width, color_scheme=scheme) as now:
        now.decode("a", "Greedy")
        now.on("a-max-tokens").locator("input").fill("12")
        now.ask("What is 12 plus 7?")
        now.show("Show probabilities")
        now.on("a-answer").locator("[data-token]").nth(1).click()
        now.on("a-beside").locator("button").first.wait_for()
        assert serious(now) == []
