"""The page in a real browser: no request, no script, no sideways scrolling, at phone and desktop widths."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, six_examples, tuned_rungs, write_six

from workbench.report_html import ChangedExample, write_html

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1100, 1280])
def test_the_page_is_still_and_fits(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "report.html"
    examples = [ChangedExample(HOSTILE, HOSTILE, "LoRA", HOSTILE * 9, "x" * 3_000), *six_examples()]
    write_six(path, examples, title=f"Ladder {HOSTILE}")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(100)
    page.screenshot(path=str(tmp_path / f"{scheme}-{width}.png"), full_page=True)

    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    assert page.title().startswith("Ladder <script>"), "hostile text is text"
    assert page.evaluate("document.querySelectorAll('script, img, iframe, a').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.scrollWidth") <= width
    # What sticks out of its cell would be cut or overlap; the table may scroll inside its own box.
    assert page.evaluate(
        "[...document.querySelectorAll('dd, h1, h2, p, pre, summary')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline').length"
    ) == 0  # fmt: skip
    box = "document.querySelector('.wide')"
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth"), "all of the table is in sight"
    p_cells = "[...document.querySelectorAll('td.sure')].map(td => td.getBoundingClientRect().height)"
    assert max(page.evaluate(p_cells)) < 120, "no number is broken over lines"
    charts = page.evaluate(
        "[...document.querySelectorAll('svg.chart')].filter(c => getComputedStyle(c).display != 'none').length"
    )
    assert charts == 1
    labels = page.evaluate(
        "[...document.querySelectorAll('svg.chart text')].map(t => t.getBoundingClientRect())"
        f".filter(b => b.width && (b.left < 0 || b.right > {width})).length"
    )
    assert labels == 0
    page.close()


@pytest.mark.parametrize("width", [360, 1100, 1216, 1217, 1280])
def test_the_widest_table_fits(browser: Any, tmp_path: Path, width: int) -> None:
    """Every column that there is: a vote's one sample, macro F1 and forgetting."""
    rungs = [
        replace(r, result=replace(r.result, metrics=(*r.result.metrics, ("macro_f1", 0.4321))))
        for r in tuned_rungs()
    ]
    rungs[2] = replace(rungs[2], one_sample=rungs[0].result.score)
    write_html(tmp_path / "report.html", "Tuned", rungs, looks=5)
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "report.html").as_uri())
    page.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
    box = "document.querySelector('.wide')"
    assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth"), "all of the table is in sight"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_page_needs_no_javascript_and_is_a_table_to_a_screen_reader(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_six(path)
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.get_by_role("table").count() == 1
    assert page.get_by_role("row").count() == 2 + 6
    assert page.get_by_role("rowheader", name="few-shot, kNN").count() == 1
    assert page.get_by_role("columnheader").count() == 7 + 5
    page.get_by_role("heading", name="LoRA", exact=True).click()
    assert page.get_by_text("Then 12 × 3 = 36.").is_visible()
    context.close()
