"""Calibration through the harness: what is asked and how often, what becomes of failures, and what it costs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench.cost import inference_flops
from workbench.decodes import CONTENT_FREE, LabelLikelihood
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.store import Store
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import label_grader
from workbench.types import (
    Completion,
    Example,
    Finish,
    Message,
    Model,
    Prompt,
    Request,
    Selection,
    Shots,
    Status,
    System,
)

LABELS = ("red", "deep blue")
PLAIN, CALIBRATED = LabelLikelihood(), LabelLikelihood(content_free=CONTENT_FREE)
SHOT = (Message("user", "{{ input }}"), Message("assistant", "{{ target }}"))
PROMPT = Prompt("plain", (Message("user", "{{ input }}"),), SHOT)
POOL = tuple(Example.make(f"practice {n}", LABELS[n % 2]) for n in range(6))
ZERO = System(Model("fake"), PROMPT, PLAIN)
FIXED = replace(ZERO, prompt=replace(PROMPT, shots=Shots(POOL[:2], 2)))
NEAREST = replace(ZERO, prompt=replace(PROMPT, shots=Shots(POOL, 2, Selection.BM25)))


def colours(*targets: str, labels: Sequence[str] = LABELS) -> Task:
    examples = tuple(Example.make(f"practice {n} is asked", target) for n, target in enumerate(targets))
    return make_task(
        "colours",
        settings={},
        splits={"practice": POOL, "dev": examples, "test": examples},
        grade=label_grader(tuple(labels)),
        prompt="classify",
        labels=tuple(labels),
    )


class Scripted(FakeEngine):
    """Label probabilities by the last message: p for a question, else those of the content-free text."""

    def __init__(self, free: dict[str, Sequence[float]], p: Sequence[float], failing: str | None = None) -> None:
        super().__init__(Model("fake"))
        self.free, self.p, self.failing = free, p, failing
        self.calls: list[list[Request]] = []

    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        self.calls.append(list(requests))
        for request, texts in zip(requests, continuations, strict=True):
            said = request.messages[-1].content
            if said == self.failing:
                yield [
                    (request.id, Completion(i, "", finish=Finish.ERROR, error="gone")) for i in range(len(texts))
                ]
                continue
            # Half of the probability is on texts that are no label; a label has a token a word.
            logs = [math.log(p / 2) for p in self.free.get(said, self.p)]
            yield [
                (request.id, Completion(i, text, 5, len(text.split()), logs[i], 0.5, Finish.SCORED))
                for i, text in enumerate(texts)
            ]

    @property
    def asked(self) -> list[Request]:
        return [request for call in self.calls for request in call]


BIASED = {"N/A": (0.618, 0.382), "[MASK]": (0.7, 0.3), "": (0.536, 0.464)}  # their mean is the paper's p_cf


def biased() -> Scripted:
    return Scripted(BIASED, (0.55, 0.45))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "completions.sqlite") as store:
        yield store


def answers(system: System, task: Task, engine: FakeEngine, store: Store) -> list[str | None]:
    return [outcome.answer for outcome in evaluate(system, task, engine, store).outcomes]


def test_the_papers_numbers_flip_the_answer(store: Store) -> None:
    task = colours("deep blue")
    assert answers(ZERO, task, biased(), store) == ["red"]
    result = evaluate(replace(ZERO, decode=CALIBRATED), task, biased(), store)
    assert [(o.answer, o.status, o.text) for o in result.outcomes] == [("deep blue", Status.CORRECT, "deep blue")]
    assert result.metric("macro_f1") == 1.0


def test_normalised_scores_are_calibrated_as_they_are(store: Store) -> None:
    """Per token "deep blue" gets the root: √.225 = .474 against .275, and √.191 = .437 against .309."""
    engine = Scripted(dict.fromkeys(CONTENT_FREE, (0.618, 0.382)), (0.55, 0.45))
    p = np.array([0.275, math.sqrt(0.225)])
    free = np.array([0.309, math.sqrt(0.191)])
    expected = LABELS[int(np.argmax((p / p.sum()) / (free / free.sum())))]
    for decode, answer in ((LabelLikelihood(True), "deep blue"), (LabelLikelihood(True, CONTENT_FREE), expected)):
        assert answers(replace(ZERO, decode=decode), colours("red"), engine, store) == [answer]


@pytest.mark.parametrize(("system", "free"), [(ZERO, 3), (FIXED, 3), (NEAREST, 9)])
def test_each_content_free_prompt_is_asked_once_in_the_questions_call(
    system: System, free: int, store: Store
) -> None:
    engine, task = biased(), colours("red", "red", "red", "red")
    if system is NEAREST:  # two of the four questions have the same neighbours
        system = replace(system, prompt=replace(system.prompt, shots=replace(system.prompt.shots, pool=POOL[:3])))
    evaluate(replace(system, decode=CALIBRATED), task, engine, store)
    [call] = engine.calls
    ids = [example.id for example in task.dev]
    own = {request.id: request for request in call if request.id in ids}
    others = [request for request in call if request.id not in ids]
    assert len(own) == 4 and len(others) == free
    assert len({request.messages for request in others}) == free, "nothing is asked twice"
    # Behind the same exemplars as the questions, with the question's turn alone exchanged.
    assert {(r.messages[:-1], t) for r in own.values() for t in CONTENT_FREE} == {
        (r.messages[:-1], r.messages[-1].content) for r in others
    }


def test_other_variables_of_a_question_stay(store: Store) -> None:
    prompt = Prompt("p", (Message("user", "{{ input }} of {{ kind }}"),), variables=("input", "kind"))
    task = colours("red", "red")
    kinds = tuple(replace(e, variables=(("kind", f"kind {n}"),)) for n, e in enumerate(task.dev))
    engine = biased()
    evaluate(System(Model("fake"), prompt, CALIBRATED), replace(task, dev=kinds), engine, store, split="dev")
    said = {request.messages[-1].content for request in engine.asked}
    assert {f"{text} of kind {n}" for text in CONTENT_FREE for n in (0, 1)} <= said and len(said) == 8


@pytest.mark.parametrize("first", [PLAIN, CALIBRATED])
def test_plain_and_calibrated_share_the_store(first: LabelLikelihood, store: Store) -> None:
    engine, task = biased(), colours("red", "deep blue")
    for decode in (first, PLAIN, CALIBRATED, LabelLikelihood(True, CONTENT_FREE)):
        evaluate(replace(FIXED, decode=decode), task, engine, store)
    ids = [request.id for request in engine.asked]
    assert len(ids) == len(set(ids)) == 2 + 3


def test_a_failed_content_free_request_is_an_error_of_its_questions_alone(store: Store) -> None:
    task = colours("red", "red", "deep blue", "deep blue")
    system = replace(NEAREST, decode=CALIBRATED)
    whole = biased()
    assert None not in answers(system, task, whole, store)
    # Lose one content-free prompt: that of the first question's exemplars.
    first = next(request for request in whole.asked if request.id == task.dev[0].id)

    class Losing(Scripted):
        def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
            for batch, request in zip(super().logprobs(requests, continuations), requests, strict=True):
                lost = request.messages[:-1] == first.messages[:-1] and request.messages[-1].content == "[MASK]"
                error = Completion(0, "", finish=Finish.ERROR, error="gone")
                yield [(request.id, error), *batch[1:]] if lost else batch

    with Store(store.path.with_name("other.sqlite")) as other:
        result = evaluate(system, task, Losing(BIASED, (0.55, 0.45)), other)
        same = [r.messages[:-1] == first.messages[:-1] for r in whole.asked if r.id in [e.id for e in task.dev]]
        assert [o.status is Status.ERROR for o in result.outcomes] == same and 0 < sum(same) < 4
        assert [o.answer for o in result.outcomes if o.status is Status.ERROR] == [None] * sum(same)
        assert result.total == 4 - sum(same)
        assert "1 requests failed" in result.notes[0]
        again = biased()
        assert None not in answers(system, task, again, other)
        assert len(again.asked) == 1, "only what failed is asked again"


def test_where_no_content_free_request_succeeds_there_is_no_result(store: Store) -> None:
    with pytest.raises(UserError, match=r"No question was answered: 2 requests failed\. The first: gone"):
        evaluate(replace(ZERO, decode=CALIBRATED), colours("red"), Scripted(BIASED, (0.55, 0.45), "N/A"), store)


def test_the_cost_to_use_shares_the_content_free_prompts_out(store: Store) -> None:
    """4 questions and 3 content-free prompts, each of 5 prompt tokens, 3 label tokens and 2 × .5 s."""
    task = colours("red", "red", "red", "red")
    plain = evaluate(FIXED, task, biased(), store).cost_to_use
    use = evaluate(replace(FIXED, decode=CALIBRATED), task, biased(), store).cost_to_use
    assert (plain.prompt_tokens, plain.completion_tokens, plain.seconds) == (5, 3, 1)
    assert (use.prompt_tokens, use.completion_tokens, use.seconds) == (5 * 7 / 4, 3 * 7 / 4, 7 / 4)
    assert plain.flops == inference_flops(FakeEngine.shape, 5, 3)
    assert use.flops == pytest.approx(plain.flops * 7 / 4)


def test_a_label_that_begins_another_is_refused_only_where_it_must_win(store: Store) -> None:
    task = colours("red", labels=("red", "reddish blue"))
    engine = Scripted(dict.fromkeys(CONTENT_FREE, (0.5, 0.5)), (0.55, 0.45))
    with pytest.raises(UserError, match="The label 'red' begins the label 'reddish blue'"):
        evaluate(ZERO, task, engine, store)
    for decode in (LabelLikelihood(normalize=True), CALIBRATED):
        evaluate(replace(ZERO, decode=decode), task, engine, store)


@pytest.mark.parametrize("system", [FIXED, NEAREST])
def test_with_a_real_model_the_answers_are_the_formulas(
    system: System, tiny_model: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores asked of the engine one prompt at a time, divided by hand."""
    from workbench.engines.hf import HfEngine

    engine = HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")
    score, asked = engine.logprobs, dict[str, Request]()

    def spied(requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        asked.update({request.id: request for request in requests})
        return score(requests, continuations)

    monkeypatch.setattr(engine, "logprobs", spied)
    task = colours("red", "deep blue", "red", "red", "deep blue")
    found = answers(replace(system, model=Model(str(tiny_model)), decode=CALIBRATED), task, engine, store)

    def probabilities(request: Request) -> np.ndarray:
        [batch] = score([request], [LABELS])
        logs = np.array([c.logprob for _, c in sorted(batch, key=lambda item: item[1].index)])
        weights: np.ndarray = np.exp(logs)
        return weights / weights.sum()

    for example, answer in zip(task.dev, found, strict=True):
        before, own = asked[example.id].messages[:-1], probabilities(asked[example.id])
        beside = [
            r for r in asked.values() if r.messages[:-1] == before and r.messages[-1].content in CONTENT_FREE
        ]
        assert len(beside) == 3
        assert answer == LABELS[int(np.argmax(own / np.mean([probabilities(r) for r in beside], axis=0)))]
