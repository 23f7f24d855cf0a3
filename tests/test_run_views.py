"""Run folders as a page reads them: the list, metrics as they grow, pairs, and whatever is damaged or hostile."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_report import HOSTILE, rung

from workbench.errors import UserError
from workbench.files import write_json
from workbench.run_views import metrics
from workbench.run_views.listing import Line, Listing, matching
from workbench.run_views.metrics import Feed, Feeds, Series, number, parts, planned, progress
from workbench.run_views.pairs import changes, crossed, of_kind
from workbench.run_views.reading import looks, measured, read_card, read_results, read_run
from workbench.runs import Run
from workbench.store import Store
from workbench.types import Result, Status

RIGHT = [True, False, False] * 5


def result(right: list[bool] | None = None, **changes: object) -> Result:
    return replace(rung("x", right or RIGHT).result, **changes)  # type: ignore[arg-type]


def make_run(root: Path, name: str, recipe: str = "zero_shot", **results: Result) -> Path:
    with Run.open(root, recipe, {"name": name}, name=name) as run:
        for file, one in results.items():
            run.write_result(one, file.replace("_", "-"))
    return root / name


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


# --- the list -----------------------------------------------------------------------------------------


def test_the_list_has_states_scores_and_rungs_and_writes_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, "one", result=result())
    make_run(tmp_path, "two", "ladder", rung_a=result(), rung_b=result())
    make_run(tmp_path, "bare")
    with pytest.raises(ValueError, match="broken"), Run.open(tmp_path, "lora", {}, name="failed"):
        raise ValueError("broken")
    running = Run.open(tmp_path, "lora", {}, name="running")
    with running:
        before = snapshot(tmp_path)
        lines, out = Listing(tmp_path).read()
        assert snapshot(tmp_path) == before
    found = {line.id: line for line in lines}
    assert out == {}
    assert found["one"].score == result().score
    assert found["two"].rungs == ("a", "b") and found["two"].score is None
    assert {id: line.state for id, line in found.items()} == {
        "one": "done",
        "two": "done",
        "bare": "done",
        "failed": "failed",
        "running": "running",
    }


def test_a_killed_run_is_interrupted_though_nothing_was_written(tmp_path: Path) -> None:
    listing = Listing(tmp_path)
    run = Run.open(tmp_path, "lora", {}, name="r")
    run.state = "running"
    assert listing.read()[0][0].state == "running"
    run.close()  # as the system does when a process is killed
    assert listing.read()[0][0].state == "interrupted"


def test_what_changed_is_read_again(tmp_path: Path) -> None:
    listing = Listing(tmp_path)
    make_run(tmp_path, "one", result=result())
    assert listing.read()[0][0].score == result().score
    with Run.open(tmp_path, "zero_shot", {"name": "one"}, name="one") as run:
        run.write_result(result([True] * 15))
    assert listing.read()[0][0].score.value == 1.0  # type: ignore[union-attr]


def test_filters() -> None:
    lines = [
        Line("lora-a", "lora", "done", "2026"),
        Line("lora-b", "lora", "failed", "2026"),
        Line("vote", "majority_vote", "done", "2026"),
    ]
    assert [one.id for one in matching(lines, "LORA")] == ["lora-a", "lora-b"]
    assert [one.id for one in matching(lines, "-a lora")] == ["lora-a"], "each word, in any order"
    assert [one.id for one in matching(lines, recipe="majority_vote")] == ["vote"]
    assert [one.id for one in matching(lines, state="done", recipe="lora")] == ["lora-a"]
    assert matching(lines, "none") == []


@pytest.mark.parametrize(
    "id",
    [
        "",
        "../secret",
        "/etc",
        "runs/../../x",
        "nothing",
        "..",
        ".",
        "good/../good",
        "\x00",
        "good/",
        None,
        7,
        ["good"],
    ],
)
def test_a_forged_id_is_refused(tmp_path: Path, id: object) -> None:
    make_run(tmp_path, "secret")
    make_run(tmp_path / "runs", "good")
    with pytest.raises(UserError, match="There is no run named"):
        Listing(tmp_path / "runs").find(id)


def test_a_link_out_of_the_runs_is_no_run(tmp_path: Path) -> None:
    make_run(tmp_path, "secret", result=result())
    make_run(tmp_path / "runs", "good")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "secret")
    listing = Listing(tmp_path / "runs")
    lines, out = listing.read()
    assert [one.id for one in lines] == ["good"]
    assert "link" in out["linked"]
    with pytest.raises(UserError, match="link"):
        listing.find("linked")


def test_damaged_folders_are_left_out_and_named(tmp_path: Path) -> None:
    make_run(tmp_path, "good", result=result())
    for name, config in {
        "torn": '{"recipe": ',
        "list": "[1, 2]",
        "deep": "[" * 100_000,
        "odd": json.dumps({"recipe": 1, "config": [], "created": {}}),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    (tmp_path / "empty").mkdir()
    (tmp_path / "huge").mkdir()
    with (tmp_path / "huge" / "config.json").open("wb") as file:
        file.truncate(5 * 2**20)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    lines, out = Listing(tmp_path).read()
    assert [one.id for one in lines] == ["good"]
    assert sorted(out) == ["deep", "empty", "huge", "list", "odd", "torn"]


@pytest.mark.parametrize("state", ['{"state": "<img>"}', "{", "[]", '{"state": []}', "null"])
def test_a_state_that_is_none_is_unknown(tmp_path: Path, state: str) -> None:
    folder = make_run(tmp_path, "one")
    (folder / "state.json").write_text(state)
    assert Listing(tmp_path).read()[0][0].state == "unknown"


def test_five_hundred_runs_list_in_a_second(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "first", result=result([True, False] * 700))
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    for i in range(500):
        (tmp_path / f"run-{i}").mkdir()
        for name, content in files.items():
            (tmp_path / f"run-{i}" / name).write_bytes(content)
    listing = Listing(tmp_path)
    for most in (1.0, 0.3):
        started = time.process_time()
        assert len(listing.read()[0]) == 501
        assert time.process_time() - started < most


# --- results ------------------------------------------------------------------------------------------


def test_rungs_keep_the_order_of_the_config(tmp_path: Path) -> None:
    config = {"ladder": {"rungs": ["zero-shot", "a-vote"]}}
    with Run.open(tmp_path, "ladder", config, name="ladder") as run:
        run.write_result(result(), "rung-a-vote")
        run.write_result(result(), "rung-zero-shot")
    results, problems = read_results(read_run(tmp_path / "ladder"))
    assert list(results) == ["zero-shot", "a-vote"] and problems == []


def test_a_damaged_result_is_said_and_the_others_are_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "ladder", rung_a=result(), rung_b=result(), rung_c=result(), rung_d=result())
    (folder / "rung-a.json").write_text('{"type": "Result"}')
    (folder / "rung-c.json").unlink()
    (folder / "rung-c.json").symlink_to("/etc/passwd")
    with (folder / "rung-d.json").open("wb") as file:
        file.truncate(65 * 2**20)
    results, problems = read_results(read_run(folder))
    assert list(results) == ["b"]
    assert [problem.split(".json")[0] for problem in sorted(problems)] == ["rung-a", "rung-c", "rung-d"]


def test_a_result_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "one", result=result())
    first, stamp = read_results(read_run(folder))[0]["result"], measured(folder)
    assert read_results(read_run(folder))[0]["result"] is first and measured(folder) == stamp
    with Run.open(tmp_path, "zero_shot", {"name": "one"}, name="one") as run:
        run.write_result(result([True] * 15))
    assert read_results(read_run(folder))[0]["result"].score.value == 1.0
    assert measured(folder) != stamp


def test_a_card_that_links_out_of_its_folder_is_not_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run")
    run = read_run(folder)
    assert read_card(run) == ""
    (folder / "README.md").write_text("# Mine\n\ttab")
    assert read_card(run) == "# Mine\n\ttab"
    (folder / "README.md").write_text("x" * 300_000)
    assert read_card(run).endswith("(100,000 more characters)")
    (tmp_path / "secret").write_text("key")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="link out"):
        read_card(run)


def test_looks_are_read_from_the_store_and_nothing_is_written(tmp_path: Path) -> None:
    assert looks(tmp_path, "t", "test") is None
    assert list(tmp_path.iterdir()) == []
    with Store(tmp_path / "completions.sqlite") as store:
        store.record_look("t", "test", "s1")
        store.record_look("t", "test", "s2")
        assert looks(tmp_path, "t", "test") == 2, "while another process has it open"
    before = snapshot(tmp_path)
    assert looks(tmp_path, "t", "test") == 2
    assert snapshot(tmp_path) == before
    (tmp_path / "completions.sqlite").write_bytes(b"damaged" * 1000)
    assert looks(tmp_path, "t", "test") is None


# --- metrics ------------------------------------------------------------------------------------------


def test_metrics_are_read_as_they_grow(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", {}, name="r") as run:
        feed = Feed(run.path)
        feed.update()
        assert (feed.version, feed.series) == (0, {})
        run.log(step=1, loss=2.0, note="text", seconds=0.5)
        run.log(event="halved", step=1, micro_batch=4)
        feed.update()
        assert feed.series["loss"].ys == [2.0] and "note" not in feed.series
        assert [event["event"] for event in feed.events] == ["halved"]
        run.log(step=2, loss=1.0, seconds=1.5)
        with (run.path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 3, "lo')  # half a line
        feed.update()
        assert feed.series["loss"].xs == [1, 2] and feed.last["step"] == 2 and feed.unreadable == 0
        with (run.path / "metrics.jsonl").open("ab") as file:
            file.write(b'ss": 0.5, "seconds": 1}\n')
        feed.update()
        assert feed.series["loss"].ys == [2.0, 1.0, 0.5]
        assert feed.seconds_an_update() == 1.0
        version = feed.version
        feed.update()
        assert feed.version == version, "nothing new is nothing read"


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 5001)))
    feed = Feed(tmp_path)
    feed.update()
    seen = []
    monkeypatch.setattr(metrics.json, "loads", lambda raw, of=json.loads: seen.append(raw) or of(raw))
    with file.open("a") as more:
        more.write('{"step": 5001, "loss": 0.1}\n')
    feed.update()
    assert len(seen) == 1
    assert feed.lines == 5001 and len(feed.series["loss"].xs) < metrics.POINTS


def test_a_file_that_is_another_one_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}\n')
    feed = Feed(tmp_path)
    feed.update()
    other = tmp_path / "other"
    other.write_text('{"step": 1, "loss": 5}\n{"step": 2, "loss": 6}\n{"step": 3, "loss": 7}\n')
    other.replace(file)
    feed.update()
    assert feed.series["loss"].ys == [5, 6, 7]
    os.truncate(file, 23)  # as a run does that goes on behind a torn line
    feed.update()
    assert feed.series["loss"].ys == [5]


def test_bad_lines_are_counted_and_the_others_read(tmp_path: Path) -> None:
    lines = [
        b"no json", b"[1]", b"{", b"[" * 10_000, b"\xff\xfe", b'"text"', b'{"step": "2", "loss": 1}',
        b'{"step": 1, "loss": NaN, "big": 1e999, "flag": true, "huge": 1' + b"0" * 400 + b"}",
        b'{"step": 1, "x": "' + b"y" * (2**20 + 1) + b'"}',
        json.dumps({"step": 4, **{f"m{i}": i for i in range(100)}}).encode(),
        b'{"step": 5, "loss": 3}',
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    feed = Feed(tmp_path)
    feed.update()
    assert feed.unreadable == 7
    assert len(feed.series) == metrics.FIELDS
    assert "flag" not in feed.series and "big" not in feed.series and "huge" not in feed.series
    assert feed.last == {"step": 5, "loss": 3}


def test_an_endless_line_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "AT_ONCE", 2**20)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"x" * (5 * 2**20) + b'\n{"step": 1, "loss": 2}\n')
    feed = Feed(tmp_path)
    looks_taken = 0
    feed.update()
    while feed.behind:
        assert len(feed._rest) <= 2**20
        feed.update()
        looks_taken += 1
    assert looks_taken >= 5
    assert feed.series["loss"].ys == [2] and feed.unreadable == 1


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "secret").write_text('{"step": 1, "loss": 2}\n')
    (tmp_path / "r" / "metrics.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="link out"):
        Feed(tmp_path / "r").update()


def test_a_long_series_is_thinned_to_means() -> None:
    series = Series()
    for i in range(10_000):
        series.add(i, float(i))
    assert len(series.xs) < metrics.POINTS and series.every == 32
    assert series.ys[0] == pytest.approx(15.5), "the mean of the first 32"
    assert series.xs == sorted(series.xs)


def test_a_roll_back_replaces_what_came_after() -> None:
    series = Series()
    for x, y in [(1, 1), (2, 2), (3, 30), (4, 40), (3, 3), (4, 4)]:
        series.add(x, y)
    assert (series.xs, series.ys) == ([1, 2, 3, 4], [1, 2, 3, 4])


def test_a_roll_back_of_what_waits_for_its_mean_replaces_it() -> None:
    series = Series(every=2)
    for x, y in [(5, 5), (6, 6), (7, 7), (7, 70), (8, 80)]:
        series.add(x, y)
    assert (series.xs, series.ys) == ([6, 8], [5.5, 75])


def test_feeds_are_shared_and_few(tmp_path: Path) -> None:
    feeds = Feeds(most=2)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    a = feeds.of(tmp_path / "a")
    assert feeds.of(tmp_path / "a") is a
    feeds.of(tmp_path / "b")
    feeds.of(tmp_path / "c")
    assert feeds.of(tmp_path / "a") is not a


def test_parts_of_a_run_latest_first(tmp_path: Path) -> None:
    with Run.open(tmp_path, "ladder", {}, name="l") as run:
        assert parts(run.path) == []
        for place, name in enumerate(("lora", "self-improve")):
            with Run.open(run.path, name, {}, name=name) as inner:
                inner.log(step=1, loss=1)
            os.utime(run.path / name / "metrics.jsonl", (place, place))
        with Run.open(run.path / "self-improve", "lora", {}, name="round-1") as inner:
            inner.log(step=1, loss=1)
        (run.path / "no-run").mkdir()
        (run.path / "no-run" / "metrics.jsonl").write_text("")
        assert parts(run.path) == ["self-improve/round-1", "self-improve", "lora"]


def test_progress_and_time_left(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", {}, name="r") as run:
        feed = Feed(run.path)
        assert progress(feed, True) is None
        for step in (1, 2):
            run.log(step=step, loss=1.0, seconds=3.0)
        feed.update()
        told = progress(feed, True)
        assert told is not None and (told.done, told.total, told.seconds_left) == (2, None, None)
        (run.path / "checkpoints" / "checkpoint-0").mkdir(parents=True)
        write_json(run.path / "checkpoints" / "checkpoint-0" / "trainer_state.json", {"max_steps": 12})
        told = progress(feed, True)
        assert told is not None and (told.total, told.seconds_left) == (12, 30.0)
        for name, most in (("checkpoint-9", 9), ("checkpoint-10", 12), ("checkpoint-x", 7)):
            write_json(run.path / "checkpoints" / name / "trainer_state.json", {"max_steps": most})
        assert planned(run.path) == 12, "the newest checkpoint's"
        shutil.rmtree(run.path / "checkpoints" / "checkpoint-10")
        shutil.rmtree(run.path / "checkpoints" / "checkpoint-9")
        told = progress(feed, False)
        assert told is not None and told.seconds_left is None
        (run.path / "checkpoints" / "checkpoint-0" / "trainer_state.json").write_text('{"max_steps": "many"}')
        assert planned(run.path) is None


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), 10**400, [1], {}])
def test_what_is_no_number(value: object) -> None:
    assert number(value) is None


# --- pairs --------------------------------------------------------------------------------------------


def test_changed_questions_and_their_table() -> None:
    first, second = result([True, True, False, False, True]), result([True, False, True, False, True])
    found = changes(first, second)
    assert [(c.before.id, c.kind) for c in found] == [("q1", "broken"), ("q2", "mended")]
    assert [c.before.id for c in of_kind(found, "mended")] == ["q2"]
    assert of_kind(found, "all") == found
    assert crossed(first, second) == {
        (True, True): 2,
        (True, False): 1,
        (False, True): 1,
        (False, False): 1,
    }


def test_another_wrong_answer_is_a_change_too_and_failed_requests_are_none() -> None:
    first = result([False, False, False])
    outcomes = list(first.outcomes)
    outcomes[0] = replace(outcomes[0], answer=HOSTILE)
    outcomes[1] = replace(outcomes[1], status=Status.TRUNCATED)
    outcomes[2] = replace(outcomes[2], status=Status.ERROR, score=None)
    found = changes(first, replace(first, outcomes=tuple(outcomes)))
    assert [(c.before.id, c.kind) for c in found] == [("q0", "other"), ("q1", "other")]


def test_several_graded_samples_have_no_two_by_two_table() -> None:
    first = result([True, False])
    half = replace(first, outcomes=tuple(replace(o, score=0.5) for o in first.outcomes))
    assert crossed(first, half) is None
    assert [c.kind for c in changes(first, half)] == ["broken", "mended"]


def test_other_tasks_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        changes(result(), result(task="other"))
