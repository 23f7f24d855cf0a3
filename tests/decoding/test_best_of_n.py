"""Best of n in the harness: who may be chosen, what is scored once, and the figures beside it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.choice_metrics import scored_metrics
from workbench.cost import ModelShape
from workbench.decodes import BestOfN, Majority, Sample
from workbench.decoding.ask import stream_key
from workbench.decoding.best_of_n import best, reward
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.identity import from_json, system_hash, to_json
from workbench.run_folder import read_system
from workbench.runs import Run
from workbench.store import Store
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import grade_number
from workbench.types import Completion, Example, Finish, Message, Model, Prompt, Request, Result, Status, System

PROMPT = Prompt("plain", (Message("user", "{{ input }}"),))
QUESTIONS = [Example.make(f"Question {i}?", "7") for i in range(4)]


def task(questions: Sequence[Example] = QUESTIONS) -> Task:
    other = (Example.make("Another?", "1"),)
    splits = {"practice": other, "dev": other, "test": tuple(questions)}
    return make_task("numbers", settings={}, splits=splits, grade=grade_number, prompt="plain", max_tokens=8)


class Table:
    """A scorer that has its rewards from a table, and notes what it was asked for."""

    version = "table 1"
    shape = ModelShape(parameters=1000, layers=1, hidden=8, heads=1, kv_heads=1, head_dim=8)

    def __init__(self, rewards: dict[str, float | None]) -> None:
        self.table = rewards
        self.asked: list[str] = []

    def rewards(self, asked: Sequence[tuple[Request, str]]) -> Iterator[list[tuple[int, Completion]]]:
        for place, (_, text) in enumerate(asked):
            self.asked.append(text)
            value = self.table[text]
            if value is None:
                yield [(place, Completion(0, "", finish=Finish.ERROR, error="no connection"))]
            else:
                yield [(place, Completion(0, "", 3, 2, value, 0.5, Finish.SCORED))]

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """What stands for a reward model where only its content's hash counts."""
    made = tmp_path / "scorer"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"1")
    (made / "config.json").write_text("{}")
    return str(made)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


class Cut(FakeEngine):
    """Samples whose text ends in … were cut off."""

    def sample(self, requests: Any, sampling: Any) -> Any:
        for batch in super().sample(requests, sampling):
            yield [(id, replace(c, finish=Finish.LENGTH) if c.text.endswith("…") else c) for id, c in batch]


def measure(store: Store, folder: str, texts: Sequence[str], scorer: Any, n: int | None = None) -> Result:
    """Every question has these samples; one that is `!` fails."""

    def script(request: Request, index: int) -> str:
        if texts[index] == "!":
            raise RuntimeError("down")
        return texts[index]

    system = System(Model("fake"), PROMPT, BestOfN(n=n or len(texts), scorer=folder))
    return evaluate(system, task(), Cut(Model("fake"), script), store, scorer=scorer)


def test_the_best_scored_sample_answers(store: Store, folder: str) -> None:
    scorer = Table({"It is 5": 0.5, "It is 7": 2.0, "It is 6": -1.0})
    result = measure(store, folder, ["It is 5", "It is 7", "It is 6"], scorer)
    assert result.score.value == 1
    assert {(o.status, o.answer, o.text, o.samples) for o in result.outcomes} == {
        (Status.CORRECT, "7", "It is 7", 3)
    }
    metrics = dict(result.metrics)
    assert metrics["best_of@1"] == metrics["pass@1"] == pytest.approx(1 / 3) == metrics["one_sample"]
    assert metrics["best_of@2"] == metrics["pass@2"] == pytest.approx(2 / 3)
    assert metrics["best_of@3"] == 1
    assert metrics["majority@3"] == pytest.approx(1 / 3)
    assert metrics["best_over_random"] == metrics["best_over_majority"] == pytest.approx(2 / 3)
    [note] = [note for note in result.notes if "against a random sample" in note]
    assert "the majority of 3" in note
    assert "intervals: paired bootstrap; p: sign-flip test over questions, Holm's correction over both" in note
    assert metrics["curve_questions"] == 4
    score = result.score
    assert (score.low, score.high) == (metrics["best_of@3_low"], metrics["best_of@3_high"]), (
        "one value, one interval"
    )


def test_all_curves_are_of_the_questions_whose_rewards_are_all_there() -> None:
    right, wrong, failed = (Status.CORRECT, "7"), (Status.WRONG, "5"), (Status.ERROR, None)
    graded = [[right, wrong], [wrong, wrong], [right, right], [right, failed]]
    two = BestOfN(n=2, scorer="rewards")
    metrics, sentence = scored_metrics(graded, [[2.0, 1], [0, 1], [1, math.nan], [1, math.nan]], two)
    assert sentence.startswith("Best of 2 on 2 questions")
    assert metrics["curve_questions"] == 2
    assert [metrics[f"{name}@1"] for name in ("pass", "majority", "best_of")] == [0.25, 0.25, 0.25]
    assert metrics["one_sample"] == 0.25
    assert metrics["pass@2"] == metrics["best_of@2"] == 0.5
    assert scored_metrics(graded[2:], [[1, math.nan]] * 2, two) == ({"curve_questions": 0}, "")


@pytest.mark.parametrize(
    ("texts", "table", "status", "answer"),
    [
        (["It is 5", "It is 7 …"], {"It is 5": -9.0}, Status.WRONG, "5"),  # cut off: not scored, not chosen
        (["!", "It is 7"], {"It is 7": 0.0}, Status.CORRECT, "7"),  # a failed sample is none
        (["I do not know", "It is 7"], {"I do not know": 1.0, "It is 7": 0.0}, Status.UNPARSABLE, None),
        (["It is 5", "It is 7"], {"It is 5": 1.0, "It is 7": 1.0}, Status.WRONG, "5"),  # equal: the earlier
        (["It is 7 …", "It is 7 …"], {}, Status.TRUNCATED, None),
    ],
)
def test_who_may_be_chosen(
    store: Store, folder: str, texts: list[str], table: dict[str, Any], status: Status, answer: str | None
) -> None:
    scorer = Table(table)
    result = measure(store, folder, texts, scorer)
    assert {(o.status, o.answer) for o in result.outcomes} == {(status, answer)}
    assert result.score.value == float(status is Status.CORRECT)
    assert set(scorer.asked) == set(table)


def test_an_answer_is_scored_once_and_kept(store: Store, folder: str) -> None:
    scorer = Table({"It is 7": 1.0, "It is 5": 0.0})
    first = measure(store, folder, ["It is 7", "It is 5", "It is 7"], scorer)
    assert len(scorer.asked) == 2 * len(QUESTIONS), "equal answers of a question have one reward"
    again = measure(store, folder, ["It is 7", "It is 5", "It is 7"], scorer)
    assert len(scorer.asked) == 2 * len(QUESTIONS)
    assert again.outcomes == first.outcomes
    (Path(folder) / "model.safetensors").write_bytes(b"other")
    measure(store, folder, ["It is 7", "It is 5", "It is 7"], scorer)
    assert len(scorer.asked) == 4 * len(QUESTIONS), "another reward model has other rewards"


def test_what_cannot_be_scored_is_no_answer_and_is_asked_for_again(store: Store, folder: str) -> None:
    with pytest.raises(UserError, match="4 requests failed"):
        measure(store, folder, ["It is 7", "It is 5"], Table({"It is 7": 1.0, "It is 5": None}))
    scorer = Table({"It is 7": 1.0, "It is 5": 0.0})
    assert measure(store, folder, ["It is 7", "It is 5"], scorer).score.value == 1
    assert scorer.asked == ["It is 5"] * 4


def test_scoring_counts_into_the_cost(store: Store, folder: str) -> None:
    texts = ["It is 7", "It is 5", "It is 7"]
    result = measure(store, folder, texts, Table({"It is 7": 1.0, "It is 5": 0.0}))
    system = System(Model("fake"), PROMPT, Sample(n=3))
    alone = evaluate(system, task(), FakeEngine(Model("fake"), lambda _, i: texts[i]), store)
    # A question's prompt of 3 tokens, and two distinct answers of 2 tokens each.
    assert result.cost_to_use.prompt_tokens - alone.cost_to_use.prompt_tokens == 3 + 2 * 2
    assert result.cost_to_use.seconds - alone.cost_to_use.seconds == pytest.approx(2 * 0.5, abs=0.05)
    assert result.cost_to_use.flops is not None
    assert alone.cost_to_use.flops is not None
    assert result.cost_to_use.flops > alone.cost_to_use.flops


def test_samples_are_shared_with_the_other_decodes(folder: str) -> None:
    systems = [System(Model("fake"), PROMPT, decode(n=16)) for decode in (Sample, Majority)]
    systems.append(System(Model("fake"), PROMPT, BestOfN(scorer=folder)))
    assert len({str(stream_key(system, "fake 1", ())) for system in systems}) == 1
    assert len({system_hash(system) for system in systems}) == 3


def test_the_reward_model_counts_by_its_content(folder: str, tmp_path: Path) -> None:
    system = System(Model("fake"), PROMPT, BestOfN(scorer=folder))
    before = system_hash(system)
    moved = Path(folder).rename(tmp_path / "elsewhere")
    system = replace(system, decode=BestOfN(scorer=str(moved)))
    assert system_hash(system) == before
    (moved / "model.safetensors").write_bytes(b"2")
    assert system_hash(system) != before
    assert from_json(to_json(system)) == system


def test_a_run_can_be_moved_with_its_reward_model(tmp_path: Path) -> None:
    with Run.open(tmp_path, "reward_model", {}, name="one") as run:
        (run.path / "reward_model").mkdir()
        run.write_system(System(Model("fake"), PROMPT, BestOfN(scorer=str(run.path / "reward_model"))))
    moved = run.path.rename(tmp_path / "two")
    decode = read_system(moved / "system.json").decode
    assert isinstance(decode, BestOfN)
    assert decode.scorer == str(moved / "reward_model")


def test_without_a_scorer_it_is_refused(store: Store, folder: str) -> None:
    with pytest.raises(UserError, match="A reward model does not choose here"):
        measure(store, folder, ["It is 7"], None)


def test_best() -> None:
    assert best([]) is None
    assert best([-math.inf, -math.inf]) is None
    assert best([-math.inf, -3.0, -2.0, -2.0]) == 2
    assert reward(None) == -math.inf
    assert math.isnan(reward(Completion(0, "", finish=Finish.ERROR, error="x")))
    with pytest.raises(ValueError, match="no score"):
        best([1.0, math.nan])
