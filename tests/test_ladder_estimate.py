"""What the ladder's estimate counts, a way of tuning at a time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.decodes import BestOfN, EarlyMajority, Majority, WeightedVote
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.ladder_estimate import Pass, Work, estimate, passes, work
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.reward_model import Config as RewardConfig
from workbench.methods.sft import Config as SftConfig
from workbench.preferring.given import Pairs
from workbench.rungs import RUNGS, Config
from workbench.session import Session, Setup
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision
from workbench.training.config import Training

PRACTICE, DEV = 20, 6


def lora(**training: Any) -> LoraConfig:
    return LoraConfig(training=Training(**{"epochs": 3, "batch_size": 4} | training))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five prompts: one with three pairs, four with one."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{max(0, i - 2)}?", "chosen": f"yes {i}", "rejected": "no"} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_examples_and_samples() -> None:
    assert work(SftConfig(training=Training(epochs=2)), PRACTICE, DEV) == Work(0, 0, 40)
    assert work(SftConfig(training=Training(steps=5, batch_size=8)), PRACTICE, DEV) == Work(0, 0, 40)
    grpo = GrpoConfig(num_generations=4, lora=lora(steps=5))
    assert work(grpo, PRACTICE, DEV) == Work(20, 4, 80, 80), "KL to the base is one more pass"


def test_pairs_that_are_made() -> None:
    """Four pairs a question; both answers of each are learned, and read once by the reference."""
    assert work(DpoConfig(lora=lora()), PRACTICE, DEV) == Work(20, 8, 3 * 20 * 4 * 2, 20 * 4 * 2)
    assert work(DpoConfig(lora=lora(examples=5)), PRACTICE, DEV) == Work(5, 8, 3 * 5 * 4 * 2, 5 * 4 * 2)
    assert work(DpoConfig(lora=lora(steps=2)), PRACTICE, DEV) == Work(20, 8, 2 * 4 * 4 * 2, 20 * 4 * 2)
    kto = work(DpoConfig(loss="kto", lora=lora()), PRACTICE, DEV)
    assert kto == Work(20, 8, 3 * 20 * 4 * 4, 20 * 4 * 4), "each answer is read behind another prompt too"


def test_a_reward_model_samples_dev_too_and_has_no_reference() -> None:
    assert work(RewardConfig(lora=lora()), PRACTICE, DEV) == Work(20 + 6, 8, 3 * 20 * 4 * 2, 6 * 4 * 2)


def test_pairs_of_a_file_are_counted(file: Path) -> None:
    given = Pairs(pairs=file)
    assert work(DpoConfig(pairs=given, lora=lora()), PRACTICE, DEV) == Work(0, 8, 3 * 7 * 2, 7 * 2)
    assert work(DpoConfig(pairs=given, lora=lora(examples=2)), PRACTICE, DEV) == Work(0, 8, 3 * 4 * 2, 4 * 2)
    assert work(DpoConfig(pairs=given, lora=lora(steps=2)), PRACTICE, DEV) == Work(0, 8, 2 * 4 * 3 * 2, 7 * 2)
    assert work(RewardConfig(pairs=given, lora=lora()), PRACTICE, DEV) == Work(0, 8, 3 * 7 * 2, 7 * 2)


def test_what_a_decode_does_for_a_question() -> None:
    """Prompts of 50 tokens, answers of 40; a judge's own prompt has 20."""

    def told(decode: Any) -> list[Pass]:
        return passes(decode, 50, 40, 20)

    drawn = Pass(50, 40, 8)
    assert told(None) == [Pass(50, 40)]
    assert told(Majority(8)) == told(WeightedVote(8)) == told(BestOfN(8, scorer="logprob")) == [drawn]
    assert told(EarlyMajority(8, block=2)) == [drawn, Pass(50, 0, times=2)], "5 samples, 2, 1"
    assert told(BestOfN(8, scorer="judge")) == [drawn, Pass(110, 0, times=8)], "a prompt for each answer"
    assert told(BestOfN(8, scorer="self-certainty")) == told(BestOfN(8)) == [drawn, drawn], (
        "read as it was written"
    )
    revised = told(Revision(rounds=2, critique_tokens=10))
    assert revised == [Pass(50, 40), Pass(110, 10, times=2), Pass(120, 40, times=2)]
    assert told(BudgetForcing(at_most=30, waits=1)) == [Pass(50, 70), Pass(80, 0, times=2)]
    first, *rest = told(BeamSearch(beams=4, keep=2, scorer="judge"))
    assert first == Pass(50, 40 / 3, 4), "three steps of 16 tokens at most"
    assert [one.read for one in rest[:2]] == pytest.approx([50 + 40 / 3, 50 + 80 / 3])
    assert all((one.samples, one.times) == (2, 2) for one in rest[:2])
    assert rest[2] == Pass(90, 0, times=12), "each candidate of each step is judged"


@pytest.mark.parametrize(
    "name", ["weighted-vote", "majority-vote-early", "best-of-n-judge", "beam-search", "revise"]
)
def test_a_rung_that_does_more_is_estimated_at_more(name: str, tmp_path: Path) -> None:
    setup = Setup(
        task_args=("practice=20", "dev=2", "test=8"), model="fake", engine=EngineConfig("fake"), runs=tmp_path,
        quiet=True,
    )  # fmt: skip
    config = Config(rungs=("zero-shot", name))
    with Session("ladder", setup, config) as session:
        plain, more = (estimate(session, rungs, config) for rungs in (("zero-shot",), ("zero-shot", name)))
    assert _tokens(more) > 2 * _tokens(plain)


def _tokens(words: str) -> float:
    number, unit = words.partition("about ")[2].partition(" tokens")[0].split() + [""] * ("k " not in words)
    return float(number) * {"k": 1e3, "": 1.0}[unit]


def test_a_rung_s_decode() -> None:
    config = Config(vote=Majority(6, temperature=0.5), early_stop=0.9)
    assert config.decode(RUNGS["majority-vote"]) == Majority(6, temperature=0.5)
    assert config.decode(RUNGS["majority-vote-early"]) == EarlyMajority(6, temperature=0.5, stop=0.9)
    assert config.decode(RUNGS["weighted-vote"]) == WeightedVote(6, temperature=0.5, scorer="logprob")
    assert config.decode(RUNGS["best-of-n-judge"]) == BestOfN(6, temperature=0.5, scorer="judge")
    assert config.decode(RUNGS["revise"]) == Revision()
    assert config.decode(RUNGS["zero-shot"]) is None
    with pytest.raises(UserError, match=r"stop is 0.3; it must be certain"):
        Config(early_stop=0.3)


def test_all_weights_cost_more_than_an_adapter(tmp_path: Path) -> None:
    setup = Setup(
        task_args=("practice=20", "dev=2", "test=8"), model="fake", engine=EngineConfig("fake"), runs=tmp_path,
        quiet=True,
    )  # fmt: skip
    config = Config(rungs=("dpo",))
    told = []
    for weights in ("lora", "all"):
        with Session("ladder", setup, config) as session:
            settings = replace(config, dpo=DpoConfig(weights=weights))  # type: ignore[arg-type]
            words = estimate(session, ("dpo",), settings)
            told.append(words.split(" tokens, ")[1].partition("FLOPs")[0])
    assert told[0] != told[1], "6ND and not 4ND"
