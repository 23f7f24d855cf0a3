"""Preference data as a recipe: files, counts, a finished run, an interrupted one, settings that mean nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_closed_split import Closed

import recipes.preferences
from workbench.decodes import Greedy
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.encode import Encoder
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.files import read_json
from workbench.made_data import read_made
from workbench.methods.preferences import make_pairs
from workbench.models import load_tokenizer
from workbench.preferring.pairs import Pair, read_pairs, write_pairs
from workbench.preferring.settings import Config
from workbench.prompts import load_prompt
from workbench.runs import Run, RunFolder
from workbench.session import Setup
from workbench.store import Store
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Task
from workbench.training.card import cost_of
from workbench.types import Message, Model, Request, System

SIZES = ("practice=12", "dev=6", "test=4")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    engine = EngineConfig("fake")
    return Setup(
        task_args=SIZES, model="fake:0.5", split="practice", engine=engine, runs=tmp_path / "runs", quiet=True
    )


def made(setup: Setup, config: Config) -> tuple[list[Pair], dict[str, Any], Path]:
    file = recipes.preferences.main(recipes.preferences.Config(setup, config))
    return read_pairs(file), read_json(file.parent / "preferences.json"), file.parent


@pytest.mark.parametrize("source", ["verifier", "judge", "constitution"])
def test_a_source_that_draws(setup: Setup, source: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, told, folder = made(setup, Config(source))
    printed = capsys.readouterr().out
    assert told["pairs"] == len(pairs) > 0 and told["groups"] == len({pair.group for pair in pairs})
    assert told["counts"]["questions"] == 12 and told["split"] == "practice"
    assert told["length"]["longer"] + told["length"]["shorter"] + told["length"]["equal"] == len(pairs)
    assert f"{len(pairs)} pairs of {told['groups']} prompts of 12 questions of arithmetic" in printed
    assert str(folder / "pairs.jsonl") in printed
    assert RunFolder(folder).state == "done" and cost_of(RunFolder(folder)).tokens > 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# Preference pairs: {source} on arithmetic") and str(folder.parent) not in card
    for line in printed.splitlines()[:-1]:
        assert f"- {line}" in card
    assert ("position" in told) == (source == "judge") and ("graded" in told) == (source != "verifier")
    if source == "constitution":
        rows = read_made(folder / "data.jsonl")
        assert [row.completion for row in rows] == [pair.chosen for pair in pairs]
        assert read_pairs(folder / "pairs.jsonl")[0].margin is None and told["margin"] is None


def test_held_out_pairs_and_practice_share_no_question(setup: Setup) -> None:
    practice, _, _ = made(setup, Config())
    dev, told, _ = made(replace(setup, split="dev", questions=5), Config())
    assert told["split"] == "dev" and told["counts"]["questions"] == 5
    assert not {pair.group for pair in practice} & {pair.group for pair in dev}


def test_a_finished_run_is_not_run_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(setup, Config())
    monkeypatch.setattr(Drawer, "draw", lambda *arguments, **options: pytest.fail("it is done"))
    assert made(setup, Config()) == first


def test_an_interrupted_run_goes_on_and_gives_the_same(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, told, _ = made(replace(setup, runs=setup.runs / "whole"), Config("judge"))
    drawn: list[int] = []
    complete = FakeEngine._completion

    def dies(self: FakeEngine, request: Request, index: int, sampling: Any) -> Any:
        drawn.append(index)
        if len(drawn) == 20:
            raise KeyboardInterrupt
        return complete(self, request, index, sampling)

    monkeypatch.setattr(FakeEngine, "_completion", dies)
    with pytest.raises(KeyboardInterrupt):
        made(setup, Config("judge"))
    [folder] = [path for path in setup.runs.iterdir() if path.name.startswith("preferences-")]
    assert not (folder / "pairs.jsonl").exists()
    again, told_again, _ = made(setup, Config("judge"))
    assert again == whole
    assert {key: told[key] for key in told_again} == told_again
    assert len(drawn) < 12 * 4 + 20, "what was stored is not drawn again"


def test_another_judge_judges(setup: Setup) -> None:
    own, _, _ = made(setup, Config("judge"))
    other, told, _ = made(setup, Config("judge", judge="fake:0.9"))
    assert told["judge"] == "fake:0.9" and told["model"] == "fake:0.5"
    assert {frozenset((p.chosen, p.rejected)) for p in own} == {frozenset((p.chosen, p.rejected)) for p in other}
    assert [p.chosen for p in own] != [p.chosen for p in other]


def test_pairs_of_a_file_lose_repetitions_and_tell_conflicts(setup: Setup, tmp_path: Path) -> None:
    prompt = (Message("user", "Which?"),)
    one, other = Pair(prompt, "chat", "a", "bb", 2.0), Pair(prompt, "chat", "bb", "a", 1.0)
    write_pairs(tmp_path / "mine.jsonl", [one, other, one])
    pairs, told, folder = made(setup, Config("file", file=str(tmp_path / "mine.jsonl")))
    assert pairs == [one, other]
    assert told["conflicting"] == 2 and told["counts"] == {"rows": 3, "pairs that repeat another": 1}
    assert "model" not in told and told["settings"] == {"file": "mine.jsonl"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "contradict another" in card and "Nothing was drawn." in card and str(tmp_path) not in card


def test_votes(setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"q{i}", "left": "a", "right": "b", "vote": vote} for i, vote in enumerate(["left", "tie"])]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, told, _ = made(setup, Config("votes", file=str(tmp_path / "votes.jsonl")))
    assert len(pairs) == 1 and told["counts"] == {"votes": 2, "ties": 1}
    assert "The left answer was preferred in 100.0 % (20.7 – 100.0) of 1 votes" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"questions": 2}, {"split": "dev"}])
def test_questions_mean_nothing_where_none_is_asked(setup: Setup, change: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--source votes asks nothing"):
        made(replace(setup, **change), Config("votes", file=str(tmp_path / "votes.jsonl")))


def test_a_file_that_has_changed_is_not_passed_off_as_the_old_one(setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    prompt = (Message("user", "Which?"),)
    write_pairs(file, [Pair(prompt, "chat", "a", "b")])
    made(setup, Config("file", file=str(file)))
    write_pairs(file, [Pair(prompt, "chat", "a", "c")])
    with pytest.raises(UserError, match="was made of another model, task, prompt or file"):
        made(setup, Config("file", file=str(file)))


@pytest.mark.parametrize(
    ("model", "hint"),
    [("fake:1", "questions without a wrong answer"), ("fake:0", "questions without a right answer")],
)
def test_no_pair_is_said_with_the_reasons(setup: Setup, model: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"No pair was found: .*12 {hint}.* Raise --samples"):
        made(replace(setup, model=model), Config())
    [folder] = [path for path in setup.runs.iterdir() if path.name.startswith("preferences-")]
    assert not (folder / "pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"samples": 1}, "samples is 1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"pairs_per_question": 0}, "pairs_per_question is 0"),
        ({"pair_seed": -1}, "pair_seed is -1"),
        ({"write_tokens": 8}, "write_tokens is for --source judge or constitution; the source is verifier"),
        ({"file": "x.jsonl"}, "file is for --source votes or file"),
        ({"reasons": True}, "reasons is for --source judge"),
        ({"source": "judge", "truncated_rejected": True}, "truncated_rejected is for --source verifier"),
        ({"source": "judge", "write_tokens": 8}, "write_tokens is for --reasons"),
        ({"source": "judge", "constitution": "x.jsonl"}, "constitution is for --source constitution"),
        ({"source": "constitution", "judge": "x"}, "judge is for --source judge"),
        ({"source": "votes"}, "The source votes needs a file: --file"),
        ({"source": "file", "file": "x.jsonl", "samples": 8}, "samples is for --source verifier or judge"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        Config(**settings)
    assert problem in str(caught.value)


@pytest.mark.parametrize("source", ["verifier", "judge", "constitution"])
def test_the_test_split_is_refused_and_never_looked_at(setup: Setup, source: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split is 'test'; pairs are made from practice"):
        made(replace(setup, split="test"), Config(source))
    task = load(ArithmeticConfig(practice=8, dev=2, test=2))
    closed = Closed(**{name: getattr(task, name) for name in Task.__dataclass_fields__})
    system = System(Model("fake"), load_prompt("arithmetic"), Greedy(16))
    with Run.open(tmp_path, "preferences", {}) as run, Store(tmp_path / "store.sqlite") as store:
        make_pairs(system, closed, Config(source), run, Drawer(EngineConfig("fake"), store, quiet=True))


def test_an_answer_ends_in_one_end_token(setup: Setup, tiny_model: Path) -> None:
    """No text brings a token that ends a turn, so that training, which adds one, has just one."""
    pairs, _, _ = made(setup, Config())
    tokenizer = load_tokenizer(Model(str(tiny_model)))
    for text in (pairs[0].chosen, pairs[0].rejected, f"{pairs[0].chosen}{tokenizer.eos_token}"):
        _, ids = Encoder(tokenizer).encode_completion(Request("", pairs[0].prompt), text)
        assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("source", "samples", "most"), [("constitution", None, 1), ("judge", 3, 3), ("verifier", 4, 4)]
)
def test_more_pairs_than_can_come_are_refused(source: Any, samples: Any, most: int) -> None:
    Config(source, samples=samples, pairs_per_question=most)
    with pytest.raises(UserError, match=f"pairs_per_question is {most + 1}"):
        Config(source, samples=samples, pairs_per_question=most + 1)
