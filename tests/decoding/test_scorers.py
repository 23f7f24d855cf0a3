"""Scorers by name, in the harness: what each says, what it refuses, what is stored, and what it costs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.choice_metrics import CEILING
from workbench.decodes import BestOfN, Sample, WeightedVote
from workbench.decoding.best_of_n import weight
from workbench.decoding.scorers import Judge, SelfCertainty
from workbench.engines.fake import FakeEngine
from workbench.engines.hf import HfEngine
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.identity import from_json, system_hash, to_json
from workbench.prompts import load_prompt
from workbench.store import Store
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import grade_number
from workbench.types import Completion, Example, Finish, Message, Model, Prompt, Request, Result, Status, System

PROMPT = Prompt("plain", (Message("system", "Be brief."), Message("user", "{{ input }}")))
LOGPROBS = {"5": -1.0, "7": -3.0, "7 or so": -3.0, "what": -0.1, "": 0.0}


def task(*questions: str) -> Task:
    other = (Example.make("Another?", "1"),)
    examples = tuple(Example.make(question, "7") for question in questions)
    splits = {"practice": other, "dev": other, "test": examples}
    return make_task("numbers", settings={}, splits=splits, grade=grade_number, prompt="plain", max_tokens=8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


class Scripted(FakeEngine):
    """Samples from a list with log-probabilities from a table; a judge that calls an answer true with P(text)."""

    def __init__(self, texts: Sequence[str], true: dict[str, float] | None = None) -> None:
        super().__init__(Model("fake"), lambda request, index: texts[index])
        self.true = true or {}
        self.judged: list[Request] = []

    def sample(self, requests: Any, sampling: Any) -> Any:
        for batch in super().sample(requests, sampling):
            yield [
                (id, replace(c, finish=Finish.LENGTH if c.text.endswith("…") else Finish.STOP,
                             logprob=LOGPROBS.get(c.text)))
                for id, c in batch
            ]  # fmt: skip

    def logprobs(self, requests: Any, continuations: Any) -> Any:
        for request, texts in zip(requests, continuations, strict=True):
            self.judged.append(request)
            said = request.messages[-1].content.partition("Proposed answer:\n")[2].partition("\n")[0]
            for index, text in enumerate(texts):  # one at a time, as a server may answer
                p = self.true[said]
                logprob = math.log(0.1 * (p if index == 0 else 1 - p))
                finish, error = (Finish.ERROR, "no connection") if math.isnan(p) else (Finish.SCORED, None)
                yield [(request.id, Completion(index, text, 20, 1, logprob, 0.25, finish, error))]


def measure(store: Store, decode: Sample, engine: FakeEngine, *questions: str) -> Result:
    return evaluate(System(Model("fake"), PROMPT, decode), task(*(questions or ("q",))), engine, store)


def test_mean_log_probability_of_what_was_drawn(store: Store) -> None:
    """A token's mean: "7 or so" has −3 for three tokens, as much as "5" and more than "7" with −3."""
    engine = Scripted(["7", "5", "7 or so", "what …"])
    result = measure(store, BestOfN(4, scorer="logprob"), engine)
    [outcome] = result.outcomes
    assert (outcome.status, outcome.text) == (Status.WRONG, "5"), (
        "the first of equal ones; what was cut off is none"
    )
    [outcome] = measure(store, WeightedVote(4), engine).outcomes
    assert (outcome.answer, outcome.text) == ("7", "7"), "exp −1 against exp −3 and exp −1"
    alone = measure(store, Sample(4), engine)
    assert result.cost_to_use.prompt_tokens == alone.cost_to_use.prompt_tokens, "nothing is computed anew"
    assert result.cost_to_use.flops == alone.cost_to_use.flops


def test_without_log_probabilities_there_is_no_such_score(store: Store) -> None:
    with pytest.raises(
        UserError, match=r"No question was answered: 0 requests failed. The scores that came are no"
    ):
        measure(store, BestOfN(2, scorer="logprob"), Scripted(["5", "8"]))


def test_the_verifier_is_the_ceiling_and_says_so(store: Store) -> None:
    engine = Scripted(["5", "what", "7", "7 …"])
    result = measure(store, BestOfN(4, scorer="verifier"), engine)
    assert result.outcomes[0].status is Status.CORRECT
    assert CEILING in result.notes
    metrics = dict(result.metrics)
    assert all(metrics[f"best_of@{k}"] == pytest.approx(metrics[f"pass@{k}"]) for k in (1, 2, 4))
    assert metrics["weighted@4"] == 1
    cut = measure(store, BestOfN(2, scorer="verifier"), Scripted(["7 …", "7 …"]), "other")
    assert cut.outcomes[0].status is Status.TRUNCATED, "right or not, it was cut off"
    none = measure(store, WeightedVote(2, scorer="verifier"), Scripted(["5", "8"]), "third")
    assert none.outcomes[0].status is Status.WRONG


def test_a_judge_is_asked_about_each_distinct_answer_once(store: Store) -> None:
    engine = Scripted(["5", "7", "5", "7 or so …", "what"], {"5": 0.3, "7": 0.5, "what": 0.9})
    result = measure(store, BestOfN(5, scorer="judge"), engine)
    assert len(engine.judged) == 3
    [first, *_] = engine.judged
    assert "Question:\nq\n" in first.messages[-1].content
    assert "Be brief" not in first.messages[-1].content, "the question alone"
    assert result.outcomes[0].status is Status.UNPARSABLE, "the judge likes what has no answer"
    voted = measure(store, WeightedVote(5, scorer="judge"), engine)
    assert voted.outcomes[0].answer == "5", ".3 + .3 against .5; what has no answer has no voice"
    assert len(engine.judged) == 3, "kept in the store, for every decode"
    plain = measure(store, Sample(5), engine)
    read = result.cost_to_use.prompt_tokens - plain.cost_to_use.prompt_tokens
    assert read == 3 * (20 + 2), "each distinct answer's prompt, and both words"
    assert result.cost_to_use.flops is not None and plain.cost_to_use.flops is not None
    assert result.cost_to_use.flops > plain.cost_to_use.flops
    assert result.cost_to_use.seconds - plain.cost_to_use.seconds == pytest.approx(3 * 0.5, abs=0.05)


def test_an_answer_that_could_not_be_judged_is_an_error_and_asked_about_again(store: Store) -> None:
    texts = ["5", "7"]
    with pytest.raises(UserError, match=r"1 requests failed. The first: no connection"):
        measure(store, WeightedVote(2, scorer="judge"), Scripted(texts, {"5": 0.5, "7": math.nan}))
    with pytest.raises(UserError, match=r"1 requests failed"):  # one answer, asked about once
        measure(store, WeightedVote(3, scorer="judge"), Scripted(["7"] * 3, {"7": math.nan}), "other")
    engine = Scripted(texts, {"7": 0.7})
    assert measure(store, WeightedVote(2, scorer="judge"), engine).score.value == 1
    assert len(engine.judged) == 1


def test_another_wording_is_another_judge(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted(["5", "7"], {"5": 0.5, "7": 0.7})
    decode = BestOfN(2, scorer="judge")
    measure(store, decode, engine)
    measure(store, decode, engine)
    assert len(engine.judged) == 2
    other = replace(load_prompt("judge-answer"), file_hash="other")
    monkeypatch.setattr("workbench.decoding.scorers.load_prompt", lambda name: other)
    measure(store, decode, engine)
    assert len(engine.judged) == 4


def test_a_judge_of_a_base_model_s_text() -> None:
    """In the style `text` the words bring their blank; the answer's own beginning is part of the answer."""
    engine = Scripted([], {"It is 7": 0.25})
    messages = (Message("user", "How many?"), Message("assistant", "It is"))
    [[(place, told)]] = list(Judge(engine).rewards([(Request("q", messages, style="text"), " 7")]))
    assert (place, told.logprob, told.text) == (0, pytest.approx(0.25), " 7")
    assert engine.judged[0].style == "text"
    seen: list[Any] = []
    engine.logprobs = lambda requests, texts: seen.extend(texts) or iter(())  # type: ignore[method-assign]
    list(Judge(engine).rewards([(Request("q", messages, style="text"), " 7")]))
    assert seen == [[" True", " False"]]


def test_an_engine_that_sees_no_distributions_is_refused_before_anything_is_drawn(store: Store) -> None:
    engine = Scripted(["5"])
    engine.sample = lambda *_: pytest.fail("drawn")  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match=r"Self-certainty needs the probability of every token .* Use --engine hf"):
        measure(store, BestOfN(1, scorer="self-certainty"), engine)


@pytest.mark.usefixtures("one_thread")
def test_self_certainty_of_a_real_engine(tiny_model: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")
    system = System(Model(str(tiny_model)), PROMPT, BestOfN(3, max_tokens=6, scorer="self-certainty"))
    monkeypatch.setattr(engine, "_ends", set(range(0, 2000, 3)))  # so that some samples end
    asked: list[str] = []
    certainty = engine.self_certainty

    def noting(requests: Any, texts: Any) -> Any:
        asked.extend(texts)
        return certainty(requests, texts)

    monkeypatch.setattr(engine, "self_certainty", noting)
    result = evaluate(system, task("one", "two", "three"), engine, store)
    assert len(asked) > 0
    assert dict(result.metrics)["curve_questions"] == 3
    count = len(asked)
    again = evaluate(system, task("one", "two", "three"), engine, store)
    assert len(asked) == count and again.outcomes == result.outcomes
    request = Request("x", (Message("user", "one"),))
    told = dict(pair for batch in SelfCertainty(engine).rewards([(request, ""), (request, "7")]) for pair in batch)
    assert told[0].logprob == 0 and (told[1].logprob or 0) > 0
    [[(_, same)]] = list(certainty([request], ["7"]))
    assert same.logprob == told[1].logprob


def test_weights() -> None:
    assert weight("logprob", math.log(0.25)) == pytest.approx(0.25)
    assert weight("judge", 0.9) == weight("self-certainty", 0.9) == weight("verifier", 0.9) == 0.9
    assert weight("self-certainty", -1e-7) == 0
    assert weight("folder", 0.0) == 0.5
    assert weight("folder", 2.0) == pytest.approx(1 / (1 + math.exp(-2)))
    assert weight("folder", -1000.0) == 0 and weight("folder", 1000.0) == 1
    assert all(weight(scorer, -math.inf) == 0 for scorer in ("logprob", "judge", "verifier", "folder"))


def test_they_are_systems_of_their_own() -> None:
    decodes = [
        BestOfN(4, scorer="judge"),
        BestOfN(4, scorer="logprob"),
        WeightedVote(4),
        WeightedVote(4, scorer="judge"),
    ]
    systems = [System(Model("fake"), PROMPT, decode) for decode in decodes]
    assert len({system_hash(system) for system in systems}) == 4
    assert [from_json(to_json(system)) for system in systems] == systems
