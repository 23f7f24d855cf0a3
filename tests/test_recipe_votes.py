"""The recipes `majority_vote --early-stop`, `weighted_vote` and `best_of_n`, by what they print and leave."""

from pathlib import Path
from typing import Any

import pytest

import recipes.best_of_n
import recipes.evaluate
import recipes.majority_vote
import recipes.weighted_vote
from recipes.best_of_n import cost_of_scorer
from workbench.decodes import BestOfN, EarlyMajority, Majority, WeightedVote
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.runs import RunFolder
from workbench.session import Setup

FAKE = EngineConfig("fake")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    sizes = ("practice=4", "dev=2", "test=10")
    return Setup(task_args=sizes, model="fake:0.7", engine=FAKE, runs=tmp_path / "runs", quiet=True)


def test_a_majority_vote_stops_early(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipes.majority_vote.Config(setup, Majority(n=9), early_stop="certain", block=1)
    early = recipes.majority_vote.main(config)
    assert "The whole vote's samples are not all in the store" in capsys.readouterr().out
    whole = recipes.majority_vote.main(recipes.majority_vote.Config(setup, Majority(n=9)))
    assert [o.answer for o in early.outcomes] == [o.answer for o in whole.outcomes]
    assert early.cost_to_use.completion_tokens < whole.cost_to_use.completion_tokens
    capsys.readouterr()
    again = recipes.majority_vote.main(config)
    told = capsys.readouterr().out
    assert again.outcomes == early.outcomes
    assert "gives the same answer to 10 of 10 questions" in told
    assert "It drew " in told and " of 9 samples a question" in told
    hasty = recipes.majority_vote.Config(setup, Majority(n=9), early_stop=0.8)
    assert recipes.majority_vote.main(hasty).metric("samples_drawn") < early.metric("samples_drawn")
    assert hasty.voting() == EarlyMajority(n=9, stop=0.8)
    assert len(list((setup.runs).glob("majority_vote-*"))) == 3


@pytest.mark.parametrize("scorer", ["logprob", "judge", "verifier"])
def test_votes_are_weighed(setup: Setup, scorer: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = recipes.weighted_vote.main(recipes.weighted_vote.Config(setup, WeightedVote(n=6, scorer=scorer)))
    told = capsys.readouterr().out
    assert f"Scorer {scorer}. Over the 10 of 10 questions with 6 samples and all their scores" in told
    assert result.metric("weighted@6") == pytest.approx(result.score.value), "no ties among weights like these"
    assert ("oracle, and so the ceiling" in told) == (scorer == "verifier")
    [run] = setup.runs.glob("weighted_vote-*")
    assert RunFolder(run).read_system().decode == WeightedVote(n=6, max_tokens=32, scorer=scorer)
    evaluate: Any = recipes.evaluate.Config(run=run.name, setup=setup)
    assert recipes.evaluate.main(evaluate).outcomes == result.outcomes


def test_best_of_n_by_the_model_itself(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    result = recipes.best_of_n.main(recipes.best_of_n.Config(setup, BestOfN(n=4, scorer="logprob")))
    assert result.metric("best_of@4") == result.score.value
    assert "KL" in capsys.readouterr().out
    assert result.cost_to_make.tokens == 0


def test_a_scorer_s_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setup: Setup) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost.json").write_text("{}")
    assert cost_of_scorer("logprob") is None
    (tmp_path / "logprob").mkdir()
    result = recipes.best_of_n.main(recipes.best_of_n.Config(setup, BestOfN(n=2, scorer="logprob")))
    assert result.total == 10
    [run] = setup.runs.glob("best_of_n-*")
    decode = RunFolder(run).read_system().decode
    assert isinstance(decode, BestOfN) and decode.scorer == "logprob"


def test_what_they_refuse(setup: Setup) -> None:
    with pytest.raises(UserError, match=r"n is 1; it must be a number in \[2,"):
        recipes.weighted_vote.Config(setup, WeightedVote(n=1))
    with pytest.raises(UserError, match=r"There is no folder 'nowhere'; a scorer is logprob, .* or the folder"):
        recipes.weighted_vote.main(recipes.weighted_vote.Config(setup, WeightedVote(n=2, scorer="nowhere")))
    with pytest.raises(UserError, match=r"stop is 0.2; it must be certain, or a number above 0.5"):
        recipes.majority_vote.Config(setup, early_stop=0.2)
    with pytest.raises(UserError, match="block is 0"):
        recipes.majority_vote.Config(setup, early_stop="certain", block=0)
    with pytest.raises(UserError, match="Self-certainty needs the probability of every token"):
        recipes.best_of_n.main(recipes.best_of_n.Config(setup, BestOfN(n=2, scorer="self-certainty")))
