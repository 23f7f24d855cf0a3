"""Run folders: the same command comes back to the same folder, and a killed one is seen to be interrupted."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from workbench.decodes import Greedy
from workbench.errors import UserError
from workbench.runs import Run, find_run, list_runs
from workbench.types import (
    CostToMake,
    CostToUse,
    Interval,
    Message,
    Model,
    Outcome,
    Prompt,
    Result,
    Status,
    System,
)

CONFIG = {"task": "arithmetic", "method": {"rank": 16, "rates": (1e-4, 2e-4)}}

RESULT = Result(
    system="s",
    task="arithmetic",
    task_hash="t",
    split="dev",
    score=Interval(0.5, 0.1, 0.9),
    outcomes=(
        Outcome("q1", Status.CORRECT, 1.0, "4", "4"),
        Outcome("q2", Status.ERROR, None, None, "\udc00"),
    ),
    counts=(("correct", 1), ("error", 1)),
    cost_to_make=CostToMake(),
    cost_to_use=CostToUse(),
)


def system(adapter: str | None = None, base: str = "fake") -> System:
    return System(Model(base, adapter=adapter), Prompt("zero", (Message("user", "{{ input }}"),)), Greedy())


def test_the_same_command_comes_back_to_the_same_folder(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", CONFIG) as run:
        assert run.state == "running"
        run.log(step=1)
    created = run.info["created"]
    assert run.id.startswith("lora-")
    with Run.open(tmp_path, "lora", CONFIG) as again:
        assert (again.path, again.info["created"]) == (run.path, created)
        again.log(step=2)
    assert [line["step"] for line in again.metrics()] == [1, 2]
    with Run.open(tmp_path, "lora", CONFIG | {"task": "gsm8k"}) as other:
        assert other.path != run.path


def test_config_json_says_how_to_run_it_again(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", CONFIG) as run:
        info = json.loads((run.path / "config.json").read_text())
    assert info["config"]["method"]["rates"] == [1e-4, 2e-4]
    assert info["recipe"] == "lora"
    assert info["packages"]["python"].startswith("3.")
    assert "torch" in info["packages"]
    assert info["argv"]
    assert info["git"] is None or len(info["git"]["commit"]) >= 40


def test_another_config_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", CONFIG, name="mine") as run:
        run.write_card("# The first")
    other = {"task": "arithmetic", "method": {"rank": 32, "rates": (1e-4, 2e-4)}}
    with pytest.raises(UserError, match=r"method\.rank = 16, and now method\.rank is 32.*--overwrite"):
        Run.open(tmp_path, "lora", other, name="mine")
    with pytest.raises(UserError, match='recipe = "lora", and now recipe is "sft"'):
        Run.open(tmp_path, "sft", CONFIG, name="mine")
    with pytest.raises(UserError, match=r"seed = \"\(none\)\", and now seed is 1"):
        Run.open(tmp_path, "lora", CONFIG | {"seed": 1}, name="mine")
    with Run.open(tmp_path, "lora", other, name="mine", overwrite=True) as new:
        assert new.config["method"]["rank"] == 32
    assert (tmp_path / "mine.old-1" / "README.md").read_text() == "# The first"
    with Run.open(tmp_path, "lora", other, name="mine", overwrite=True):
        pass
    assert (tmp_path / "mine.old-2").is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "../up", "..", ".", "a/b", "a\\b", "/etc", "C:", "c:\\x", "con", "NUL.txt", "com1", "a\n", "a\0b",
        "a ", "-x", ".hidden", "x.", "\u202ex", "a" * 200,
    ],
)  # fmt: skip
def test_names_that_are_no_plain_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a run"):
        Run.open(tmp_path / "runs", "lora", CONFIG, name=name)
    assert list(tmp_path.iterdir()) == []
    with (
        Run.open(tmp_path, "lora", CONFIG, name="fine") as run,
        pytest.raises(UserError, match="cannot name"),
    ):
        run.read_result(name)


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(UserError, match=r"config\.json"):
        Run.open(tmp_path, "lora", CONFIG, name="photos")
    (tmp_path / "half").mkdir()  # a process that was killed before it wrote anything leaves an empty folder
    with Run.open(tmp_path, "lora", CONFIG, name="half") as run:
        assert run.state == "running"


WORKER = """
import sys, time
from workbench.runs import Run
with Run.open(sys.argv[1], "lora", {"a": 1}, name="mine") as run:
    for step in range(10**6):
        run.log(step=step, loss=0.5)
        if step == 20:
            print("ready", flush=True)
        if step > 20:
            time.sleep(0.01)
"""


def start_worker(root: Path) -> subprocess.Popen[str]:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(root)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def test_two_processes_cannot_work_in_one_run_and_a_kill_frees_it(tmp_path: Path) -> None:
    worker = start_worker(tmp_path)
    try:
        assert find_run(tmp_path, "mine").state == "running"
        with pytest.raises(UserError, match="Another process is working in"):
            Run.open(tmp_path, "lora", {"a": 1}, name="mine")
        with pytest.raises(UserError, match="Another process is working in"):
            Run.open(tmp_path, "lora", {"a": 2}, name="mine", overwrite=True)
    finally:
        worker.kill()
        worker.wait()
    assert find_run(tmp_path, "mine").state == "interrupted"
    with (tmp_path / "mine" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 99, "lo')  # what a kill in the middle of a line leaves
    assert find_run(tmp_path, "mine").metrics()[-1]["step"] >= 20
    with Run.open(tmp_path, "lora", {"a": 1}, name="mine") as run:
        run.log(step="next")
        steps = [line["step"] for line in run.metrics()]
    assert steps[-1] == "next"
    assert steps[:-1] == list(range(len(steps) - 1))
    assert find_run(tmp_path, "mine").state == "done"


def test_sigterm_ends_a_run_as_interrupted(tmp_path: Path) -> None:
    worker = start_worker(tmp_path)
    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=20)
    assert json.loads((tmp_path / "mine" / "state.json").read_text()) == {"state": "interrupted"}


def test_how_a_run_ends_is_written_down(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Run.open(tmp_path, "lora", {}, name="a"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    with pytest.raises(RuntimeError), Run.open(tmp_path, "lora", {}, name="b"):
        raise RuntimeError
    assert [find_run(tmp_path, name).state for name in "ab"] == ["interrupted", "failed"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_metrics_hold_numbers_that_json_lacks(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", {}) as run:
        run.log(step=np.int64(3), loss=np.float32("nan"), gap=-math.inf, rate=0.1)
        run.log(step=4)
        assert run.metrics() == [
            {"step": 3, "loss": None, "gap": None, "rate": 0.1, "not_finite": ["loss", "gap"]},
            {"step": 4},
        ]
        (run.path / "metrics.jsonl").write_bytes(b'{"a": 1}\n???\n{"a": 2}\n')
        with pytest.raises(UserError, match="line 2"):
            run.metrics()


def test_a_run_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path)
    with Run.open("runs", "lora", {}, name="mine") as run:
        (run.path / "adapter").mkdir()
        run.write_system(system(adapter=str(run.path / "adapter")))
        assert json.loads((run.path / "system.json").read_text())["model"]["adapter"] == "./adapter"
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = find_run("moved", "mine")
    assert moved.read_system().model == Model("fake", adapter=str(tmp_path / "moved" / "mine" / "adapter"))

    with Run.open("moved", "lora", {}, name="mine") as run:
        run.write_system(system(adapter="outside", base="org/name"))
        assert run.read_system().model == Model("org/name", adapter=str(tmp_path / "outside"))
        (run.path / "merged").mkdir()
        run.write_system(system(base="moved/mine/merged"))
        assert run.read_system().model == Model(str(run.path.resolve() / "merged"))


@pytest.mark.parametrize(
    ("recipe", "made", "finished"),
    [
        ("lora", "adapter", True),
        ("sft", "model", True),
        ("reward_model", "reward_model", True),
        ("dpo", "adapter", True),
        ("dpo", "model", True),  # --weights all
        ("grpo", "model", True),
        ("head", "model", False),  # its adapter is yet to come
    ],
)
def test_a_helper_ends_where_nothing_is_left_to_train(
    recipe: str, made: str, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    Run.open(tmp_path, recipe, {}, name="mine").close()  # nothing is there yet
    (tmp_path / "mine" / made).mkdir(parents=True)
    if finished:
        with pytest.raises(SystemExit) as ended:
            Run.open(tmp_path, recipe, {}, name="mine")
        assert ended.value.code == 0
    with Run.open(tmp_path, recipe, {}, name="mine", overwrite=finished) as run:
        assert run.path.parent != tmp_path, "a helper writes elsewhere"


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    with Run.open(tmp_path, "lora", {}, name="mine") as run:
        assert run.read_result() is None
        run.write_result(RESULT)
        run.write_result(RESULT, name="dev")
    assert find_run(tmp_path, "mine").read_result() == RESULT
    assert find_run(tmp_path, "mine").read_result("dev") == RESULT


def test_listing_runs_steps_over_what_is_foreign_or_damaged(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nowhere") == []
    with Run.open(tmp_path, "lora", {}, name="good") as run:
        run.write_result(RESULT)
    with Run.open(tmp_path, "lora", {}, name="no-result"):
        pass
    (tmp_path / "foreign").mkdir()
    for name, file, content in [
        ("damaged", "config.json", b'{"recipe": '),
        ("binary", "config.json", b"\xff\xfe"),
        ("list", "config.json", b"[]"),
        ("result", "result.json", b"{}"),
        ("state", "state.json", b"[]"),
    ]:
        with Run.open(tmp_path, "lora", {}, name=name):
            pass
        (tmp_path / name / file).write_bytes(content)
    (tmp_path / "completions.sqlite").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out") as notes:
        infos = list_runs(tmp_path)
    assert {(info.id, info.score, info.state) for info in infos} == {
        ("good", 0.5, "done"),
        ("no-result", None, "done"),
    }
    assert len(notes) == 6


def test_a_run_is_found_by_the_start_of_its_id(tmp_path: Path) -> None:
    for name in ("lora-abc", "lora-abd", "lora"):
        Run.open(tmp_path, "lora", {}, name=name).close()
    assert find_run(tmp_path, "lora-abc").id == "lora-abc"
    assert find_run(tmp_path, "lora").id == "lora"
    assert find_run(tmp_path, "lora-abd").state == "interrupted"
    with pytest.raises(UserError, match="several runs: lora-abc, lora-abd"):
        find_run(tmp_path, "lora-")
    with pytest.raises(UserError, match="no run named 'lorax'"):
        find_run(tmp_path, "lorax")
    with pytest.raises(UserError, match="no run named"):
        find_run(tmp_path, "../lora")
