"""DPO and GRPO as recipes: before and after on the same questions, the training's course, and what KL came to."""

import json
from pathlib import Path
from typing import Any

import pytest

import recipes.dpo
import recipes.grpo
from workbench.aligning import course
from workbench.decodes import Sample
from workbench.engines import EngineConfig
from workbench.files import read_json
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.preferring.divergence import Divergence
from workbench.preferring.given import Pairs
from workbench.runs import Run, RunFolder
from workbench.session import Setup
from workbench.training.config import Training

pytestmark = pytest.mark.usefixtures("one_thread")

# Two random layers end no turn of their own: a letter that they often say does.
PROMPT = """name: cut
purpose: arithmetic
for: tests
source: written for this project
style: chat
variables: [input]
stop: [e, a, o, i]
messages:
  - role: user
    content: "{{ input }}"
"""


@pytest.fixture
def setup(tmp_path: Path, tiny_model: Path) -> Setup:
    (tmp_path / "cut.yaml").write_text(PROMPT)
    return Setup(
        task_args=("practice=8", "dev=6", "test=2"),
        model=str(tiny_model),
        prompt=str(tmp_path / "cut.yaml"),
        engine=EngineConfig("hf", device="cpu", dtype="float32"),
        runs=tmp_path / "runs",
        name="tuned",
        quiet=True,
    )


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": f"It is {i}.", "rejected": "Who knows?"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def training(**more: Any) -> LoraConfig:
    return LoraConfig(
        rank=2, training=Training(batch_size=2, precision="float32", learning_rate=1e-2, loss_band=1e6, **more)
    )


def finished(setup: Setup) -> tuple[RunFolder, str]:
    run = RunFolder(setup.runs / "tuned")
    assert {"before-greedy.json", "after-greedy.json", "result.json"} <= {p.name for p in run.path.iterdir()}
    return run, (run.path / "README.md").read_text()


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "apo_zero_unpaired"])
def test_dpo(loss: Any, setup: Setup, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipes.dpo.Config(
        setup, DpoConfig(pairs=Pairs(pairs=pairs), loss=loss, lora=training(epochs=1)), Sample(n=2, max_tokens=8)
    )
    result = recipes.dpo.main(config)
    said, (run, card) = capsys.readouterr().out, finished(setup)
    metrics = dict(result.metrics)
    assert metrics["kl_low"] <= metrics["kl"] <= metrics["kl_high"]
    assert metrics["kl3"] >= 0
    assert 1 <= metrics["kl_answers"] <= 6
    for text in (said, card):
        assert text.count("- KL to the base ") == 1
        assert ("- kto/reference_point: " in text) == (loss == "kto")
        assert "- kl: " not in text, "there is one KL"
        assert "- loss: " in text and "- rewards/accuracies: " in text
    assert len(read_json(run.path / "result.json")["outcomes"]) == 2


def test_grpo(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    method = GrpoConfig(num_generations=2, longest=6, lora=training(steps=2))
    result = recipes.grpo.main(recipes.grpo.Config(setup, method, Sample(n=2, max_tokens=8)))
    said, (_, card) = capsys.readouterr().out, finished(setup)
    assert dict(result.metrics)["kl3"] >= 0
    for text in (said, card):
        assert "- KL to the base " in text
        assert "- reward: " in text and "(2 updates)" in text


@pytest.mark.parametrize(
    "found", ["KL to the base cannot be told: none of 6 samples was whole", Divergence(0.5, 0.4, 2.0, 1, 4, 1)]
)
def test_kl_that_is_not_known_is_told_and_is_no_metric(
    found: Any, setup: Setup, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.aligning.divergence", lambda *a, **k: found)
    method = DpoConfig(pairs=Pairs(pairs=pairs), lora=training(epochs=1))
    metrics = dict(recipes.dpo.main(recipes.dpo.Config(setup, method, Sample(n=2, max_tokens=8))).metrics)
    card = finished(setup)[1]
    assert f"- {found}" in card
    assert metrics.get("kl") == (None if isinstance(found, str) else 0.5)
    assert "kl_low" not in metrics


def test_the_course_is_the_first_and_the_last_updates(tmp_path: Path) -> None:
    with Run.open(tmp_path, "dpo", {}, name="tuned") as run:
        run.log(event="reference", step=0, seconds=1.0)
        for step in range(1, 31):
            run.log(step=step, loss=float(step), kl=0.5)
        run.log(step=30, loss=0.0)  # done again after a roll-back: it counts once
        assert course(run, ("loss", "reward")) == ["loss: 5.5 → 22.5 (the first and last 10 of 30 updates)"]
    with Run.open(tmp_path, "dpo", {}, name="short") as run:
        assert course(run, ("loss",)) == []
        run.log(step=1, loss=1.0)
        assert course(run, ("loss",)) == ["loss: 1 (1 update)"]
        for step in (2, 3):
            run.log(step=step, loss=float(step))
        assert course(run, ("loss",)) == ["loss: 1 → 3 (3 updates)"]
