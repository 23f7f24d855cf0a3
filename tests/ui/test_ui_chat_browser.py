"""The chat in a real browser: a streamed answer, Stop, Clear, and hostile text that stays text."""

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pages import MARKS, ROOT, served

pytestmark = MARKS


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with a fake engine that is slow and hostile (`slow_page.py`)."""
    flags = f"--engine fake --model fake --runs {tmp_path_factory.mktemp('chat') / 'runs'}"
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    with served("tests/ui/slow_page.py", *flags.split(), settings=path) as url:
        yield url


def bubbles(page: Any) -> list[str]:
    """The texts of the conversation, as they are seen."""
    found: list[str] = page.locator("#talk .message").all_inner_texts()
    return found


@pytest.mark.parametrize("width", [390, 1280])
def test_a_conversation(browser: Any, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.get_by_role("tab", name="Chat").click()

    page.locator("#question textarea").fill("Go on")
    page.locator("#question textarea").press("Enter")
    page.locator("#talk .bot", has_text="word3").wait_for()  # while it is still coming
    assert page.locator("#send").is_disabled()
    page.locator("#question textarea").fill("typed meanwhile")
    page.locator("#stop").click()
    page.locator("#line", has_text="what came is kept").wait_for(timeout=1000)
    question, answer = bubbles(page)
    assert question == "Go on"
    assert re.fullmatch(r"word0 (word\d+ )+ ⟨stopped⟩", answer)
    time.sleep(0.3)
    assert bubbles(page) == [question, answer], "nothing comes after it was stopped"
    assert page.locator("#question textarea").input_value() == "typed meanwhile"
    assert page.locator("#stop").is_disabled()

    page.locator("#question textarea").fill("hostile <b>bold</b>\n  & `code`")
    page.locator("#send").click()
    page.locator("#line", has_text="tokens/s").wait_for()
    question, answer = bubbles(page)[2:]
    assert question == "hostile <b>bold</b>\n  & `code`"
    assert answer.startswith(
        "  two\n\ttab &lt; ![x](http://evil.example/x.png) **a** [l](javascript:alert(1)) ⟨U+001B⟩[31m <script>"
    )
    assert answer.endswith("⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩gnp.exe⟨U+D800⟩${document.title='owned'}")
    assert page.locator("#talk .message :is(img, script, a, iframe, b, strong, code, style, svg)").count() == 0
    assert page.title() == "LLM workbench"
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.locator("#clear").click()
    page.locator("#talk .message").first.wait_for(state="detached")
    assert complaints == []
    assert [url for url in requests if not url.startswith((f"{address}/", "data:"))] == []
    page.close()
