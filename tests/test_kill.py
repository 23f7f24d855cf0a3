"""A ladder that is killed while it samples, and again while it trains, ends as one that never was."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recipes.ladder
from workbench.decodes import Majority, Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import Batch
from workbench.engines.hf import HfEngine
from workbench.ladder import Config as LadderConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.runs import list_runs
from workbench.session import Setup
from workbench.training.config import Training
from workbench.types import CostToMake, Request, Result

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS, N = 20, 32
RUNGS = ("zero-shot", "majority-vote", "lora", "lora-majority-vote")
UPDATES = 4 * 10

FLAGS = [
    *("--task-args", "practice=40", "dev=4", f"test={QUESTIONS}", "--dtype", "float32", "--device", "cpu"),
    *("--quiet", "--rungs", *RUNGS, "--n", str(N), "--rank", "2", "--epochs", "10", "--batch-size", "10"),
    *("--micro-batch", "5", "--precision", "float32", "--save-every", "3", "--learning-rate", "0.01"),
]


def config(model: Path, runs: Path) -> recipes.ladder.Config:
    """What `FLAGS` say."""
    training = Training(
        epochs=10, batch_size=10, micro_batch=5, precision="float32", save_every=3, learning_rate=0.01
    )
    return recipes.ladder.Config(
        Setup(
            task_args=("practice=40", "dev=4", f"test={QUESTIONS}"),
            model=str(model),
            engine=EngineConfig("hf", device="cpu", dtype="float32"),
            runs=runs,
            quiet=True,
        ),
        LadderConfig(RUNGS, lora=LoraConfig(rank=2, training=training), vote=Majority(n=N)),
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: sums are added in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stored(runs: Path) -> list[tuple[Any, ...]]:
    """The rows of a store that another process may be writing."""
    try:
        with sqlite3.connect(f"file:{runs / 'completions.sqlite'}?mode=ro", uri=True) as db:
            return db.execute("SELECT rowid, * FROM completions ORDER BY rowid").fetchall()
    except sqlite3.OperationalError:
        return []


def updates(runs: Path) -> int:
    """Steps of the training so far."""
    return sum(file.read_bytes().count(b"\n") for file in runs.glob("ladder-*/lora/metrics.jsonl"))


def killed_when(happened: Callable[[], bool], model: Path, runs: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes", "ladder", "--model", str(model), "--runs", str(runs), *FLAGS],
        cwd=runs.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + 200
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.003)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    [info] = list_runs(runs)
    assert info.state == "interrupted"


def measured(rungs: Sequence[Any]) -> list[tuple[str, Result]]:
    """The table, without what a clock or a meter says."""
    out = []
    for rung in rungs:
        make, use = rung.result.cost_to_make, rung.result.cost_to_use
        counted = CostToMake(make.tokens, make.flops)
        out.append((rung.name, replace(rung.result, cost_to_make=counted, cost_to_use=replace(use, seconds=0.0))))
    return out


def test_a_ladder_killed_twice_ends_as_one_that_was_not(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "killed"
    killed_when(lambda: len(stored(runs)) > QUESTIONS, tiny_model, runs)
    while_sampling = stored(runs)
    assert QUESTIONS < len(while_sampling) < QUESTIONS + QUESTIONS * N

    killed_when(lambda: updates(runs) >= 5, tiny_model, runs)
    while_training = stored(runs)
    assert len(while_training) == QUESTIONS + QUESTIONS * N
    assert while_training[: len(while_sampling)] == while_sampling
    assert 5 <= updates(runs) < UPDATES

    drawn: list[int] = []
    sample = HfEngine.sample

    def counting(self: HfEngine, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        drawn.append(sum(len(request.indices) for request in requests))
        return sample(self, requests, sampling)

    monkeypatch.setattr(HfEngine, "sample", counting)
    resumed = recipes.ladder.main(config(tiny_model, runs))
    # The estimate's practice questions, then the two tuned rungs; nothing that was stored is drawn again.
    assert drawn == [16, QUESTIONS, QUESTIONS * N]
    assert stored(runs)[: len(while_training)] == while_training
    assert len(stored(runs)) == 2 * (QUESTIONS + QUESTIONS * N)

    whole = recipes.ladder.main(config(tiny_model, tmp_path / "whole"))
    assert measured(resumed) == measured(whole)
    [info] = list_runs(runs)
    assert info.state == "done"
    assert (info.path / "report.html").is_file()
