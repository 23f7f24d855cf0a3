"""The recipes of decodes that ask in stages, what stands beside them at equal tokens, and their rungs."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import recipes.ladder
from recipes.__main__ import RECIPES
from workbench.command import run_command
from workbench.compare import compare
from workbench.decodes import Majority
from workbench.engines import EngineConfig
from workbench.engines.fake import FakeEngine
from workbench.equal_tokens import Beside, mean_tokens, tokens
from workbench.identity import system_hash
from workbench.ladder_estimate import passes
from workbench.rungs import RUNGS
from workbench.rungs import Config as LadderConfig
from workbench.runs import RunFolder, list_runs
from workbench.session import Setup
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision
from workbench.types import Completion, Finish, Request

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
    page = (info.path / "report.html").read_text(encoding="utf-8")
    assert "points from majority of" in page
    assert system_hash(run.read_system()) in page
    assert run.read_result() == other.result
    assert run.read_result("majority_vote") == vote.result
    assert run.read_system().decode == replace(DECODES[name], max_tokens=32)
    assert [rung.result for rung in recipe.main(config)] == [vote.result, other.result]


def test_one_vote_that_costs_more_already_is_said(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve words where the model may say them, and one where its answer is forced after two."""

    def script(request: Request, index: int) -> str:
        return "7" if "</think>" in request.messages[-1].content else " ".join(["so"] * 11 + ["7"])

    monkeypatch.setattr("workbench.drawing.open_engine", lambda model, config: FakeEngine(model, script))
    recipe = import_module(RECIPES["budget_forcing"][0])
    decode = BudgetForcing(at_most=2, max_tokens=20)
    for equal, cost in (("generated", (12, 3)), ("all", None)):
        vote, other = recipe.main(recipe.Config(setup, decode, Beside(equal=equal)))  # type: ignore[arg-type]
        printed = capsys.readouterr().out
        if cost:
            said = tuple(rung.result.cost_to_use.completion_tokens for rung in (vote, other))
            assert (vote.name, said) == ("majority of 1", cost)
        assert ("generated (one vote has more already), budget forcing is" in printed) == (equal == "generated")


def test_a_difference_at_equal_tokens_in_words(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is the paired comparison of the two results, the decode above the vote."""
    recipe = import_module(RECIPES["revise"][0])
    vote, other = recipe.main(recipe.Config(setup, DECODES["revise"], Beside()))
    found = compare(vote.result, other.result)
    printed = capsys.readouterr().out
    assert f"revision is {100 * found.difference.value:+.1f} points from {vote.name}" in printed
    assert f"; {found.test}, p = {found.p:.2g})" in printed
    assert f"{found.only_second} are better with revision and {found.only_first} with the vote" in printed


def test_the_vote_s_samples_are_in_the_store_and_drawn_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, int]] = []

    class Counting(FakeEngine):
        def sample(self, requests: Any, sampling: Any) -> Any:
            drawn.extend((request.id, index) for request in requests for index in request.indices)
            return super().sample(requests, sampling)

    monkeypatch.setattr("workbench.drawing.open_engine", lambda model, config: Counting(model))
    recipe = import_module(RECIPES["revise"][0])
    config = recipe.Config(setup, DECODES["revise"], Beside())
    vote, other = recipe.main(config)
    plain = [one for one in drawn if ":" not in one[0]]
    n = int(vote.name.removeprefix("majority of "))
    assert len(plain) == len(set(plain)), "the first answer is the vote's first sample"
    assert {index for _, index in plain} >= set(range(n))
    before = len(drawn)
    assert [rung.result for rung in recipe.main(config)] == [vote.result, other.result]
    assert len(drawn) == before


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
