"""A sweep by what it must do: one training a setting, judged on dev, the test split closed, gone on with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes import sweep as recipe
from workbench import sweep as sweeping
from workbench.errors import UserError
from workbench.methods.lora import Config as LoraConfig
from workbench.session import Setup
from workbench.sweep import Config
from workbench.training.config import Training
from workbench.training.packed_loss import PackedLoss

pytestmark = pytest.mark.usefixtures("one_thread")


def config(model: Path, runs: Path, **settings: Any) -> recipe.Config:
    training = Training(epochs=1, batch_size=4, precision="float32")
    setup = Setup(
        model=str(model), task_args=("practice=8", "dev=4", "test=4"), split="dev", runs=runs, name="s", quiet=True
    )
    lora = LoraConfig() if "ranks" in settings or settings.get("method") == "sft" else LoraConfig(rank=2)
    wanted = {"learning_rates": (1e-3, 1e-2), "lora": replace(lora, training=training), **settings}
    return recipe.Config(setup=replace(setup, questions=3), sweep=Config(**wanted))


def test_every_setting_is_trained_and_judged_on_dev_only(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import workbench.harness

    def closed(*_: Any) -> Any:
        raise AssertionError("test was opened")

    monkeypatch.setattr(workbench.harness, "open_test", closed)
    trials = recipe.main(config(tiny_model, tmp_path, ranks=(1, 2)))
    names = ["rank-1-rate-0.001", "rank-1-rate-0.01", "rank-2-rate-0.001", "rank-2-rate-0.01"]
    assert [trial.name for trial in trials] == names
    assert all(trial.cost.parameters for trial in trials)
    out = capsys.readouterr().out
    assert "3 dev questions each; the test split was not looked at." in out
    assert all(name in out for name in names)
    told = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [row["name"] for row in told] == names
    assert all(row["loss"]["low"] <= row["loss"]["value"] <= row["loss"]["high"] for row in told)


def test_the_loss_is_that_of_the_right_answers(tiny_model: Path, tmp_path: Path) -> None:
    from workbench.adapters import load_weights
    from workbench.engines.encode import Encoder
    from workbench.models import load_tokenizer
    from workbench.run_folder import RunFolder

    settings = config(tiny_model, tmp_path, learning_rates=(1e-2,))
    engine = replace(settings.setup.engine, dtype="float32")
    settings = replace(settings, setup=replace(settings.setup, engine=engine, questions=1))
    [trial] = recipe.main(settings)
    from workbench.prompts import load_prompt, render, render_answer
    from workbench.tasks import load_task
    from workbench.types import Request

    task = load_task("arithmetic", {"practice": "8", "dev": "4", "test": "4"})
    prompt, question = load_prompt(task.prompt), task.dev[0]
    model = RunFolder(tmp_path / "s" / "rank-2-rate-0.01").read_system().model
    encoder = Encoder(load_tokenizer(model))
    asked, said = encoder.encode_completion(
        Request("q", render(prompt, question)), render_answer(prompt, question)
    )
    said = said[:-1]  # without the end of the turn
    import torch

    with torch.no_grad():
        logits = load_weights(model, "float32", "cpu")(input_ids=torch.tensor([[*asked, *said]])).logits[0]
    wanted = torch.nn.functional.cross_entropy(logits[len(asked) - 1 : -1], torch.tensor(said)).item()
    assert trial.loss is not None
    assert trial.loss.value == pytest.approx(wanted, abs=1e-4)


def test_what_is_done_is_not_done_again(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = recipe.main(config(tiny_model, tmp_path))
    monkeypatch.setattr(sweeping, "tune", None)
    assert recipe.main(config(tiny_model, tmp_path)) == first


def test_a_setting_that_diverges_is_a_row_and_the_others_go_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, passes = PackedLoss.forward, [0]

    def spoilt(self: PackedLoss, batch: Any) -> Any:
        passes[0] += 1
        loss = forward(self, batch)
        return loss * float("nan") if passes[0] <= 4 else loss

    monkeypatch.setattr(PackedLoss, "forward", spoilt)
    lost, kept = recipe.main(config(tiny_model, tmp_path))
    assert (lost.accuracy, lost.loss, lost.rollbacks) == (None, None, 3)
    assert kept.accuracy is not None
    assert "rank-2-rate-0.001      diverged, rate halved 3×" in capsys.readouterr().out
    assert recipe.main(config(tiny_model, tmp_path)) == [lost, kept]


def test_all_weights_are_swept_too_and_have_no_rank(tiny_model: Path, tmp_path: Path) -> None:
    [trial] = recipe.main(config(tiny_model, tmp_path, method="sft", learning_rates=(1e-3,)))
    assert trial.name == "rate-0.001"
    with pytest.raises(UserError, match="sft trains all weights"):
        Config(method="sft", ranks=(1,))


def test_what_would_do_nothing_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave --learning-rate out"):
        Config(lora=LoraConfig(training=Training(learning_rate=1e-2)))
    with pytest.raises(UserError, match="leave --rank out"):
        Config(ranks=(1, 2), lora=LoraConfig(rank=4))
    with pytest.raises(UserError, match="sft trains all weights"):
        Config(method="sft", lora=LoraConfig(alpha=3.0))
    wanted = config(tiny_model, tmp_path)
    with pytest.raises(UserError, match="looks at dev only; leave --split test out"):
        recipe.main(replace(wanted, setup=replace(wanted.setup, split="test")))


@pytest.mark.parametrize("rates", [(), (0.0,), (float("nan"),)])
def test_bad_rates_are_refused(rates: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="learning_rates"):
        Config(learning_rates=rates)


def test_several_processes_are_refused(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="`accelerate launch` is for one training, and a sweep is several"):
        recipe.main(config(tiny_model, tmp_path))
