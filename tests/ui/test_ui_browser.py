"""The page in a real browser: choosing, filtering, hostile text that stays text, no request to elsewhere."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pages import MARKS, ROOT, served
from test_report import HOSTILE, rung

from workbench.runs import Run
from workbench.types import Status

EVIL = HOSTILE + "${document.title='owned'}"

pytestmark = MARKS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder by the fake engine, a run full of hostile text, and a damaged folder."""
    root = tmp_path_factory.mktemp("ui") / "runs"
    flags = "--engine fake --model fake --questions 12 --rungs zero-shot majority-vote --quiet --name a-ladder"
    subprocess.run(
        [sys.executable, "-m", "recipes", "ladder", *flags.split(), "--runs", str(root)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    result = rung("x", [True, False, False] * 20, misses={Status.UNPARSABLE: 3}).result
    outcomes = tuple(
        replace(o, text=f"  two\n\ttab {EVIL}", answer=EVIL, target=EVIL, id=f"{o.id}{EVIL}")
        for o in result.outcomes
    )
    with Run.open(root, "lora", {"text": EVIL}, name="evil") as run:
        run.write_result(replace(result, outcomes=outcomes, notes=(EVIL,), task=EVIL))
        run.write_card("# A card\n" + EVIL.replace("\ud800", ""))
    (root / "<img src=x onerror=alert(1)>").mkdir()
    return root


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    # Settings that would open the page to others, were they listened to.
    hostile = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/"}
    with served("ui.py", "--runs", str(runs), settings=hostile) as url:
        yield url


def choose(page: Any, id: str) -> None:
    page.locator("#runs [role=gridcell]:visible, #runs td:visible", has_text=id).first.click()
    page.locator("#head h2", has_text=id).wait_for()


def counts(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#result .counts li").all_inner_texts()]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_ladder_is_chosen_and_its_questions_filtered(browser: Any, address: str, runs: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    choose(page, "a-ladder")
    assert "majority-vote" in page.locator("#rungs pre").inner_text()
    assert str(runs / "a-ladder" / "report.html") in page.locator("#head").inner_text()
    assert counts(page) == ["9 correct", "3 wrong", "0 unparsable", "0 truncated", "0 error"]
    assert page.locator("#questions article").count() == 12
    page.locator("#which label", has_text="wrong").click()
    page.locator("#questions", has_text="1 – 3 of 3").wait_for()
    assert page.locator("#questions article.wrong").count() == 3
    page.locator("#name input").click()
    page.get_by_role("option", name="majority-vote").click()
    page.locator("#questions", has_text="No question had this outcome").wait_for()
    assert counts(page)[0] == "12 correct"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('.gradio-container').offsetWidth") <= width
    assert complaints == []
    page.close()


def test_hostile_text_is_text_and_nothing_leaves_this_machine(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests: list[str] = []
    dialogs: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.goto(address)
    page.locator("#message", has_text="<img src=x onerror=alert(1)>").wait_for()
    choose(page, "evil")
    text = page.locator("#questions article pre").first.inner_text()
    assert text.startswith("  two\n\ttab <script>document.title='owned'</script>")
    assert text.endswith("⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩gnp.exe⟨U+D800⟩${document.title='owned'}")
    assert "{{ 7 * 7 }}" in text
    assert "# A card\n<script>" in page.locator("#card pre").inner_text()
    page.locator("#forward").click()
    page.locator("#questions", has_text="26 – 50 of 60").wait_for()
    page.locator("#which label", has_text="unparsable").click()
    page.locator("#questions", has_text="1 – 3 of 3").wait_for()
    assert page.locator(".pane img, .pane script, .pane a, .pane iframe").count() == 0
    assert page.title() == "LLM workbench"
    assert dialogs == []
    assert [url for url in requests if not url.startswith((f"{address}/", "data:"))] == []
    page.close()


def test_other_hosts_and_origins_and_files_are_refused(address: str, runs: Path) -> None:
    assert httpx.get(address).status_code == 200
    assert "img-src 'self' data:" in httpx.get(address).headers["content-security-policy"]
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    join = f"{address}/gradio_api/queue/join"
    assert httpx.post(join, headers={"Origin": "http://evil.example"}, json={}).status_code == 403
    for file in (runs / "evil" / "README.md", ROOT / "README.md"):
        assert httpx.get(f"{address}/gradio_api/file={file}").status_code == 404
    assert httpx.post(f"{address}/gradio_api/upload", files={"files": b"x"}).status_code == 404


def test_another_machine_cannot_reach_it(address: str) -> None:
    port = int(address.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(2)
        other.connect(("127.0.0.2", port))  # answers where a server listens on 0.0.0.0
