"""The parity page: one file, hostile text stays text, the place where texts part is marked; and the text table."""

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE

from workbench.engines import EngineConfig
from workbench.engines.base import TokenScore, TokenScores
from workbench.parity.bounds import Config
from workbench.parity.measures import Measured
from workbench.parity.rows import Row, rows_of
from workbench.parity.words import Side
from workbench.report_parity import as_json, cells_of, nats, table
from workbench.report_parity_html import summary, write_page
from workbench.stats import wilson_interval
from workbench.types import CostToMake, CostToUse, Example, Model, Outcome, Result, Status

QUESTIONS = {f"q{i}": Example(f"q{i}", f"What is {i} + {i}? {HOSTILE}", HOSTILE) for i in range(12)}


def said(name: str, shift: float, tail: str = "", fails: int = 0) -> Measured:
    """Twelve answers whose tokens are `shift` times their place less likely."""
    outcomes, scores, own = [], {}, {}
    for i, id in enumerate(QUESTIONS):
        text = f"{i} + {i} = {tail if i % 3 == 0 else ''}{2 * i}"
        status = Status.ERROR if i < fails else Status.CORRECT if i % 2 else Status.WRONG
        score = None if i < fails else float(i % 2)
        answer = str(2 * i) if i % 3 else tail
        outcomes.append(Outcome(id, status, score, answer, str(2 * i), text="" if i < fails else text))
        tokens = tuple(TokenScore(at, -1 - shift * at * (1 + i % 2)) for at in range(6))
        scores[id] = TokenScores(tokens)
        if tail:
            own[id] = TokenScores((*tokens[:4], TokenScore(99, -1)))
    counts = tuple((s.value, sum(o.status is s for o in outcomes)) for s in Status)
    right = sum(o.score or 0 for o in outcomes)
    result = Result(
        name * 16, "toy", "0" * 16, "dev", wilson_interval(right, 12 - fails), tuple(outcomes), counts,
        CostToMake(), CostToUse(10, 6, None, 0.5), notes=(f"noted {HOSTILE}",) if fails else (),
    )  # fmt: skip
    return Measured(name, result, scores, own)


def rows(extra: int = 0) -> list[Row]:
    sides = [Side("hf", Model("m"), EngineConfig())]
    measured = [said("a", 0)]
    for name, shift, tail, fails in [
        ("served", 0.001, "", 0),
        (f"vllm,model={HOSTILE}", 0.4, HOSTILE, 1),
        *((f"hf,adapter=runs/some-long-name-of-a-run/adapter-{i}", 0.01 * (i + 1), "", 0) for i in range(extra)),
    ]:
        sides.append(Side(name, Model("m"), EngineConfig()))
        measured.append(said("b", shift, tail, fails))
    return rows_of(sides, measured, Config())


def write(path: Path, found: list[Row]) -> str:
    write_page(
        path, found, Config(), questions=QUESTIONS, looks=1, command=f"x {HOSTILE}", versions={"torch": "2"}
    )
    return path.read_text(encoding="utf-8")


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", rows())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert "default-src 'none'" in page
    outside = re.sub(r">[^<]*<", "><", page)  # what is not text
    assert "http:" not in outside and "https:" not in outside and "<script" not in page and "<img" not in page
    assert not re.search(r"<[^>]*\son\w+=", page)
    assert "&lt;script&gt;document.title=" in page
    assert "{{ 7 * 7 }}" in page and "{{" not in page.replace("{{ 7 * 7 }}", ""), "text is no template"
    assert "⟨U+202E⟩" in page and "\u202e" not in page and "\x00" not in page


def test_the_page_marks_where_texts_part(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", rows())
    assert "the texts part at token 5" in page
    assert re.search(r"9 \+ 9 = <mark>18</mark>", page)
    assert re.search(r"9 \+ 9 = <mark>&lt;script&gt;", page)
    assert page.count("<article") == 6 * 2


def test_the_page_says_where_a_request_failed_and_where_a_text_ends(tmp_path: Path) -> None:
    sides = [Side(name, Model("m"), EngineConfig()) for name in ("a", "b")]
    first, other = said("a", 0), said("b", 0.1, "", fails=10)
    result = other.result
    outcomes = (*result.outcomes[:11], replace(result.outcomes[11], text="11 + 11"))
    other = replace(other, result=replace(result, outcomes=outcomes))
    page = write(tmp_path / "report.html", rows_of(sides, [first, other], Config()))
    assert page.count('<mark class="end">the request failed</mark>') == 5
    assert '11 + 11<mark class="end"> (ends here)</mark>' in page and "11 + 11<mark> = 22</mark>" in page


def test_few_questions_have_no_chart_over_places(tmp_path: Path) -> None:
    found = rows()
    few = [replace(row.measured, result=replace(row.measured.result, outcomes=row.measured.result.outcomes[:4]))
           for row in found]  # fmt: skip
    page = write(tmp_path / "report.html", rows_of([row.side for row in found], few, Config()))
    assert "How far the tokens moved" in page and "Drift over an answer" not in page


def test_the_page_tells_verdicts_bounds_and_terms(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", rows())
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "Of 2 systems held against hf, 1 is the same, 1 has drifted." in re.sub(r"\s+", " ", text)
    assert "mean drift 1.5 > 0.05" in text
    assert "same bounds: drift 0.05, KL 0.005, accuracy 3 points" in text
    assert "a lower bound of the divergence over all tokens" in text
    assert page.count('<svg class="chart') == 2 * 2
    assert len(re.findall(r'<path class="line s\d', page)) == 2 * 2 * 2


def test_nothing_scored_has_no_chart(tmp_path: Path) -> None:
    first, *_ = rows()
    empty = replace(first.measured, scores={}, name="b")
    page = write(
        tmp_path / "report.html",
        rows_of([first.side, replace(first.side, name="b")], [first.measured, empty], Config()),
    )
    assert "<svg" not in page
    assert "12 questions are not in drift and KL: scoring failed" in page
    assert "b is undecided, held against hf." in page


def test_the_line_of_verdicts() -> None:
    found = rows()
    assert summary(found[:2]) == "served is the same, held against hf."
    assert summary([found[0], found[1], found[1]]) == "Of 2 systems held against hf, 2 are the same."


def test_the_table_in_text() -> None:
    text = table(rows(), Config(), 1)
    assert "served: same (same bounds)" in text
    assert re.search(r"served +50\.0 % +25\.4 – 74\.6 +\+0\.0 +1\.000 +12 of 12 +12 of 12 +never +0 +12\n", text)


def test_texts_part_nowhere_only_where_all_are_equal(tmp_path: Path) -> None:
    found = rows()
    first, other = found[0], found[2]
    unknown = replace(other.measured, own={})  # its own answers could not be scored
    failed = said("c", 0, fails=12)
    sides = [replace(other.side, name=name) for name in ("equal", "apart", "unknown", "failed")]
    several = [said("a", 0), other.measured, unknown, failed]
    whole = rows_of([first.side, *sides], [first.measured, *several], Config())
    assert [cells_of(row)["parts_at"] for row in whole] == ["", "never", "5", "–", "–"]
    page = write(tmp_path / "report.html", whole)
    assert re.findall(r'data-label="parts at token">([^<]*)<', page) == ["never", "5", "–", "–"]
    assert re.search(r"unknown .* 8 of 11 +– ", table(whole, Config(), 1))


def test_numbers_of_nats() -> None:
    assert [nats(v) for v in (0, 0.01234, 1.5, 3e-6)] == ["0", "0.0123", "1.5", "3.0e-06"]


def test_the_json_is_json(tmp_path: Path) -> None:
    from workbench.files import write_json

    write_json(tmp_path / "parity.json", as_json(rows(), Config()))
    assert (tmp_path / "parity.json").stat().st_size > 1000


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1200, 1280])
def test_the_page_is_still_and_fits(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "report.html"
    write(path, rows(extra=8))
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    assert page.evaluate("document.querySelectorAll('script, img, iframe, a').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)"
    assert page.evaluate(inside), "all of the table is in sight"
    drawn = "[...document.querySelectorAll('svg.chart')].filter(c => getComputedStyle(c).display != 'none')"
    assert page.evaluate(f"{drawn}.length") == 2
    apart = f"""{drawn}.every(chart => {{
        const boxes = [...chart.querySelectorAll('text[text-anchor=middle]')].map(t => t.getBoundingClientRect());
        return boxes.every((a, i) => boxes.every((b, j) => i === j || a.right <= b.left || b.right <= a.left));
    }})"""
    assert page.evaluate(apart), "no tick's number covers another"
    page.close()
