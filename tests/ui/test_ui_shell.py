"""What the panes share: text as HTML, the address, who looks at the page; and the tabs in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pages import MARKS, served
from test_report import HOSTILE

from workbench.ui.shell import COOKIE, asked, html, line, query, said, visitor


def request(cookie: str = "", address: str = "") -> Any:
    fields = dict(pair.split("=") for pair in address.split("&") if pair)
    return SimpleNamespace(cookies={COOKIE: cookie} if cookie else {}, query_params=fields)


def test_text_becomes_html_that_shows_it_as_it_is() -> None:
    for made in (html(HOSTILE), line(HOSTILE), said(HOSTILE)):
        assert "&lt;script&gt;" in made and "<script" not in made
        assert "⟨U+0000⟩" in made and "⟨U+202E⟩" in made and "⟨U+D800⟩" in made
        made.encode()
    assert html(" a\n\tb") == " a\n\tb"
    assert line("") == ""
    assert line("no", problem=True) == "<p class=problem>no</p>"


def test_a_visitor_is_told_by_the_cookie_alone() -> None:
    one, other = visitor(request("0" * 32)), visitor(request("1" * 32))
    assert one != other and one == visitor(request("0" * 32))
    assert "0" * 32 not in one, "the name does not give the cookie away"


@pytest.mark.parametrize("cookie", ["", "../../etc", "0" * 31, "0" * 33, "0" * 31 + "g", "0" * 32 + "\n"])
def test_no_other_cookie_is_a_visitor(cookie: str) -> None:
    with pytest.raises(PermissionError):
        visitor(request(cookie))
    with pytest.raises(PermissionError):
        visitor(None)


def test_the_address_holds_what_it_is_given() -> None:
    assert query("chat") == "?tab=chat"
    assert (
        query("compare", {"q": "2 + 2 = ?&x", "n": 8, "a": "", "b": None})
        == "?tab=compare&q=2+%2B+2+%3D+%3F%26x&n=8"
    )
    assert query("chat", {"q": "\ud800"}) == "?tab=chat&q=%3F", "half a character has no bytes"
    assert asked(request(address="tab=runs&run=a")) == {"tab": "runs", "run": "a"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs: Path = tmp_path_factory.mktemp("shell") / "runs"
    with served("ui.py", "--engine", "fake", "--model", "fake", "--runs", str(runs)) as url:
        yield url


class TestInABrowser:
    pytestmark = MARKS

    def test_tabs_are_in_the_address_and_back_from_it(self, browser: Any, address: str) -> None:
        page = browser.new_page()
        page.goto(address)
        for name in ("Runs", "Chat"):
            page.get_by_role("tab", name=name, exact=True).click()
            page.wait_for_url(f"{address}/?tab={name.lower()}")
        page.goto(f"{address}/?tab=runs")
        page.locator("[role=tab][aria-selected=true]", has_text="Runs").wait_for()
        page.goto(f"{address}/?tab=<script>alert(1)</script>")
        page.locator("[role=tab][aria-selected=true]", has_text="Chat").wait_for()
        page.close()

    def test_there_is_one_live_region_and_it_is_polite(self, browser: Any, address: str) -> None:
        page = browser.new_page()
        page.goto(address)
        page.locator("#live [role=status]").wait_for(state="attached")
        regions = page.locator("[aria-live], [role=status], [role=alert], [role=log]")
        own, gradios = regions.nth(0), regions.nth(1)  # Gradio's is for its toasts, of which there are none
        assert regions.count() == 2 and gradios.inner_text() == ""
        assert own.get_attribute("aria-live") == "polite"
        page.close()

    @pytest.mark.parametrize("width", [390, 1280])
    def test_tabs_by_keyboard_and_nothing_sticks_out(self, browser: Any, address: str, width: int) -> None:
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(address)
        page.locator("#chat-model input:enabled").wait_for()  # what a visit opens with has come: it moves the tabs
        page.get_by_role("tab", name="Chat", exact=True).focus()
        for key, shown in (("End", -1), ("ArrowRight", 0), ("ArrowLeft", -1), ("Home", 0), ("ArrowRight", 1)):
            page.keyboard.press(key)
            tabs = page.locator("[role=tab]:visible")
            at = shown % tabs.count()
            page.wait_for_function(
                "i => [...document.querySelectorAll('[role=tab]')].filter(t => t.offsetParent)[i] === "
                "document.activeElement && document.activeElement.getAttribute('aria-selected') === 'true'",
                arg=at,
            )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
