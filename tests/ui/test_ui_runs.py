"""The pane of runs without a browser: what it reads, what it refuses, and that hostile text stays text."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import HOSTILE, rung

from workbench.errors import UserError
from workbench.inert import visible
from workbench.run_folder import RunFolder, find_run
from workbench.runs import Run
from workbench.types import Outcome, Result, Status
from workbench.ui.runs import (
    HEADERS,
    PER_PAGE,
    head_html,
    left_out,
    pre_html,
    questions_html,
    read_card,
    read_results,
    result_html,
    run_rows,
    rungs_table,
    select_outcomes,
)

MISSES = {Status.ERROR: 1, Status.UNPARSABLE: 2, Status.TRUNCATED: 1}
RIGHT = [True, False, False] * 5


def measured(**changes: object) -> Result:
    return replace(rung("x", RIGHT, misses=MISSES).result, **changes)  # type: ignore[arg-type]


def make_run(root: Path, name: str, card: str = "", **results: Result) -> RunFolder:
    with Run.open(root, "zero_shot", {"name": name}, name=name) as run:
        for file, result in results.items():
            run.write_result(result, file.replace("_", "-"))
        if card:
            run.write_card(card)
    return RunFolder(root / name)


def test_rows_show_score_with_interval_or_the_number_of_rungs(tmp_path: Path) -> None:
    make_run(tmp_path, "one", result=measured())
    make_run(tmp_path, "two", rung_a=measured(), rung_b=measured())
    make_run(tmp_path, "bare")
    rows = {row[0]: dict(zip(HEADERS, row, strict=True)) for row in run_rows(tmp_path)}
    assert rows["one"]["score"] == "35.7 % (16.3 – 61.2)"
    assert rows["two"]["score"] == "2 rungs"
    assert rows["bare"]["score"] == ""
    assert rows["one"]["recipe"] == "zero_shot"
    assert rows["one"]["state"] == "done"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", rows["one"]["made (UTC)"])


def test_no_folder_of_runs_is_an_empty_list(tmp_path: Path) -> None:
    assert run_rows(tmp_path / "none") == []
    assert left_out(tmp_path / "none") == []


@pytest.mark.filterwarnings("ignore:.*left out of the list")
def test_a_damaged_run_is_left_out_and_named(tmp_path: Path) -> None:
    make_run(tmp_path, "good", result=measured())
    make_run(tmp_path, "bad", result=measured())
    (tmp_path / "bad" / "config.json").write_text('{"recipe": ')
    assert [row[0] for row in run_rows(tmp_path)] == ["good"]
    assert left_out(tmp_path) == ["bad"]


def test_a_damaged_result_is_said_and_the_others_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, "ladder", rung_a=measured(), rung_b=measured())
    (run.path / "rung-a.json").write_text('{"type": "Result"}')
    results, problems = read_results(run)
    assert list(results) == ["b"]
    assert len(problems) == 1
    assert "rung-a.json" in head_html(run, problems)


def test_rungs_keep_the_order_of_the_config(tmp_path: Path) -> None:
    config = {"ladder": {"rungs": ["zero-shot", "a-vote"]}}
    with Run.open(tmp_path, "ladder", config, name="ladder") as run:
        run.write_result(measured(), "rung-a-vote")
        run.write_result(measured(), "rung-zero-shot")
    results, _ = read_results(RunFolder(tmp_path / "ladder"))
    assert list(results) == ["zero-shot", "a-vote"]
    text = rungs_table(tmp_path, results)
    assert "p: against zero-shot on the same questions" in text
    assert "2 systems have been looked at" in text
    assert not (tmp_path / "completions.sqlite").exists(), "reading makes no store"
    assert rungs_table(tmp_path, {"result": measured()}) == ""


@pytest.mark.parametrize("id", ["", "../secret", "/etc", "runs/../../x", "nothing", "..", "good/../good", "\x00"])
def test_a_forged_id_is_refused(tmp_path: Path, id: str) -> None:
    make_run(tmp_path, "secret", result=measured())
    make_run(tmp_path / "runs", "good", result=measured())
    with pytest.raises(UserError, match="There is no run named"):
        find_run(tmp_path / "runs", id)


def test_a_card_that_links_out_of_its_folder_is_not_read(tmp_path: Path) -> None:
    run = make_run(tmp_path, "run", card="# Mine\n\ttab")
    assert read_card(run) == "# Mine\n\ttab"
    (tmp_path / "secret").write_text("key")
    (run.path / "README.md").unlink()
    (run.path / "README.md").symlink_to(tmp_path / "secret")
    assert read_card(run) == ""
    shutil.rmtree(run.path)
    assert read_card(run) == ""


def test_the_result_tells_all_five_counts_and_both_costs() -> None:
    page = result_html(measured())
    for text in (
        "<b>5</b> correct",
        "<b>6</b> wrong",
        "<b>2</b> unparsable",
        "<b>1</b> truncated",
        "<b>1</b> error",
    ):
        assert text in page
    assert "35.7 %, 95 % interval 16.3 – 61.2 (wilson)" in page
    assert "14 answered of 15 questions" in page
    assert "<dt>to make</dt><dd>nothing</dd>" in page
    assert "100 + 10 tokens, 1 GFLOPs" in page


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


def test_text_is_shown_exactly_and_inert(tmp_path: Path) -> None:
    text = f"  two\n\ttabs {HOSTILE}"
    outcome = Outcome(HOSTILE, Status.WRONG, 0.0, HOSTILE, HOSTILE, text=text)
    run = make_run(tmp_path, "run")
    pages = [
        questions_html([outcome], 0),
        result_html(measured(notes=(HOSTILE,), task=HOSTILE)),
        head_html(run, [HOSTILE]),
        pre_html("Card", HOSTILE),
    ]
    for page in pages:
        assert "&lt;script&gt;" in page
        assert "{{ 7 * 7 }}" in page
        assert "⟨U+0000⟩" in page
        assert "⟨U+202E⟩" in page
        assert "⟨U+D800⟩" in page
        assert not re.search(r"<(script|img|textarea|a|iframe)\b", page)
        page.encode()  # no lone surrogate is left
    assert "<pre>  two\n\ttabs " in pages[0]
    assert visible("👩\u200d💻 e\u0301 \t\r\n") == "👩\u200d💻 e\u0301 \t⟨U+000D⟩\n"
