"""The pane of runs in a real browser: list, filters, a run followed live, two compared, hostile text, axe."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import MARKS, ROOT, choose, complaints_of, served
from test_report import HOSTILE, rung

from workbench.files import write_json
from workbench.runs import Run
from workbench.types import Status

EVIL = HOSTILE + "${document.title='owned'}"

pytestmark = MARKS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder, a pool and two runs by the fake engine, a run full of hostile text, and a damaged folder."""
    root = tmp_path_factory.mktemp("ui") / "runs"
    for recipe, flags in (
        ("ladder", "--model fake --questions 12 --rungs zero-shot majority-vote --name a-ladder"),
        ("pass_at_k", "--model fake --questions 8 --n 4 --name a-pool"),
        ("zero_shot", "--model fake --questions 40 --name one"),
        ("zero_shot", "--model fake:0.9 --questions 40 --name two"),
        ("zero_shot", "--model fake --questions 40 --split dev --name on-dev"),
    ):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "recipes",
                recipe,
                *flags.split(),
                *["--engine", "fake", "--quiet", "--runs"],
                root,
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    result = rung("x", [True, False, False] * 20, misses={Status.UNPARSABLE: 3}).result
    outcomes = tuple(
        replace(o, text=f"  two\n\ttab {EVIL}", answer=EVIL, target=EVIL, id=f"{o.id}{EVIL}")
        for o in result.outcomes
    )
    outcomes = (replace(outcomes[0], text="long " * 1000), *outcomes[1:])
    with Run.open(root, "lora", {"text": EVIL}, name="evil") as run:
        run.write_result(replace(result, outcomes=outcomes, notes=(EVIL,), task=EVIL))
        run.write_card("# A card\n" + EVIL.replace("\ud800", ""))
        run.log(step=1, loss=1.0, **{EVIL: 1.0})
        run.log(event=EVIL, step=1, reason=EVIL)
    (root / "<img src=x onerror=alert(1)>").mkdir()
    return root


@pytest.fixture(scope="module")
def address(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # Settings that would open the page to others, were they listened to.
    hostile = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
    flags = ["--engine", "fake", "--model", "fake"]
    log = tmp_path_factory.mktemp("log") / "log"
    with served("ui.py", "--runs", str(runs), *flags, settings=hostile, log=log) as url:
        yield url
    assert "(tick) didn't" not in log.read_text() and "workbench/ui/runs" not in log.read_text()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page on a desk's screen; what its console complains about fails the test."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints = complaints_of(page)
    yield page
    assert complaints == []
    page.close()


def see(page: Any, place: str, text: str) -> None:
    page.locator(f"#runs-{place}", has_text=text).wait_for()


def opened(page: Any, address: str, query: str) -> None:
    page.goto(f"{address}/?tab=runs&{query}")
    page.locator("#runs-head h2").wait_for()


def names(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#runs-list tbody th").all_inner_texts()]


def tab(page: Any, name: str) -> None:
    """Open one of the run's tabs; on narrow screens Gradio puts the last ones into a menu."""
    found = page.locator("#runs-tabs [role=tab]:visible", has_text=name)
    if not found.count():
        page.locator("#runs-tabs .overflow-menu > button:visible").click()
        found = page.locator("#runs-tabs .overflow-dropdown button", has_text=name)
    found.first.click()


def test_runs_are_found_opened_and_closed_by_keys(page: Any, address: str) -> None:
    page.goto(f"{address}/?tab=runs")
    see(page, "list", "of 6")
    assert set(names(page)) == {"a-ladder", "a-pool", "one", "two", "on-dev", "evil"}
    see(page, "left-out", "1 left out")
    row = page.locator("#runs-list tr", has_text="a-pool")
    assert "done" in row.inner_text() and "pass_at_k" in row.inner_text()
    page.locator("#runs-text input, #runs-text textarea").fill("lad")
    see(page, "list", "1 – 1 of 1")
    assert names(page) == ["a-ladder"]
    page.locator("#runs-text input, #runs-text textarea").fill("")
    see(page, "list", "of 6")
    choose(page, "#runs-recipe", "zero_shot")
    see(page, "list", "of 3")
    choose(page, "#runs-state", "failed")
    see(page, "list", "None of the 6 runs")
    choose(page, "#runs-state", "done")
    page.locator("#runs-list a", has_text="one").focus()
    page.keyboard.press("Enter")
    page.locator("#runs-head h2:focus", has_text="one").wait_for()
    assert page.url.endswith("?tab=runs&run=one")
    page.locator("#runs-close").press("Enter")
    page.locator("#runs-list a:focus").wait_for()
    assert len(names(page)) == 3, "the filter is as it was"


@pytest.mark.parametrize("width", [390, 1200])
def test_a_ladder_is_shown_and_its_questions_filtered(browser: Any, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    opened(page, address, "run=a-ladder")
    see(page, "progress", "2 of 2 rungs done.")
    table = page.locator("#runs-rungs table")
    assert [cell.split("\n")[0] for cell in table.locator("tbody th").all_inner_texts()] == [
        "zero-shot",
        "majority-vote",
    ]
    assert "of 12" not in table.inner_text()
    assert page.locator("#runs-cost svg.chart:visible").count() == 1
    assert page.locator("#runs-result .counts li").all_inner_texts()[0] == "9 correct"
    tab(page, "Questions")
    see(page, "questions", "1 – 12 of 12")
    page.locator("#runs-which label", has_text="wrong").click()
    see(page, "questions", "1 – 3 of 3")
    assert page.locator("#runs-questions article.wrong").count() == 3
    choose(page, "#runs-which-result", "majority-vote")
    see(page, "questions", "No question had this outcome")
    assert page.url.endswith("run=a-ladder&result=majority-vote")
    tab(page, "Compare with")
    choose(page, "#runs-other", "a-ladder/zero-shot")
    see(page, "pair", "a-ladder/zero-shot minus a-ladder/majority-vote")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    region = page.locator("#runs-pair .wide").first
    assert region.get_attribute("tabindex") == "0" and region.get_attribute("aria-label")
    page.close()


def test_pool_curves(page: Any, address: str) -> None:
    opened(page, address, "run=a-pool")
    see(page, "pool", "pass@k")
    assert page.locator("#runs-pool svg.chart:visible").count() == 1
    assert page.locator("#runs-pool tbody tr").count() == 3


def test_two_runs_are_compared_and_the_address_says_it_all(page: Any, address: str) -> None:
    opened(page, address, "run=one")
    tab(page, "Compare with")
    choose(page, "#runs-other", "two")
    see(page, "pair", "exact McNemar")
    assert page.locator("#runs-pair table").nth(1).locator("td").count() == 4, "the 2×2 table"
    total = int(page.locator("#runs-changed p").first.inner_text().split(" of ")[1])
    kinds = {}
    for kind in ("mended", "broken", "other"):
        page.locator(f"#runs-kind input[value={kind}]").click()
        page.wait_for_function(
            "kind => { const all = [...document.querySelectorAll('#runs-changed article')];"
            "return all.every(one => one.className.includes(kind)) }",
            arg=kind,
        )
        kinds[kind] = page.locator("#runs-changed article").count()
    assert sum(kinds.values()) == total and kinds["mended"] > kinds["broken"] > 0
    page.locator("#runs-kind input[value=mended]").click()
    page.locator("#runs-changed article.mended").first.wait_for()
    sides = page.locator("#runs-changed article").first.locator(".side").all_inner_texts()
    assert sides[0].startswith("one: wrong") and sides[1].startswith("two: correct")
    assert page.url.endswith("?tab=runs&run=one&with=two%2Fresult")

    page.goto("about:blank")
    page.goto(f"{address}/?tab=runs&run=one&with=two%2Fresult")
    see(page, "pair", "two minus one")
    page.goto(f"{address}/?tab=runs&run=one&with=on-dev")
    see(page, "pair", "split is 'test'")
    page.goto(f"{address}/?tab=runs&run=..%2F..%2Fetc")
    see(page, "message", "There is no run named '../../etc'")


def test_the_address_outlives_other_tabs(page: Any, address: str) -> None:
    opened(page, address, "run=one&with=two/result")
    page.get_by_role("tab", name="Chat").click()
    page.wait_for_url("**/?tab=chat*")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_url("**/?tab=runs&run=one&with=two%2Fresult")
    see(page, "pair", "two minus one")


def test_a_training_is_followed_live(page: Any, address: str, runs: Path) -> None:
    ready, on_to_20, on_to_40 = threading.Event(), threading.Event(), threading.Event()
    folder = runs / "live"

    def train() -> None:
        with Run.open(runs, "lora", {}, name="live") as run:
            (folder / "checkpoints" / "checkpoint-0").mkdir(parents=True)
            write_json(folder / "checkpoints" / "checkpoint-0" / "trainer_state.json", {"max_steps": 40})
            ready.set()
            for step in range(1, 41):
                {6: on_to_20, 21: on_to_40}.get(step, ready).wait(120)
                run.log(
                    step=step, loss=8.0 / step, learning_rate=0.001, tokens_per_second=100.0,
                    peak_memory_bytes=2**31, seconds=0.05,
                )  # fmt: skip
            run.write_result(rung("x", [True, False] * 10).result)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        ready.wait(10)
        opened(page, address, "run=live")
        see(page, "head", "running")
        see(page, "curves", "Loss")
        line = page.locator("#runs-curves figure").first.locator("path.line").first
        see(page, "progress", "Update 5 of 40 (12 %), about 1.8 s left")
        first = line.get_attribute("d")
        on_to_20.set()
        see(page, "progress", "Update 20 of 40 (50 %), about 1 s left")
        second = line.get_attribute("d")
        assert (first.count("L"), second.count("L")) == (4, 19)
        assert "loss is 0.4 at update 20" in page.locator("#runs-curves title").first.text_content()
        row = page.locator("#runs-latest tr", has_text="peak_memory_bytes")
        assert "2 GiB" in row.inner_text()
        quiet = page.locator("#live").inner_text()
        assert "live" not in quiet, "ticks are not read out"
        on_to_40.set()
        see(page, "head", "done")
        page.locator("#live", has_text="The run live is done.").wait_for(state="attached")
        see(page, "training", "Update 40")
        see(page, "result", "50.0 %")
    finally:
        on_to_20.set()
        on_to_40.set()
        thread.join()
        shutil.rmtree(folder)


def test_a_ladder_is_followed_live(page: Any, address: str, runs: Path) -> None:
    with Run.open(runs, "ladder", {"ladder": {"rungs": ["zero-shot", "few-shot-knn"]}}, name="climbing") as run:
        opened(page, address, "run=climbing")
        see(page, "progress", "Now: zero-shot")
        run.write_result(rung("x", [True, False] * 10).result, "rung-zero-shot")
        see(page, "progress", "1 of 2 rungs done. Now: few-shot-knn.")
        assert page.locator("#runs-rungs tbody tr").count() == 1
        run.write_result(rung("y", [True] * 20, flops=2e9).result, "rung-few-shot-knn")
        see(page, "rungs", "few-shot-knn")
        assert page.locator("#runs-rungs tbody tr").count() == 2
    see(page, "head", "done")
    page.locator("#live", has_text="The run climbing is done.").wait_for(state="attached")
    shutil.rmtree(run.path)


def test_hostile_text_is_text_and_nothing_leaves_this_machine(page: Any, address: str) -> None:
    requests: list[str] = []
    dialogs: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.goto(f"{address}/?tab=runs")
    page.locator("#runs-left-out summary").click()
    see(page, "left-out", "<img src=x onerror=alert(1)>")
    page.locator("#runs-list a", has_text="evil").click()
    see(page, "latest", "<script>document.title")
    tab(page, "Questions")
    first = page.locator("#runs-questions article").first
    assert len(first.locator("pre").inner_text()) < 2000
    first.get_by_role("button", name="Show all 5,000 characters").click()
    page.wait_for_function("document.querySelector('#runs-questions pre').innerText.length >= 5000")
    text = page.locator("#runs-questions article pre").nth(1).inner_text()
    assert text.startswith("  two\n\ttab <script>document.title='owned'</script>")
    assert text.endswith("⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩gnp.exe⟨U+D800⟩${document.title='owned'}")
    assert "{{ 7 * 7 }}" in text
    page.locator("#runs-questions-further").click()
    see(page, "questions", "26 – 50 of 60")
    page.locator("#runs-questions-back").click()
    see(page, "questions", "1 – 25 of 60")
    page.locator("#runs-which label", has_text="unparsable").click()
    see(page, "questions", "1 – 3 of 3")
    tab(page, "Model card")
    assert "# A card\n<script>" in page.locator("#runs-card pre").inner_text()
    assert page.locator(".runs img, .runs script, .runs iframe, .runs a:visible").count() == 0
    assert page.title() == "LLM workbench"
    assert dialogs == []
    assert [url for url in requests if not url.startswith((f"{address}/", "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_serious(browser: Any, address: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for query in ("", "run=a-ladder", "run=evil", "run=a-pool", "run=one&with=two"):
        page.goto(f"{address}/?tab=runs&{query}")
        page.locator("#runs-head h2" if query else "#runs-list table").wait_for()
        page.wait_for_timeout(500)
        found = axe.Axe().run(page).response["violations"]
        serious = [
            (one["id"], [node["html"][:200] for node in one["nodes"]][:4])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], json.dumps(serious, indent=1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, query
    page.close()
