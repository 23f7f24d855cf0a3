"""The pane of runs without a browser: its HTML, what changes while a run is followed, and hostile text as text."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import HOSTILE, rung, six_rungs

from workbench.errors import UserError
from workbench.files import write_json
from workbench.inert import visible
from workbench.run_views.listing import Line
from workbench.run_views.metrics import Feed, Progress, Series
from workbench.run_views.pairs import Changed
from workbench.runs import Run
from workbench.types import Outcome, Result, Status
from workbench.ui.runs_list import PER_PAGE, left_out_html, list_html, page_of, state_html
from workbench.ui.runs_live import charts_of, curves_html, latest_html, moving_mean, progress_html, rungs_progress
from workbench.ui.runs_pair import changed_html, pair_html
from workbench.ui.runs_result import (
    CUT,
    card_html,
    cost_html,
    pool_html,
    questions_html,
    result_html,
    rungs_html,
    select_outcomes,
)
from workbench.ui.runs_view import Shown, View, changed_only

MISSES = {Status.ERROR: 1, Status.UNPARSABLE: 2, Status.TRUNCATED: 1}
RIGHT = [True, False, False] * 5
TAG = re.compile(r"<(script|img|textarea|iframe|style)\b")


def measured(right: list[bool] | None = None, **changes: object) -> Result:
    return replace(rung("x", right or RIGHT, misses=MISSES).result, **changes)  # type: ignore[arg-type]


def make_run(root: Path, name: str, **results: Result) -> Path:
    with Run.open(root, "zero_shot", {"name": name}, name=name) as run:
        for file, result in results.items():
            run.write_result(result, file.replace("_", "-"))
    return root / name


def words(page: str) -> str:
    return re.sub(r"<[^>]+>", " ", page)


# --- the list -----------------------------------------------------------------------------------------


def test_the_list_says_state_in_words_and_score_with_interval() -> None:
    lines = [
        Line("one", "lora", "running", "2026-11-22T15:16:17+00:00", measured().score),
        Line("two", "ladder", "failed", "2026-11-21T15:16:17+00:00", rungs=("a", "b")),
    ]
    page = list_html(lines, 0, 9)
    assert "Runs 1 – 2 of 2 that match, of 9 in all" in page
    assert "35.7 % (16.3 – 61.2)" in page and "2 rungs" in page
    assert "running" in words(page) and "failed" in words(page)
    assert "href='?tab=runs&amp;run=one'" in page
    assert "2026-11-22 15:16" in page
    assert "workbench quickstart" in list_html([], 0, 0)
    assert "None of the 9 runs" in list_html([], 0, 9)


def test_the_list_is_paged() -> None:
    lines = [Line(f"run-{i}", "lora", "done", "2026") for i in range(60)]
    assert list_html(lines, 0, 60).count("data-act='open'") == PER_PAGE
    assert list_html(lines, 2, 60).count("data-act='open'") == 10
    assert [page_of(60, page) for page in (-1, 0, 2, 99, "x", None)] == [0, 0, 2, 2, 0, 0]


def test_every_state_has_a_word() -> None:
    for state in ("running", "done", "interrupted", "failed", "unknown"):
        assert words(state_html(state)).split()[-1] == state


# --- results ------------------------------------------------------------------------------------------


def test_the_result_tells_all_five_counts_and_both_costs() -> None:
    page = result_html(measured(), "result")
    for number, name in ((5, "correct"), (6, "wrong"), (2, "unparsable"), (1, "truncated"), (1, "error")):
        assert f"<b>{number}</b> {name}" in page
    assert "35.7 % (16.3 – 61.2), 95 % interval (wilson)" in page
    assert "14 answered of 15 questions" in page
    assert "<dt>to make</dt><dd>nothing</dd>" in page
    assert "100 + 10 tokens, 1 GFLOPs" in page
    assert "Result of lora" in result_html(measured(), "lora")


def test_rungs_have_intervals_differences_and_p() -> None:
    rungs = six_rungs()
    page = rungs_html(rungs, 9)
    rows = page.split("<tr>")[2:]
    assert len(rows) == len(rungs)
    share = r"[\d.]+ %</b> \([\d.]+ – [\d.]+\)"
    assert all(re.search(share, row) for row in rows), "no score without its interval"
    assert all(re.search(r"[+-][\d.]+ \([+-][\d.]+ to [+-][\d.]+\)", row) for row in rows[1:])
    assert "Holm" in page and "9 systems have been looked at" in page
    assert "Use " in page, "the advice"
    assert rungs_html([], 0) == ""
    svg = cost_html(rungs)
    assert svg.count("<svg") == 2 and "<title" in svg and "frontier" in svg
    assert cost_html(rungs[:1]) == ""


def test_questions_by_outcome_and_by_page() -> None:
    result = measured()
    assert len(select_outcomes(result, "all")) == 15
    for status, number in result.counts:
        assert len(select_outcomes(result, status)) == number
    assert "No question" in questions_html([], 0)
    many = [Outcome(f"q{i}", Status.WRONG, 0.0, None, "7") for i in range(PER_PAGE + 1)]
    assert questions_html(many, 0).count("<article") == PER_PAGE
    assert questions_html(many, 1).count("<article") == 1
    assert questions_html(many, 99) == questions_html(many, 1)
    assert "none found" in questions_html(many, 1)


def test_long_texts_are_cut_until_asked_for() -> None:
    outcome = Outcome("i" * 5000, Status.WRONG, 0.0, "a" * 5000, "t" * 5000, text="x" * 150_000)
    short = questions_html([outcome] * 25, 0)
    assert len(short) < 25 * 6 * CUT
    assert "Show all 150,000 characters" in short and "data-place='3'" in short
    whole = questions_html([outcome], 0, {0})
    assert "x" * 100_000 in whole and "50,000 more characters" in whole


def test_a_pool_is_drawn_with_its_values_and_a_damaged_one_refused(tmp_path: Path) -> None:
    from test_report_pool import drawn

    from workbench.pool_findings import read_off

    found = json.loads(json.dumps(read_off(drawn())))
    page = pool_html(found, "rm")
    assert page.count("<svg class='chart") + page.count('<svg class="chart') == 2
    assert "pass@k" in page and re.search(r"[\d.]+ % \([\d.]+ – [\d.]+\)", page)
    for damage in ({}, [], None, {"n": 10**9}, {**found, "n": True}, {**found, "n": 3}):
        with pytest.raises(UserError, match="damaged"):
            pool_html(damage, "rm")
    found["curves"]["pass"]["value"][0] = 7.0
    with pytest.raises(UserError, match="damaged"):
        pool_html(found, "rm")


# --- a training as it goes ----------------------------------------------------------------------------


def test_charts_of_what_is_logged() -> None:
    names = ("loss", "reward", "learning_rate", "tokens_per_second", "peak_memory_bytes", "rewards/chosen", "odd")
    series = {}
    for name in names:
        series[name] = Series()
        for step in range(1, 41):
            series[name].add(step, step * 2.0**30)
    charts = {chart.heading: chart for chart in charts_of(series)}
    assert list(charts) == ["Loss", "Reward", "Learning rate", "Speed", "Memory"]
    assert [line.name for line in charts["Loss"].lines] == ["loss", "mean of 10 points"]
    assert [line.name for line in charts["Reward"].lines] == ["reward", "rewards/chosen"]
    assert charts["Memory"].lines[0].ys[-1] == 40, "in GiB"
    assert charts_of({"loss": Series()}) == []


def test_a_chart_of_one_point_and_of_equal_ones(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    for step in (1, 2, 3):
        (tmp_path / "metrics.jsonl").open("a").write(json.dumps({"step": step, "loss": 0.0}) + "\n")
        feed.update()
        assert "nan" not in curves_html(feed).lower()
    assert "loss is 0 at update 3" in curves_html(feed)
    assert "<title" in curves_html(feed) and 'role="img"' in curves_html(feed)


def test_the_latest_numbers_and_events(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", {}, name="r") as run:
        run.log(step=1, loss=2.0, peak_memory_bytes=2**31)
        run.log(event="rollback", step=2, reason=HOSTILE)
        feed = Feed(run.path)
        feed.update()
    page = latest_html(feed)
    assert "update 1, 2 lines" in page and "2 GiB" in page
    assert "rollback at update 2" in page
    assert not TAG.search(page)


def test_progress_in_words() -> None:
    assert "Update 3 of 12 (25 %), about 27 s left" in progress_html(Progress(3, 12, 27.0), True)
    assert "<progress max='12' value='3'" in progress_html(Progress(3, 12, None), True)
    assert "Update 3." in progress_html(Progress(3, None, None), True)
    assert "Nothing has been logged" in progress_html(None, False)
    told = rungs_progress(["a", "b", "c"], ["a"], "lora", True)
    assert "1 of 3 rungs done. Now: b (training lora). Then: c." in told
    assert "Now" not in rungs_progress(["a", "b"], ["a"], "", False)
    assert moving_mean([1, 3]) == [1, 2]


# --- two beside each other ----------------------------------------------------------------------------


def test_a_pair_has_difference_p_and_table() -> None:
    page = pair_html("one", measured(), "two", measured([True] * 15, system="other"))
    assert re.search(r"\+[\d.]+ \(\+[\d.]+ to \+[\d.]+\) points", page)
    assert "exact McNemar" in page and "four times in five" in page
    assert "two: right" in page and "one: not right" in page
    assert "same system" in pair_html("one", measured(), "two", measured())
    with pytest.raises(UserError, match="cannot be compared"):
        pair_html("one", measured(), "two", measured(split="dev"))
    with pytest.raises(UserError, match="share no question"):
        pair_html("one", measured(), "two", measured(outcomes=()))
    half = measured(outcomes=tuple(replace(o, score=0.5) for o in measured().outcomes))
    assert "paired bootstrap" in pair_html("one", half, "two", measured())


def test_changed_questions_have_both_texts_and_the_target() -> None:
    before = Outcome("q", Status.WRONG, 0.0, "8", "7", text="  says 8")
    after = replace(before, status=Status.CORRECT, score=1.0, answer="7", text="says 7")
    page = changed_html([Changed(before, after, "mended")], 0, "one", "two")
    for text in ("wrong → right", "target <code>7</code>", "  says 8", "says 7", "one", "two"):
        assert text in page
    assert "No question changed" in changed_html([], 0, "one", "two")


# --- the pane's view ----------------------------------------------------------------------------------


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    make_run(tmp_path, "one", result=measured())
    make_run(tmp_path, "two", result=measured([True] * 15))
    make_run(tmp_path, "ladder", rung_a=measured(), rung_b=measured([True] * 15))
    make_run(tmp_path, "elsewhere", result=measured(task="other"))
    make_run(tmp_path, "bare")
    yield View(tmp_path)


def test_opening_and_comparing(view: View) -> None:
    shown = Shown()
    view.open(shown, "one", "", "ladder/b")
    sections = view.run(shown)
    assert shown.result == "result"
    assert set(sections["others"]) == {"two/result", "ladder/a", "ladder/b", "elsewhere/result"}
    assert "ladder/b minus one" in sections["pair"]
    assert sections["changed-paging"] == 9
    shown.kind = "broken"
    assert view.pair(shown)["changed-paging"] == 0
    for other, why in {
        "elsewhere/result": "cannot be compared",
        "none/result": "There is no run named",
        "../one": "There is no run named",
        "bare/result": "has no result",
        "ladder/none": "has no result",
        "<img>": "&lt;img&gt;",
    }.items():
        shown.other = other
        assert why in view.pair(shown)["pair"], other
    view.open(shown, "bare")
    assert "no result yet" in view.run(shown)["result"]
    shown.other = "one"
    assert "no result" in view.pair(shown)["pair"]


def test_forged_choices_are_brought_into_what_there_is(view: View) -> None:
    shown = Shown()
    view.open(shown, "one", "../../x")
    shown.which, shown.kind, shown.part = "<b>", "<b>", "../../.."
    shown.asked = shown.turned = 10**9
    shown.other = "two"
    view.run(shown)
    assert (shown.result, shown.which, shown.kind, shown.part) == ("result", "all", "all", "")
    assert (shown.asked, shown.turned) == (0, 0)


def test_a_followed_run_sends_only_what_changed(tmp_path: Path) -> None:
    view, shown = View(tmp_path), Shown()
    with Run.open(tmp_path, "lora", {}, name="r") as run:
        view.open(shown, "r")
        first = changed_only(shown, view.run(shown))
        assert first["running"] is True
        assert changed_only(shown, view.follow(shown)[0]) == {}
        run.log(step=1, loss=2.0, seconds=1.0)
        sections, news = view.follow(shown)
        fresh = changed_only(shown, sections)
        assert set(fresh) == {"parts", "progress", "training", "curves", "latest"} and news == ""
        run.log(step=2, loss=1.0, seconds=1.0)
        fresh = changed_only(shown, view.follow(shown)[0])
        assert set(fresh) == {"progress", "curves", "latest"}
        run.write_result(measured())
        assert "result" in changed_only(shown, view.follow(shown)[0])
    sections, news = view.follow(shown)
    assert news == "The run r is done."
    assert (
        set(changed_only(shown, sections)) == {"head", "progress", "training", "running"}
        and sections["running"] is False
    )
    assert view.follow(shown)[1] == "", "said once"


def test_a_ladder_grows_as_rungs_finish(tmp_path: Path) -> None:
    view, shown = View(tmp_path), Shown()
    config = {"ladder": {"rungs": ["zero-shot", "lora", "vote"]}}
    with Run.open(tmp_path, "ladder", config, name="l") as run:
        view.open(shown, "l")
        assert "0 of 3 rungs done. Now: zero-shot." in view.run(shown)["progress"]
        run.write_result(measured(), "rung-zero-shot")
        with Run.open(run.path, "lora", {}, name="lora") as inner:
            inner.log(step=1, loss=2.0, seconds=1.0)
            sections, _ = view.follow(shown)
            assert "1 of 3 rungs done. Now: lora (training lora). Then: vote." in sections["progress"]
            assert "zero-shot" in sections["rungs"] and "Update 1" in sections["progress"]
    default = {"setup": {"task": "arithmetic"}, "ladder": {"rungs": []}}
    with Run.open(tmp_path, "ladder", default, name="d"):
        view.open(shown, "d")
        assert re.search(r"0 of [3-9] rungs done", view.run(shown)["progress"])


def test_damaged_files_cost_their_section_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path, "r", result=measured())
    score = replace(measured().score, value=7.0, low=-3.0, high=9.0)
    for name in ("a", "b"):
        with Run.open(tmp_path, "zero_shot", {"name": "r"}, name="r") as run:
            run.write_result(measured(score=score), f"rung-{name}")
    (folder / "rung-c.json").write_text("{")
    write_json(folder / "curves.json", {"n": 2, "curves": {"pass": 3}})
    (folder / "README.md").symlink_to("/etc/passwd")
    (folder / "metrics.jsonl").symlink_to("/etc/passwd")
    view, shown = View(tmp_path), Shown()
    view.open(shown, "r")
    sections = view.run(shown)
    assert "rung-c.json" in sections["problems"]
    for name in ("cost", "pool", "training"):
        assert "class=problem" in sections[name], name
    assert "link out" in sections["card"]
    assert "root:" not in json.dumps(sections)
    assert "5</b> correct" in sections["result"]
    assert "Traceback" in capsys.readouterr().err


def test_a_run_that_goes_away_is_said(view: View) -> None:
    shown = Shown()
    view.open(shown, "one")
    (view.root / "one").rename(view.root / ".gone")
    with pytest.raises(UserError, match="There is no run named 'one'"):
        view.follow(shown)


def test_text_is_shown_exactly_and_inert(tmp_path: Path) -> None:
    text = f"  two\n\ttabs {HOSTILE}"
    outcome = Outcome(HOSTILE, Status.WRONG, 0.0, HOSTILE, HOSTILE, text=text)
    hostile = measured(notes=(HOSTILE,), task=HOSTILE, outcomes=(outcome,))
    other = replace(hostile, outcomes=(replace(outcome, answer="8", score=1.0),))
    pages = [
        questions_html([outcome], 0),
        changed_html([Changed(outcome, outcome, "other")], 0, HOSTILE, HOSTILE),
        result_html(hostile, HOSTILE),
        pair_html(HOSTILE, hostile, HOSTILE, other),
        card_html(HOSTILE),
        list_html([Line(HOSTILE, HOSTILE, HOSTILE, HOSTILE, problem=HOSTILE)], 0, 1),
        left_out_html({HOSTILE: HOSTILE}),
        rungs_html([rung(HOSTILE, RIGHT), rung(HOSTILE + "2", RIGHT[::-1], notes=(HOSTILE,))], 2),
        cost_html([rung(HOSTILE, RIGHT), rung(HOSTILE + "2", RIGHT[::-1], flops=2e9)]),
        rungs_progress([HOSTILE, "b"], [], HOSTILE, True),
    ]
    for page in pages:
        assert "script&gt;" in page
        assert "{{ 7 * 7 }}" in page
        assert "⟨U+202E⟩" in page
        assert not TAG.search(page)
        assert "http://" not in re.sub(r"&[a-z#0-9]+;|\(http://evil.test/x.png\)", "", page)
        page.encode()  # no lone surrogate is left
    assert "<pre class='exact'>  two\n\ttabs " in pages[0]
    assert visible("👩\u200d💻 e\u0301 \t\r\n") == "👩\u200d💻 e\u0301 \t⟨U+000D⟩\n"


def test_a_hostile_folder_name_cannot_leave_its_attribute(tmp_path: Path) -> None:
    name = "a' onmouseover='alert(1)"
    (tmp_path / name).mkdir()
    write_json(tmp_path / name / "config.json", {"recipe": "x", "config": {}, "created": "2026"})
    view, shown = View(tmp_path), Shown()
    page = view.all(shown)["list"]
    assert "' onmouseover" not in page
    view.open(shown, name)
    assert "' onmouseover" not in view.run(shown)["head"]
