"""The arena in a real browser: ten votes by keys, the standings, the export, narrow screens, axe, hostile text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import MARKS, ROOT, complaints_of, served

from workbench.preferring.pairs import read_pairs
from workbench.preferring.votes import read_votes

pytestmark = MARKS

MODELS = ("--engine", "fake", "--model", "fake:0.4", "--also", "fake:0.8")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served("ui.py", *MODELS, "--runs", str(tmp_path_factory.mktemp("arena") / "runs")) as url:
        yield url


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    complaints = complaints_of(opened)
    yield opened
    assert complaints == []
    context.close()


def opened(page: Any, address: str, fields: str = "&task=arithmetic") -> None:
    page.goto(f"{address}/?tab=arena{fields}")
    page.locator("#arena-start").wait_for()
    page.locator("#arena-standings h3").wait_for()


def round_by_key(page: Any) -> None:
    page.keyboard.press("n")
    page.locator("#arena-left:not([disabled])").wait_for()


def voted(page: Any, count: int) -> None:
    page.locator("#arena-line", has_text="Vote kept").wait_for()
    page.locator("#arena-standings", has_text=f"{count} vote").wait_for()
    page.locator("#arena-left[disabled]").wait_for()


def saved(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as coming:
        page.locator(button).click()
    file = folder / coming.value.suggested_filename
    coming.value.save_as(file)
    return file


def test_ten_votes_by_keys_their_standings_and_their_export(page: Any, address: str, tmp_path: Path) -> None:
    opened(page, address)
    assert page.locator("#arena-source input[value=arithmetic]").is_checked()
    keys = ["1", "2", "3", "4", "ArrowLeft", "ArrowRight", "1", "2", "1", "2"]
    words = ["left", "right", "tie", "both bad", "left", "right", "left", "right", "left", "right"]
    for count, key in enumerate(keys, start=1):
        round_by_key(page)
        assert page.locator(".arena-side").count() == 2 and page.locator(".arena-name").count() == 0
        assert page.locator("#live").inner_text() == "Both answers are there. Which is better?"
        page.keyboard.press(key)
        voted(page, count)
        assert page.locator(".arena-name code").count() == 2
    assert page.locator("#arena-standings tbody tr").count() == 2
    assert page.locator("#arena-standings caption").inner_text() == "By strength"
    assert "10 votes counted" in page.locator("#arena-standings").inner_text()

    votes = saved(page, "#arena-save-votes", tmp_path)
    assert [json.loads(line)["vote"] for line in votes.read_text(encoding="utf-8").splitlines()] == words
    pairs, counts, bias = read_votes(votes)
    assert counts["votes"] == 10 and counts["ties"] == 1 and counts["votes against both"] == 1
    exported = read_pairs(saved(page, "#arena-save-pairs", tmp_path))
    assert [(p.chosen, p.rejected) for p in exported] == [(p.chosen, p.rejected) for p in pairs]
    left = f"The left answer won {100 * bias['first_preferred']['value']:.0f} %"
    assert f"{left} " in page.locator("#arena-standings").inner_text()

    command = page.locator("#arena-command textarea").input_value()
    found = re.fullmatch(r"workbench dpo --pairs (\S+)", command)
    assert found and [(p.chosen, p.rejected) for p in read_pairs(found[1])] == [
        (p.chosen, p.rejected) for p in pairs
    ]

    round_by_key(page)
    page.reload()  # in the middle of a round: the round is lost, the votes stay
    page.locator("#arena-standings", has_text="10 votes counted").wait_for()
    assert page.locator("#arena-left").is_disabled() and page.locator(".arena-side").count() == 0
    round_by_key(page)
    page.keyboard.press("3")
    voted(page, 11)


def test_keys_are_for_this_pane_and_no_text(page: Any, address: str) -> None:
    opened(page, address, "")
    page.locator("#arena-own textarea").fill("What is 1 + 1?")
    page.locator("#arena-start").click()
    page.locator("#arena-left:not([disabled])").wait_for()
    page.locator("#arena-own textarea").press("1")
    assert page.locator("#arena-own textarea").input_value().endswith("1")
    page.locator("#arena-own textarea").blur()
    page.locator("#arena-keys input").uncheck()
    page.keyboard.press("1")
    page.locator("#arena-keys input").check()
    page.keyboard.press("Control+1")
    page.get_by_role("tab", name="Chat").click()
    page.locator("h2, #chat-question").first.wait_for()
    page.locator("body").press("1")
    page.get_by_role("tab", name="Arena").click()
    page.locator("#arena-left").wait_for()
    page.wait_for_timeout(500)
    assert not page.locator("#arena-left").is_disabled(), "none of these was a vote"
    page.locator("#arena-tie").click()
    voted(page, 1)
    assert page.evaluate("document.activeElement.id") == "arena-start"


def test_what_is_chosen_is_in_the_address(page: Any, address: str) -> None:
    opened(page, address, "&task=nothing&players=evil,%3Cb%3E")
    assert page.locator("#arena-players input:checked").count() == 2
    assert page.locator("#arena-own").is_visible()
    page.locator("#arena-source label", has_text="phrasebank").click()
    page.wait_for_url(re.compile("task=phrasebank"))
    page.locator("#arena-own").wait_for(state="hidden")
    page.reload()
    page.locator("#arena-source input[value=phrasebank]:checked").wait_for()
    page.locator("#arena-players input").first.uncheck()
    page.locator("#arena-line", has_text="Choose two models or more").wait_for()
    page.locator("#arena-start").click()
    page.locator("#arena-line .problem").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_narrow_screens_and_axe(browser: Any, address: str, scheme: Any, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    opened(page, address)

    def serious() -> list[str]:
        # A button that is being switched on is, on its way, in neither state's colours.
        page.evaluate("""() => Promise.allSettled(document.getAnimations()
            .filter((one) => one instanceof CSSTransition).map((one) => one.finished)).then(() => null)""")
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        return [
            f"{one['id']}: {node['html'][:160]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def fits() -> bool:
        return bool(page.evaluate("document.documentElement.scrollWidth") <= width)

    assert serious() == [] and fits()
    round_by_key(page)
    assert serious() == [] and fits()
    page.keyboard.press("1")
    voted(page, 1)
    assert serious() == [] and fits()
    boxes = [page.locator(".arena-side").nth(i).bounding_box() for i in (0, 1)]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1200), "side by side, or one under the other"
    context.close()


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs, tests = tmp_path_factory.mktemp("paced") / "runs", str(ROOT / "tests")
    with served("tests/ui/paced_page.py", *MODELS, "--runs", str(runs), settings={"PYTHONPATH": tests}) as url:
        yield url


def test_hostile_text_is_text(page: Any, paced: str) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    opened(page, paced, "")
    evil = (
        "  two\n\ttab {{7*7}} ${document.title='owned'} <img src=x onerror=alert(1)> ![x](http://evil.example/x)"
    )
    page.locator("#arena-own textarea").fill(f"recite {evil}")
    page.locator("#arena-start").click()
    page.locator("#arena-left:not([disabled])").wait_for()
    for side in page.locator(".arena-side .exact").all():
        assert side.inner_text() == f"user: recite {evil}"
    assert evil in page.locator("#arena-question").inner_text()
    page.locator("#arena-left").click()
    voted(page, 1)
    assert page.locator("#arena-question img, #arena-answers img").count() == 0
    # Its words hold half a character, which no model reads and no file of pairs has.
    page.locator("#arena-own textarea").fill("hostile")
    page.locator("#arena-start").click()
    page.locator("#arena-line", has_text="answered with no readable text").wait_for()
    assert page.title() == "LLM workbench"
    assert [url for url in requests if not url.startswith((f"{paced}/", "data:", "blob:"))] == []


def test_stop_drops_the_round(page: Any, paced: str) -> None:
    opened(page, paced, "")
    page.locator("#arena-own textarea").fill("forever")
    page.locator("#arena-start").click()
    page.locator("#arena-line", has_text=re.compile("Both models are answering: [1-9] s")).wait_for()
    assert "word" not in page.locator("#arena-answers").inner_text(), "nothing before both have ended"
    assert page.locator("#arena-left").is_disabled() and page.locator("#arena-start").is_disabled()
    page.locator("#arena-stop").click()
    page.locator("#arena-line", has_text="Stopped: the round is dropped.").wait_for(timeout=10_000)
    assert page.locator("#arena-left").is_disabled() and page.locator("#arena-start").is_enabled()
