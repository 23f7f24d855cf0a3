"""Recipes as processes: a real one is started, followed, stopped, gone on with, and found by another page."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from workbench import jobs as module
from workbench.errors import UserError
from workbench.files import write_json
from workbench.jobs import AT_ONCE, Job, Jobs, exit_status, is_at_work, next_signal, state_of, stop
from workbench.run_folder import RunFolder
from workbench.ui.recipes_log import log_tail

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs process groups")

LONG = [
    "--engine", "fake", "--model", "fake", "--rungs", "zero-shot", "majority-vote", "--n", "24", "--quiet",
    "--task-args", "test=3000", "terms=3", "largest_factor=99",
]  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def jobs(runs: Path) -> Jobs:
    return Jobs(runs / ".page" / "jobs")


def until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def ladder(jobs: Jobs, runs: Path, *more: str) -> Job:
    return jobs.start("ann", "ladder", [*LONG, *more, "--runs", str(runs)], runs)


def test_a_recipe_is_started_stopped_and_gone_on_with(jobs: Jobs, runs: Path) -> None:
    job = ladder(jobs, runs, "--overwrite")
    assert state_of(job) == "running" and is_at_work(job) and exit_status(job) is None
    until(lambda: "zero-shot  " in log_tail(job))
    id = jobs.run_of(job)
    assert id is not None and RunFolder(runs / id).state == "running"

    found = Jobs(runs / ".page" / "jobs")  # the page has been started anew
    assert found.find("ann", job.id) == job and state_of(found.find("ann", job.id)) == "running"
    assert next_signal(job) == "SIGINT" and stop(job) == "SIGINT"
    with pytest.raises(UserError, match="a moment ago"):
        stop(job)
    until(lambda: state_of(job) == "interrupted")
    assert exit_status(job) == 130 and RunFolder(runs / id).state == "interrupted"
    assert "interrupted; the same command goes on from here." in log_tail(job)
    with pytest.raises(UserError, match="It is not running"):
        stop(job)

    more = found.again(job)
    assert more.id != job.id and more.command == job.command.replace(" --overwrite", "")
    with pytest.raises(UserError, match="It is running"):
        found.again(more)
    until(lambda: state_of(more) == "done", 120)
    assert exit_status(more) == 0 and found.run_of(more) == id and RunFolder(runs / id).state == "done"
    assert f"Report: {runs / id / 'report.html'}" in log_tail(more)
    assert [one.id for one in found.of("ann")] == [more.id, job.id]
    assert not list(runs.glob("*.old-*")), "what was trained is not moved aside"


def test_a_fault_in_the_flags_is_a_failure_with_its_words(jobs: Jobs, runs: Path) -> None:
    job = jobs.start("ann", "ladder", ["--task", "nonesuch", "--runs", str(runs)], runs)
    until(lambda: state_of(job) == "failed")
    assert exit_status(job) == 2 and "There is no task named 'nonesuch'" in log_tail(job)
    assert jobs.run_of(job) is None


def test_nobody_sees_anothers_job(jobs: Jobs, runs: Path) -> None:
    job = ladder(jobs, runs)
    assert jobs.seen_by("bob") == ([], 1) and jobs.seen_by("ann") == ([job], 0)
    for id in (job.id, "../" + job.id, "", None, [job.id]):
        with pytest.raises(UserError, match="was not started from here"):
            jobs.find("bob", id)
    stop(job)
    until(lambda: state_of(job) == "interrupted")
    assert jobs.seen_by("bob") == ([], 0)


def test_a_stop_that_came_before_the_recipe_is_obeyed(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789abcdef"
    told = {"owner": "ann", "label": "ladder", "runs": None, "name": None, "started": "", "cwd": str(tmp_path)}
    write_json(folder / "job.json", {**told, "recipe": "ladder", "arguments": LONG})
    write_json(folder / "stop.json", {"sent": 1, "when": time.time()})  # the signal came when the keeper was alone
    keep = [sys.executable, "-m", "workbench.jobs", str(folder)]
    done = subprocess.run(keep, capture_output=True, text=True, check=True, timeout=60)
    [job] = Jobs(tmp_path).of("ann")
    assert (done.stdout, done.stderr) == ("", "") and exit_status(job) == 130 and state_of(job) == "interrupted"


def test_what_does_not_obey_is_killed_in_the_end(jobs: Jobs, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ladder(jobs, runs)
    until(lambda: log_tail(job))
    keeper = psutil.Process(json.loads((job.folder / "process.json").read_text())["pid"])
    [recipe] = keeper.children()
    recipe.suspend()  # no signal but SIGKILL is heard
    assert stop(job) == "SIGINT"
    assert state_of(job) == "stopping" and next_signal(job) is None
    monkeypatch.setattr(module, "_PATIENCE", 0)
    assert stop(job) == "SIGTERM"
    assert is_at_work(job) and next_signal(job) == "SIGKILL"
    assert stop(job) == "SIGKILL"
    assert state_of(job) == "interrupted" and exit_status(job) == -signal.SIGKILL
    until(lambda: not recipe.is_running() or recipe.status() == psutil.STATUS_ZOMBIE)


def test_a_job_that_died_with_its_keeper_is_lost(jobs: Jobs, runs: Path) -> None:
    job = ladder(jobs, runs)
    pid = json.loads((job.folder / "process.json").read_text())["pid"]
    os.killpg(pid, signal.SIGKILL)
    until(lambda: not is_at_work(job))
    assert state_of(job) == "lost" and exit_status(job) is None


def test_a_job_runs_though_the_page_died_as_it_started_it(
    jobs: Jobs, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_write_process", lambda *_: None)  # the keeper is another process
    job = ladder(jobs, runs)
    until(lambda: is_at_work(job))
    stop(job)
    until(lambda: state_of(job) == "interrupted")


def kept(jobs: Jobs, runs: Path, log: bytes, id: str = "0123456789abcdef", **told: object) -> Job:
    """A job that ended long ago, whose process number another process has now."""
    job = Job(
        id,
        "ann",
        "lora",
        "lora",
        (),
        str(runs),
        None,
        "2026-01-01T00:00:00",
        ".",
        runs / "j" / "0",
    )
    folder = runs / ".page" / "jobs" / job.id
    folder.mkdir(parents=True)
    (folder / "log").write_bytes(log)
    kept = {name: value for name, value in vars(job).items() if name not in ("id", "folder")}
    write_json(folder / "job.json", kept | told)
    write_json(folder / "process.json", {"pid": os.getpid(), "born": 12.0})
    return jobs.find("ann", job.id)


def test_another_process_of_the_same_number_is_not_the_job(jobs: Jobs, runs: Path) -> None:
    job = kept(jobs, runs, b"")
    assert not is_at_work(job) and state_of(job) == "lost"
    with pytest.raises(UserError, match="It is not running"):
        stop(job)


def test_a_folder_that_is_gone_is_told(jobs: Jobs, runs: Path) -> None:
    job = kept(jobs, runs, b"", cwd=str(runs / "gone"))
    with pytest.raises(UserError, match="is gone"):
        jobs.again(job)


def test_damaged_folders_are_left_out(jobs: Jobs, runs: Path) -> None:
    kept(jobs, runs, b"")
    for name, text in (("a", "{"), ("b", "{}"), ("c", "[]"), ("d", '{"arguments": 3}')):
        folder = runs / ".page" / "jobs" / name
        folder.mkdir()
        (folder / "job.json").write_text(text)
    assert [job.id for job in jobs.of("ann")] == ["0123456789abcdef"]


def test_a_log_is_read_as_a_terminal_would_show_it(
    jobs: Jobs, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_API_KEY", "sk-very-secret")
    log = (
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07text\r\n  1%|#  |\r 50%|## |\r100%|###|\r\n"
        b"key sk-very-secret\n\x1b[A\x1b[2Khalf \xff\n\n"
    )
    job = kept(jobs, runs, log)
    assert log_tail(job) == "red text\n100%|###|\nkey ⟨WORKBENCH_API_KEY⟩\nhalf \ufffd"
    assert log_tail(job, 1) == "half \ufffd"
    (job.folder / "log").write_bytes(b"x" * 100 + b"\n" + b"line\n" * 20_000)
    assert set(log_tail(job).splitlines()) == {"line"}
    (job.folder / "log").write_bytes(b"".join(b"\r%6d/20000" % i for i in range(20_000)))
    assert log_tail(job) == " 19999/20000", "one bar that is longer than what is looked at"
    (job.folder / "log").write_bytes(b"x" * 100_000)
    assert log_tail(job) == "x" * 64_000
    (job.folder / "log").unlink()
    assert log_tail(job) == ""


def test_so_many_at_once(jobs: Jobs, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    assert AT_ONCE > 1
    job = ladder(jobs, runs)
    with pytest.raises(UserError, match="1 recipes are running"):
        ladder(jobs, runs)
    stop(job)
    until(lambda: state_of(job) == "interrupted")


def launched(job: Job) -> None:
    """A job that this process is."""
    time.sleep(0.05)
    job.folder.mkdir(parents=True)
    told = {name: value for name, value in vars(job).items() if name not in ("id", "folder")}
    write_json(job.folder / "job.json", told)
    write_json(job.folder / "process.json", {"pid": os.getpid(), "born": psutil.Process().create_time()})


def test_the_last_one_is_started_once(jobs: Jobs, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "_launch", launched)
    refused = []

    def start() -> None:
        try:
            ladder(jobs, runs)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs.of("ann")) == 1 and len(refused) == 3


def test_ended_jobs_are_forgotten_in_the_end(jobs: Jobs, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    monkeypatch.setattr(module, "_launch", launched)
    for day in range(1, 6):
        job = kept(jobs, runs, b"", id=f"{day:016}", started=f"2026-01-0{day}T00:00:00")
        if day == 1:
            write_json(job.folder / "process.json", {"pid": os.getpid(), "born": psutil.Process().create_time()})
    new = ladder(jobs, runs)
    assert [job.id for job in jobs.of("ann")] == [new.id, f"{5:016}", f"{4:016}", f"{1:016}"], "the first runs"


def test_the_newest_run_of_a_command_is_its_run(jobs: Jobs, runs: Path) -> None:
    job = kept(jobs, runs, b"", arguments=["--rank", "4", "--overwrite"])
    assert jobs.run_of(job) is None
    for place, (name, words) in enumerate(
        {"lora-b": ["--rank", "4", "--overwrite"], "lora-c": ["--rank", "4"], "lora-a": ["--rank", "4"],
         "lora-a.old-1": ["--rank", "4", "--overwrite"], "lora-d": ["--rank", "8"]}.items()
    ):  # fmt: skip
        write_json(runs / name / "config.json", {"argv": ["workbench", "lora", *words]})
        os.utime(runs / name / "config.json", (place, place))
    assert jobs.run_of(job) == "lora-a"


def test_a_name_says_which_run(jobs: Jobs, runs: Path) -> None:
    job = kept(jobs, runs, b"", name="mine")
    assert jobs.run_of(job) is None
    (runs / "mine").mkdir()
    (runs / "mine" / "config.json").write_text("{}")
    assert jobs.run_of(job) == "mine"
    (job.folder / "job.json").write_text((job.folder / "job.json").read_text().replace(f'"{runs}"', "null"))
    assert jobs.run_of(jobs.find("ann", job.id)) is None
