"""The recipes' pane in a real browser: a form, its command line, what is wrong, and a recipe from start to end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import MARKS, complaints_of, served

from workbench.run_folder import RunFolder, list_runs

pytestmark = MARKS

WAIT = 60_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "runs"


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with served("ui.py", "--engine", "fake", "--model", "fake", "--runs", str(runs), "--start-recipes") as url:
        yield url


def opened(browser: Any, url: str, width: int = 1200, scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    complaints = complaints_of(page)
    page.goto(url)
    page.locator("#recipes-list h2").wait_for(state="visible" if "tab=recipes" in url else "attached")
    return page, complaints


def command(page: Any, words: str) -> None:
    page.locator("#recipes-form .recipes-command code", has_text=words).wait_for()


def field(page: Any, name: str) -> Any:
    return page.locator(f'#recipes-form [name="{name}"]')


@pytest.mark.parametrize("width", [390, 1200])
def test_a_form_tells_its_command_line_and_what_is_wrong(
    browser: Any, address: str, runs: Path, width: int
) -> None:
    page, complaints = opened(browser, f"{address}/?tab=recipes", width)
    page.locator('#recipes-form [data-recipe="lora"]').click()
    command(page, f"workbench lora --runs {runs}")
    page.wait_for_url("**/?tab=recipes&recipe=lora")
    field(page, "rank").fill("16")
    command(page, f"workbench lora --runs {runs} --rank 16")
    field(page, "rank").fill("0")
    told = page.locator('[data-told="rank"]')
    told.filter(has_text="rank is 0; it must be a number in [1, 4096].").wait_for()
    assert field(page, "rank").get_attribute("aria-invalid") == "true"
    assert told.get_attribute("id") in str(field(page, "rank").get_attribute("aria-describedby"))
    assert page.evaluate("document.activeElement.name") == "rank", "the focus stays where one types"
    page.locator("#recipes-form [data-act=start]").click()
    page.locator(".recipes-summary", has_text="To be mended: rank.").wait_for()
    field(page, "rank").fill("4")
    command(page, "--rank 4")
    assert told.inner_text() == "" and field(page, "rank").get_attribute("aria-invalid") is None
    group = page.locator('#recipes-form details:has([name="dtype"])')
    assert group.get_attribute("open") is None
    group.locator("summary").click()
    field(page, "dtype").select_option("float32")
    field(page, "rslora").check()
    command(page, f"workbench lora --dtype float32 --runs {runs} --rank 4 --rslora")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#recipes-name").select_option("few_shot")
    command(page, "workbench few_shot")
    page.goto(f"{address}/?tab=recipes&recipe=<b>")
    page.locator("#recipes-form h2", has_text="What do you want to do?").wait_for()
    assert complaints == []
    page.close()


def test_a_recipe_is_started_followed_stopped_and_gone_on_with(browser: Any, address: str, runs: Path) -> None:
    page, complaints = opened(browser, f"{address}/?tab=recipes&recipe=ladder")
    for name, text in {
        "model": "fake", "rungs": "zero-shot\nmajority-vote", "task-args": "test=3000\nterms=3\nlargest_factor=99",
        "n": "24",
    }.items():  # fmt: skip
        if not field(page, name).is_visible():
            page.locator(f'#recipes-form details:has([name="{name}"]) summary').click()
        field(page, name).fill(text)
    field(page, "engine").select_option("fake")
    command(page, "--engine fake")
    page.locator("#recipes-form [data-act=start]").click()
    page.locator("#recipes-job h3", has_text="ladder: running").wait_for()
    page.locator("#live", has_text="Started: ladder.").wait_for(state="attached")
    page.locator("#recipes-log pre", has_text="zero-shot").wait_for()
    page.reload()  # the address says which job; it has gone on
    page.locator("#recipes-job h3", has_text="ladder: running").wait_for()
    page.locator("#recipes-job a", has_text="Its run").wait_for()
    [info] = list_runs(runs)
    assert info.state == "running"
    assert page.locator("#recipes-job a").get_attribute("href") == f"?tab=runs&run={info.id}"
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#recipes-job h3", has_text="interrupted").wait_for()
    page.locator("#live", has_text="interrupted").wait_for(state="attached")
    assert RunFolder(info.path).state == "interrupted"
    page.get_by_role("button", name="Go on", exact=True).click()
    page.locator("#recipes-job h3", has_text="ladder: running").wait_for()
    page.locator("#recipes-job h3", has_text="ladder: done").wait_for(timeout=4 * WAIT)
    page.locator("#recipes-log pre", has_text="Report:").wait_for()
    assert RunFolder(info.path).state == "done"
    assert page.locator("#recipes-list li").count() == 2
    assert page.locator("#recipes-stop:visible, #recipes-again:visible").count() == 0

    other, _ = opened(browser, f"{address}/?tab=recipes")  # another browser
    assert other.locator("#recipes-list li").count() == 0
    other.close()
    assert complaints == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "&recipe=dpo", "&recipe=serve"])
def test_axe_finds_nothing_serious(browser: Any, address: str, scheme: str, place: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page, _ = opened(browser, f"{address}/?tab=recipes{place}", scheme=scheme)
    if place:
        page.locator("#recipes-form form").wait_for()
        page.evaluate("document.querySelectorAll('#recipes-form details').forEach(d => { d.open = true; })")
    if place == "&recipe=dpo":
        field(page, "beta").fill("x")
        page.locator('[data-told="beta"]', has_text="not a number").wait_for()
    found = axe.run(page).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []
    page.close()
