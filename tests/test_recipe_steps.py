"""The recipes of decodes that ask in stages, what stands beside them at equal tokens, and their rungs."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import recipes.ladder
from recipes.__main__ import RECIPES
from workbench.command import run_command
from workbench.decodes import Majority
from workbench.engines import EngineConfig
from workbench.equal_tokens import Beside, mean_tokens, tokens
from workbench.ladder_estimate import passes
from workbench.rungs import RUNGS
from workbench.rungs import Config as LadderConfig
from workbench.runs import RunFolder, list_runs
from workbench.session import Setup
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision
from workbench.types import Completion, Finish

SIZES = ("practice=16", "dev=4", "test=12")
DECODES: dict[str, Any] = {
    "beam_search": BeamSearch(beams=4, keep=2),
    "revise": Revision(rounds=2, choose="majority"),
    "budget_forcing": BudgetForcing(at_most=6),
}


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    engine = EngineConfig("fake")
    return Setup(task_args=SIZES, model="fake:0.6", engine=engine, runs=tmp_path / "runs", quiet=True)


@pytest.mark.parametrize("equal", ["all", "generated"])
@pytest.mark.parametrize("name", DECODES)
def test_each_is_measured_beside_a_vote_of_as_many_tokens(
    name: str, equal: Any, setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, beside = import_module(RECIPES[name][0]), Beside(equal=equal)
    config = recipe.Config(setup, DECODES[name], beside)
    vote, other = recipe.main(config)
    out = capsys.readouterr().out
    budget, n = tokens(other.result, beside), int(vote.name.removeprefix("majority of "))
    assert tokens(vote.result, beside) <= budget
    # The fake's answers are of four words each: one more would be too much.
    assert tokens(vote.result, beside) + 4 > budget
    assert vote.result.cost_to_use.completion_tokens == 4 * n
    for result in (vote.result, other.result):
        use = result.cost_to_use
        assert f"{use.prompt_tokens:.1f} read + {use.completion_tokens:.1f} generated" in out
    assert "points from majority of" in out
    assert "exact McNemar, p = " in out
    assert "2 systems have been looked at" in out
    [info] = list_runs(setup.runs)
    run = RunFolder(info.path)
    assert run.read_result() == other.result
    assert run.read_result("majority_vote") == vote.result
    assert run.read_system().decode == replace(DECODES[name], max_tokens=32)
    assert [rung.result for rung in recipe.main(config)] == [vote.result, other.result]


def test_one_vote_that_costs_more_already_is_said(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = import_module(RECIPES["budget_forcing"][0])
    decode = BudgetForcing(at_most=1, max_tokens=2)
    vote, _ = recipe.main(recipe.Config(setup, decode, Beside(equal="generated")))
    assert vote.name == "majority of 1"
    printed = capsys.readouterr().out
    assert "one vote has more already" not in printed, "it is cut off at three tokens, as the decode is"
    recipe.main(recipe.Config(replace(setup, prompt="question"), replace(decode, max_tokens=1), Beside()))
    assert "(one vote has more already)" not in capsys.readouterr().out


def test_tokens_that_count() -> None:
    def drawn(prompt: int, *said: int) -> list[Completion]:
        return [Completion(i, "x", prompt, n) for i, n in enumerate(said)]

    failed = Completion(1, "", 9, 9, finish=Finish.ERROR, error="down")
    found = [drawn(10, 1, 2, 3), drawn(20, 4, 5, 6), [drawn(30, 7)[0], failed], [failed]]
    assert mean_tokens(found, 2, Beside()) == (10 + 3 + 20 + 9 + 30 + 7) / 3
    assert mean_tokens(found, 2, Beside(equal="generated")) == (3 + 9 + 7) / 3
    assert mean_tokens([], 2, Beside()) == 0


@pytest.mark.parametrize(
    ("name", "flags", "field"),
    [
        ("beam_search", ["--beams", "8", "--keep", "3"], "keep is 3; it must divide the number of beams, 8"),
        ("beam_search", ["--scorer", "no/such/folder"], "no/such/folder"),
        ("beam_search", ["--scorer", "judge", "--judge", "nothing"], "There is no prompt named 'nothing'"),
        ("revise", ["--rounds", "0"], "rounds is 0"),
        ("revise", ["--revise", "nothing"], "There is no prompt named 'nothing'"),
        ("budget_forcing", ["--at-least", "9", "--at-most", "8"], "at_least is 9"),
        ("budget_forcing", ["--end", ""], "end is ''"),
        ("budget_forcing", ["--vote-temperature", "-1"], "temperature is -1"),
    ],
)
def test_bad_flags_are_named(
    name: str, flags: list[str], field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = import_module(RECIPES[name][0])
    common = [
        "--engine",
        "fake",
        "--model",
        "fake",
        "--quiet",
        "--runs",
        str(tmp_path / "runs"),
        "--task-args",
        *SIZES,
    ]
    assert run_command(recipe.main, recipe.Config, [*common, *flags], f"workbench {name}") == 2
    assert field in capsys.readouterr().err


def test_the_ladder_has_them_all(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("zero-shot", "beam-search", "diverse-beam-search", "revise", "budget-forcing")
    assert set(names) <= set(RUNGS)
    ladder = LadderConfig(
        names, vote=Majority(n=4), beam_search=DECODES["beam_search"], budget_forcing=DECODES["budget_forcing"]
    )
    rungs = recipes.ladder.main(recipes.ladder.Config(setup, ladder))
    assert [rung.name for rung in rungs] == list(names)
    cost = {rung.name: rung.result.cost_to_use for rung in rungs}
    assert cost["revise"].completion_tokens > cost["zero-shot"].completion_tokens
    assert len({rung.result.system for rung in rungs}) == 5
    out = capsys.readouterr().out
    assert out.startswith("5 rungs, 12 questions each: about ")
    assert "budget forcing" not in out.split("\n")[0]


@pytest.mark.parametrize("decode", [*DECODES.values(), BeamSearch(scorer="judge", diverse=True)])
def test_the_estimate_is_not_less_than_what_a_question_reads_and_writes(decode: Any) -> None:
    found = passes(decode, read=40, written=30, judging=50)
    written = sum(p.written * p.samples * p.times for p in found)
    read = sum(p.read * p.times for p in found)
    assert written >= 30
    assert read >= 40
    if isinstance(decode, BeamSearch):
        assert written == pytest.approx(decode.beams * 30)
    if isinstance(decode, Revision):
        assert written == 30 + decode.rounds * (decode.critique_tokens + 30)
    if isinstance(decode, BudgetForcing):
        assert written == decode.at_most + 30
