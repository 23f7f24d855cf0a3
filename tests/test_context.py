"""Prompts that outgrow the context, through the harness: what is dropped, said and stored."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.decodes import CONTENT_FREE, Greedy, LabelLikelihood
from workbench.decoding.ask import room_needed
from workbench.engines.fake import FakeEngine
from workbench.engines.hf import HfEngine
from workbench.exemplars import choose, choose_fitting
from workbench.harness import evaluate
from workbench.prompts import render
from workbench.store import Store
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import grade_exact, label_grader
from workbench.types import Example, Message, Model, Prompt, Request, Selection, Shots, Status, System

LABELS = ("red", "a deep blue")
# A question of q words behind n exemplars of three words has 3 n + q tokens of the fake engine.
PROMPT = Prompt(
    "p",
    (Message("user", "{{ input }}"),),
    (Message("user", "{{ input }}"), Message("assistant", "{{ target }}")),
)
POOL = tuple(Example.make(f"practice {n}", "red") for n in range(4))
GREEDY = System(Model("fake"), replace(PROMPT, shots=Shots(POOL, 4)), Greedy(max_tokens=5))
LIKELIHOOD = replace(GREEDY, decode=LabelLikelihood())


class Seeing(FakeEngine):
    """The fake engine with a context and a list of what it was asked."""

    def __init__(self, context: int | None) -> None:
        super().__init__(Model("fake"), lambda request, index: "red")
        self.context = context
        self.asked: list[Request] = []

    def sample(self, requests: Any, sampling: Any) -> Any:
        self.asked += requests
        return super().sample(requests, sampling)

    def logprobs(self, requests: Any, continuations: Any) -> Any:
        self.asked += requests
        return super().logprobs(requests, continuations)

    @property
    def shown(self) -> list[list[str]]:
        """The exemplars of each request."""
        return [[m.content[-1] for m in r.messages[:-1] if m.role == "user"] for r in self.asked]


def task(*inputs: str, labels: tuple[str, ...] = ()) -> Task:
    examples = tuple(Example.make(text, "red") for text in inputs)
    return make_task(
        "words",
        settings={},
        splits={"practice": POOL, "dev": examples, "test": examples},
        grade=label_grader(labels) if labels else grade_exact,
        prompt="question",
        labels=labels,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "completions.sqlite") as store:
        yield store


def test_exemplars_leave_until_prompt_and_answer_fit_and_the_notes_say_so(store: Store) -> None:
    """4·3 + 1 + 5 = 18 tokens for "one", 19 for "one two", 22 for five words."""
    engine = Seeing(18)
    result = evaluate(GREEDY, task("one", "one two", "1 2 3 4 5"), engine, store)
    assert engine.shown == [["0", "1", "2", "3"], ["1", "2", "3"], ["2", "3"]]
    assert result.score.value == 1.0
    assert result.notes == (
        "The context of 18 tokens does not hold all exemplars of 2 of 3 questions: 1 lost 1, 1 lost 2, those "
        "furthest away first.",
    )
    assert [outcome.id for outcome in result.outcomes] == [e.id for e in task("one", "one two", "1 2 3 4 5").dev]


@pytest.mark.parametrize("context", [None, 22])
def test_where_all_fit_nothing_is_said(context: int | None, store: Store) -> None:
    engine = Seeing(context)
    assert evaluate(GREEDY, task("one", "1 2 3 4 5"), engine, store).notes == ()
    assert engine.shown == [["0", "1", "2", "3"]] * 2


def test_another_context_never_hits_what_was_stored_with_fewer_exemplars(store: Store) -> None:
    words = task("one", "1 2 3 4 5")
    for context, asked in ((18, 2), (18, 0), (22, 1), (None, 0), (14, 2)):
        engine = Seeing(context)
        evaluate(GREEDY, words, engine, store)
        assert len(engine.asked) == asked, context


def test_zero_shot_prompts_are_not_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeEngine, "count_tokens")
    assert evaluate(replace(GREEDY, prompt=PROMPT), task("one"), Seeing(1), store).score.value == 1.0


def test_the_room_for_labels_is_that_of_the_longest(store: Store) -> None:
    """4·3 + 1 + 3 = 16 tokens with "a deep blue"; calibration asks "N/A", "[MASK]" and "" too."""
    assert room_needed(LabelLikelihood(), LABELS, Seeing(None)) == 3
    assert room_needed(Greedy(7), LABELS, Seeing(None)) == 7
    for context, kept in ((16, ["0", "1", "2", "3"]), (15, ["1", "2", "3"])):
        engine = Seeing(context)
        decode = LabelLikelihood(content_free=CONTENT_FREE)
        evaluate(replace(LIKELIHOOD, decode=decode), task("one", labels=LABELS), engine, store)
        assert engine.shown == [kept] * 4, "content-free texts stand behind the same exemplars"


def test_a_real_model_gets_as_many_exemplars_as_fit_and_no_fewer(tiny_model: Path, store: Store) -> None:
    model = Model(str(tiny_model))
    engine = HfEngine(model, dtype="float32", device="cpu")
    long = "The company said that sales fell in the third quarter. "
    pool = tuple(Example.make(f"{long * 3}{n}", "red") for n in range(12))
    shots = Shots(pool, 12, Selection.BM25)
    system = System(model, replace(PROMPT, shots=shots), LabelLikelihood(content_free=CONTENT_FREE))
    words = task(f"{long}Why?", f"{long * 6}Why?", labels=("red", "blue"))
    result = evaluate(system, words, engine, store)
    assert all(outcome.status is not Status.ERROR for outcome in result.outcomes)
    assert "does not hold all exemplars of 2 of 2 questions" in result.notes[0]

    room = room_needed(system.decode, words.labels, engine)
    shown, dropped = choose_fitting(system.prompt, words.dev, engine, room, CONTENT_FREE)
    assert 0 < dropped[0] < dropped[1] < 12, "the longer question lost more"
    for question, whole, kept in zip(words.dev, choose(shots, words.dev, engine), shown, strict=True):
        assert kept == whole[: len(kept)], "the nearest are left"
        fits, over = engine.count_tokens(
            [Request("", render(PROMPT, question, whole[: len(kept) + more])) for more in (0, 1)]
        )
        assert fits + room <= engine.context < over + room
