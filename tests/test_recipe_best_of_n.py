"""The recipes `reward_model` and `best_of_n`, one after the other, by what they print and leave."""

import json
from pathlib import Path

import pytest

import recipes.best_of_n
import recipes.evaluate
import recipes.reward_model
from workbench.decodes import BestOfN
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.reward_model import Config as RewardConfig
from workbench.preferring.given import Pairs
from workbench.runs import RunFolder
from workbench.session import Setup
from workbench.stats import best_of_n_kl_bound
from workbench.training.config import Training

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = ("practice=4", "dev=2", "test=6")


def setup(tmp_path: Path, **settings: object) -> Setup:
    return Setup(task_args=SIZES, runs=tmp_path / "runs", quiet=True, **settings)  # type: ignore[arg-type]


def reward_model(tmp_path: Path, model: Path, **settings: object) -> Path:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i} + 3?", "chosen": f"{i + 3}", "rejected": f"{i + 4} perhaps"} for i in range(6)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = Training(learning_rate=1e-2, epochs=2, batch_size=4, precision="float32")
    method = RewardConfig(Pairs(pairs), held_out=0.3, lora=LoraConfig(rank=2, training=training))
    return recipes.reward_model.main(
        recipes.reward_model.Config(setup(tmp_path, model=str(model), **settings), method)
    )


def test_a_reward_model_is_made_and_chooses(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = reward_model(tmp_path, tiny_model, name="rewards")
    out = capsys.readouterr().out
    assert "Held-out pairs: 2 of 2 prompts (pairs.jsonl, held out)." in out
    assert f"workbench best_of_n --scorer {folder}" in out
    fake = EngineConfig(engine="fake", device="cpu")
    config = recipes.best_of_n.Config(
        setup(tmp_path, model="fake", engine=fake, name="best"), BestOfN(n=6, scorer=str(folder))
    )
    result = recipes.best_of_n.main(config)
    out = capsys.readouterr().out
    metrics = dict(result.metrics)
    assert "Over the 6 of 6 questions with 6 samples and all their scores" in out
    _, _, told = out.partition("weighted vote")
    rows = [line.split() for line in told.splitlines() if line.strip()[:1].isdigit()]
    table, view = rows[:4], rows[4:]
    assert [row[0] for row in table] == [row[0] for row in view] == ["1", "2", "4", "6"]
    assert table[3][13] == f"{metrics['best_of@6']:.1%}"
    assert table[3][9] == f"{metrics['weighted@6']:.1%}"
    assert metrics["best_of@6"] == result.score.value
    assert metrics["best_of@1"] == pytest.approx(metrics["pass@1"])
    assert {row[1] for row in table} == {f"{metrics['pass@1']:.1%}"}, "a random pick stays what it is"
    assert all(metrics[f"best_of@{k}"] <= metrics[f"pass@{k}"] + 1e-9 for k in (1, 2, 4, 6)), "the ceiling"
    assert view[2][-2] == "0.636", "log 4 − 3/4"
    assert view[3][-7] == f"{metrics['best_of@6']:.1%}", "how often it is right, beside what the scorer thinks"
    assert all(metrics[f"kl@{k}"] <= best_of_n_kl_bound(k) + 1e-9 for k in (1, 2, 4, 6))
    assert all(metrics[f"proxy@{a}"] <= metrics[f"proxy@{b}"] for a, b in ((1, 2), (2, 4), (4, 6)))
    assert result.cost_to_make.parameters > 0, "what the reward model cost"
    again = recipes.evaluate.main(recipes.evaluate.Config(run="best", setup=setup(tmp_path, engine=fake)))
    assert again.outcomes == result.outcomes
    assert RunFolder(tmp_path / "runs" / "best").read_result() == result


def test_what_they_refuse(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--questions and --split are for `workbench best_of_n`"):
        reward_model(tmp_path, tiny_model, questions=3)
    fake = EngineConfig(engine="fake")
    with pytest.raises(UserError, match=r"Best of n needs a scorer: --scorer logprob, .* or the FOLDER"):
        recipes.best_of_n.main(recipes.best_of_n.Config(setup(tmp_path, model="fake", engine=fake)))
    with pytest.raises(UserError, match=r"n is 1; it must be a number in \[2,"):
        recipes.best_of_n.Config(decode=BestOfN(n=1, scorer="rewards"))
