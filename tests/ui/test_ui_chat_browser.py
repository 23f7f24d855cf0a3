"""The chat in a real browser: streams, branches, personas, history, files, hostile text, keys, small screens."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from paced_page import ENDED, EVIL
from pages import MARKS, ROOT, choose, complaints_of, served

pytestmark = MARKS


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes the time at which each answer without end was ended."""
    return tmp_path_factory.mktemp("ended") / "times"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, ended: Path) -> Iterator[str]:
    """The page with a fake engine that does what the question says (`paced_page.py`)."""
    flags = f"--engine fake --model fake --also fake:0.1 --runs {tmp_path_factory.mktemp('chat') / 'runs'}"
    settings = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), ENDED: str(ended)}
    with served("tests/ui/paced_page.py", *flags.split(), settings=settings) as url:
        yield url


class Seen:
    """The page as a person has it, and what went wrong on it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints = complaints_of(page)
        self.requests: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.locator("#chat-model input").wait_for()
        self.page.wait_for_function("document.querySelector('#chat-model input').value != ''")

    def ask(self, words: str, answered: bool = True) -> None:
        box = self.page.locator("#chat-question textarea")
        box.fill(words)
        box.press("Enter")
        self.page.locator(".chat-said.user", has_text=words.splitlines()[0]).last.wait_for()
        if answered:
            self.idle()

    def idle(self) -> None:
        """Wait until no answer is on its way."""
        self.page.locator("#chat-send:enabled").wait_for()
        self.page.locator("#chat-coming .chat-said").wait_for(state="detached")

    def press(self, act: str, place: int = -1) -> None:
        self.page.locator(f"[data-act={act}]:visible").nth(place).click()

    def texts(self) -> list[str]:
        found: list[str] = self.page.locator("#chat-view .chat-text").all_inner_texts()
        return found

    def await_texts(self, *patterns: str) -> None:
        """Wait until the conversation's texts are these, as regular expressions."""
        for _ in range(600):
            found = self.texts()
            if len(found) == len(patterns) and all(map(re.fullmatch, patterns, found)):
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.texts()} is not {patterns}")

    def line(self, words: str) -> None:
        self.page.locator("#chat-line", has_text=words).wait_for()


@contextmanager
def opened(browser: Any, address: str, width: int = 1280, **settings: Any) -> Iterator[Seen]:
    """A visitor's browser at the chat; it ends with no complaint and nothing asked of other servers."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    seen = Seen(context.new_page())
    seen.open(address)
    yield seen
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith((f"{address}/", "data:", "blob:"))] == []
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_an_answer_streams_and_is_stopped(browser: Any, address: str, ended: Path, width: int) -> None:
    with opened(browser, address, width) as seen:
        page = seen.page
        seen.ask("forever", answered=False)
        page.locator("#chat-coming", has_text="word3").wait_for()
        assert page.locator("#chat-send").is_disabled()
        page.locator("#chat-question textarea").fill("typed meanwhile")
        before = time.time()
        page.locator("#chat-stop").click()
        seen.line("what came is kept")
        seen.idle()
        question, answer = seen.texts()
        assert question == "forever" and re.fullmatch(r"word0 (word\d+ )+", answer)
        assert "stopped" in page.locator(".chat-facts").inner_text()
        time.sleep(0.3)
        assert seen.texts() == [question, answer], "nothing comes after it was stopped"
        assert float(ended.read_text().split()[-1]) - before < 1, "the generation itself ended"
        assert page.locator("#chat-question textarea").input_value() == "typed meanwhile"
        assert page.locator("#live").inner_text() == "Answer stopped."
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width == 390:  # the lists beside it are folded, and it is below the model
            assert not page.locator("#chat-new").is_visible()
            page.get_by_role("button", name="Conversations").click()
            assert page.locator("#chat-new").is_visible() and page.locator("#chat-list li").is_visible()
            page.get_by_role("button", name="Conversations").press("Enter")
            assert not page.locator("#chat-new").is_visible()
            boxes = [page.locator(name).bounding_box() for name in ("#chat-model", "#chat-head", "#chat-question")]
            assert all(above["y"] + above["height"] <= below["y"] for above, below in pairwise(boxes))
        else:
            assert page.locator("#chat-new").is_visible()


def test_answers_and_questions_branch(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        seen.ask("a dog or a cat")
        seen.line("tokens (prompt + answer)")
        assert re.search(
            r"fake · System [0-9a-f]{16} · \d+ \+ \d+ tokens", page.locator(".chat-facts").inner_text()
        )
        assert page.locator("#live").inner_text().startswith("Answer finished, ")
        seen.press("again")
        page.locator(".chat-versions", has_text="2/2").wait_for()
        seen.idle()
        seen.ask("and then?")
        seen.press("earlier")
        page.locator(".chat-versions", has_text="1/2").wait_for()
        seen.await_texts("a dog or a cat", "The answer is .*")
        seen.press("later")
        seen.await_texts("a dog or a cat", "The answer is .*", r"and then\?", "The answer is .*")

        seen.press("edit", 0)
        editor = page.get_by_label("Edited question")
        assert editor.input_value() == "a dog or a cat"
        editor.fill("a bird")
        editor.press("Control+Enter")
        seen.await_texts("a bird", "The answer is .*")
        seen.idle()
        assert page.locator(".chat-versions").inner_text().split() == ["‹", "2/2", "›"]

        seen.press("edit")
        page.get_by_label("Edited answer").fill("  By\n\thand <b>")
        page.locator(".chat-editor button", has_text="Save").click()
        seen.await_texts("a bird", "  By\n\thand <b>")
        assert page.locator(".chat-facts").inner_text() == "Edited by hand"
        seen.press("edit")
        page.get_by_label("Edited answer").fill("never mind")
        page.get_by_label("Edited answer").press("Escape")
        assert page.locator(".chat-editor").count() == 0
        seen.ask("go on")
        seen.press("earlier", 0)
        seen.await_texts("a dog or a cat", "The answer is .*", r"and then\?", "The answer is .*")


def test_a_persona_with_its_variables_speaks(browser: Any, address: str, tmp_path: Path) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        page.get_by_role("button", name="Prompt and persona").click()
        choose(page, "#chat-persona", "tutor")
        role = page.get_by_label("role")
        role.wait_for()
        assert role.input_value() == "a patient tutor" and page.get_by_label("level").is_visible()
        assert not page.locator("#chat-system").is_visible()
        role.fill("a sailor")
        seen.ask("why?")
        assert "You are a sailor." in json.dumps(saved(seen, "jsonl", tmp_path))
        page.get_by_role("button", name="Sampling").click()
        page.get_by_label("Temperature").fill("2.5")
        page.locator("#chat-question textarea").fill("once more")
        page.locator("#chat-question textarea").press("Enter")
        seen.line("temperature is 2.5; it must be a number in [0, 2].")
        assert page.locator("#chat-question textarea").input_value() == "once more", "nothing typed is lost"


def saved(seen: Seen, act: str, folder: Path) -> Any:
    """A file that the page saves, read: JSON, or text."""
    with seen.page.expect_download() as waiting:
        seen.press(act)
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    data = path.read_bytes()
    return json.loads(data) if act == "jsonl" else data.decode()


def test_conversations_are_named_found_shared_with_nobody_and_deleted(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        seen.ask("Tell me about magnets")
        seen.press("rename")
        page.get_by_label("Name of the conversation").fill("Iron <b>")
        page.get_by_label("Name of the conversation").press("Enter")
        page.locator("#chat-head h2", has_text="Iron <b>").wait_for()
        link = page.url
        assert re.search(r"\?tab=chat&model=[0-9a-f]{16}&chat=[0-9a-f]{16}$", link)
        page.locator("#chat-new").click()
        page.locator("#chat-head h2", has_text="New conversation").wait_for()
        seen.ask("Bread")
        assert page.locator("#chat-list li").all_inner_texts() == ["Bread", "Iron <b>"]
        page.locator("#chat-search :is(input, textarea)").press_sequentially("MAGNETS")
        page.wait_for_function("document.querySelectorAll('#chat-list li').length == 1")
        page.locator("#chat-list button").click()
        seen.await_texts("Tell me about magnets", "The answer is .*")
        seen.open(link)
        seen.await_texts("Tell me about magnets", "The answer is .*")
        with opened(browser, address) as other:
            other.open(link)
            other.line("This conversation is not among yours")
            assert other.texts() == [] and other.page.locator("#chat-list li").count() == 0
        seen.press("delete")
        assert page.locator("[data-act=delete]").inner_text() == "Delete for good?"
        page.locator("#chat-question textarea").focus()
        assert page.locator("[data-act=delete]").inner_text() == "Delete", "it asks again after a look elsewhere"
        seen.press("delete")
        seen.press("delete")
        page.locator("#chat-head h2", has_text="New conversation").wait_for()
        assert page.locator("#chat-list li").all_inner_texts() == ["Bread"]


def test_hostile_text_is_text_and_is_saved_exactly(browser: Any, address: str, tmp_path: Path) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        seen.ask("hostile <b>bold</b>\n  & `code`\n${document.title='owned'} {{7*7}}")
        question, answer = seen.texts()
        assert question == "hostile <b>bold</b>\n  & `code`\n${document.title='owned'} {{7*7}}"
        assert answer.startswith(
            "  two\n\ttab &lt; ![x](http://evil.example/x.png) **a** [l](javascript:alert(1)) {{7*7}}"
        )
        assert answer.endswith("⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩gnp.exe⟨U+D800⟩${document.title='owned'}")
        inert = "img, script, a, iframe, b, strong, style, svg"
        assert page.locator(f":is(#chat-view, #chat-head, #chat-list) :is({inert})").count() == 0
        assert page.title() == "LLM workbench"
        assert saved(seen, "jsonl", tmp_path)["messages"][1]["content"] == EVIL
        assert EVIL.encode("utf-8", "backslashreplace").decode() in saved(seen, "markdown", tmp_path)
        seen.press("edit")
        assert page.get_by_label("Edited answer").evaluate("e => e.value") == EVIL, "not as it is spelled out"
        page.get_by_label("Edited answer").press("Escape")


def test_buttons_work_while_an_answer_is_drawn_again_and_it_can_be_deleted(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        seen.ask("forever", answered=False)
        page.locator("#chat-coming", has_text="word2").wait_for()
        page.locator("#chat-stop").click()
        seen.idle()
        seen.press("again")
        page.locator("#chat-coming", has_text="word2").wait_for()
        seen.press("rename")
        page.get_by_label("Name of the conversation").fill("Endless")
        page.get_by_label("Name of the conversation").press("Enter")
        page.locator("#chat-head h2", has_text="Endless").wait_for()
        page.locator("#chat-coming", has_text="word15").wait_for()
        assert page.locator("[data-act=again]").count() == 0, "it is on its way"
        seen.press("delete")
        seen.press("delete")
        page.locator("#chat-head h2", has_text="New conversation").wait_for()
        seen.idle()
        time.sleep(0.5)
        assert page.locator("#chat-line .problem").count() == 0 and page.locator("#chat-list li").count() == 0


def test_an_answer_that_ends_behind_another_tab_leaves_the_address_to_that(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        seen.ask("stamp of 30", answered=False)
        page.get_by_role("tab", name="Compare", exact=True).click()
        page.wait_for_url(re.compile(r"\?tab=compare"))
        page.locator("#live", has_text="Answer finished").wait_for(state="attached")
        time.sleep(0.5)
        assert "?tab=compare" in page.url
        page.get_by_role("tab", name="Chat", exact=True).click()
        page.wait_for_url(re.compile(r"\?tab=chat&model=[0-9a-f]{16}&chat=[0-9a-f]{16}$"))


def test_a_failed_answer_is_told_and_can_be_tried_again(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        choose(page, "#chat-model", "fake:0.1")
        page.wait_for_function("location.search.includes('model=')")
        seen.ask("broken", answered=False)
        seen.line("The answer failed and is not part of the conversation: the connection was cut")
        assert seen.texts() == ["broken"]
        seen.press("again")
        time.sleep(1)  # it ends as it began
        seen.idle()
        seen.line("the connection was cut")
        seen.ask("good")
        assert seen.texts()[0] == "good" and len(seen.texts()) == 2


def test_it_goes_by_keys_alone(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        page.locator("#chat-question textarea").focus()
        for key in ("f", "o", "r", "e", "v", "e", "r", "Shift+Enter", "x", "Enter"):
            page.keyboard.press(key)
        page.locator("#chat-coming", has_text="word2").wait_for()
        page.keyboard.press("Escape")
        seen.line("what came is kept")
        seen.idle()
        assert seen.texts()[0] == "forever\nx"
        assert page.evaluate("document.activeElement.closest('#chat-question') !== null"), "the box keeps focus"
        for _ in range(12):
            page.keyboard.press("Shift+Tab")
            if page.evaluate("document.activeElement.dataset?.act") == "again":
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        page.locator("#chat-coming", has_text="word2").wait_for()
        page.keyboard.press("Escape")
        page.locator(".chat-versions", has_text="2/2").wait_for()


def test_the_newest_text_stays_in_view_unless_one_looks_up(browser: Any, address: str) -> None:
    below = "(e => e.scrollHeight - e.scrollTop - e.clientHeight)(document.querySelector('#chat-scroll'))"
    with opened(browser, address) as seen:
        page = seen.page
        seen.ask("\n".join(["forever", *["line"] * 60, "forever"]), answered=False)
        page.locator("#chat-coming", has_text="word5").wait_for()
        assert page.evaluate(below) < 60
        page.evaluate("document.querySelector('#chat-scroll').scrollTop = 0")
        page.locator("#chat-coming", has_text="word20").wait_for()
        assert page.evaluate(below) > 200
        page.locator("#chat-stop").click()
        seen.idle()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(browser: Any, address: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    with opened(browser, address, width, color_scheme=scheme) as seen:
        seen.ask("one")
        seen.press("again")
        seen.page.locator(".chat-versions", has_text="2/2").wait_for()
        seen.idle()
        seen.page.get_by_role("button", name="Prompt and persona").click()
        seen.page.get_by_role("button", name="Sampling").click()
        seen.press("edit", 0)
        time.sleep(0.5)
        found = axe.Axe().run(seen.page).response["violations"]
        told = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"]]) for one in found]
        assert [one for one in told if one[1] in ("serious", "critical")] == []
