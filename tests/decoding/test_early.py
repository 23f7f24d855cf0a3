"""A vote that stops early: what it draws, what it answers, what it costs, and what it says of itself."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.decodes import EarlyMajority, Majority
from workbench.decoding.ask import stream_key
from workbench.decoding.early import first_round, leaders
from workbench.decoding.vote import majority
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.identity import from_json, system_hash, to_json
from workbench.store import Store
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import grade_number
from workbench.types import Example, Finish, Message, Model, Prompt, Request, Result, Status, System

PROMPT = Prompt("plain", (Message("user", "{{ input }}"),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


class Counting(FakeEngine):
    """Notes which samples of which question each call draws; a text that ends in … was cut off."""

    def __init__(self, script: Any) -> None:
        super().__init__(Model("fake"), script)
        self.calls: list[dict[str, tuple[int, ...]]] = []

    def sample(self, requests: Any, sampling: Any) -> Any:
        self.calls.append({request.messages[-1].content: request.indices for request in requests})
        for batch in super().sample(requests, sampling):
            yield [(id, replace(c, finish=Finish.LENGTH) if c.text.endswith("…") else c) for id, c in batch]


def task(*questions: str) -> Task:
    other = (Example.make("Another?", "1"),)
    examples = tuple(Example.make(question, "7") for question in questions)
    splits = {"practice": other, "dev": other, "test": examples}
    return make_task("numbers", settings={}, splits=splits, grade=grade_number, prompt="plain", max_tokens=8)


def measure(decode: Majority, store: Store, **texts: Sequence[str]) -> tuple[Result, Counting]:
    """Each question by its name, with the samples that it would have; `!` is one that fails."""

    def script(request: Request, index: int) -> str:
        text = texts[request.messages[-1].content][index]
        if text == "!":
            raise RuntimeError("down")
        return text

    engine = Counting(script)
    return evaluate(System(Model("fake"), PROMPT, decode), task(*texts), engine, store), engine


def test_it_draws_what_it_needs_and_no_more(store: Store) -> None:
    """Eight samples: five of one answer cannot be caught; after 4 to 1 one more of three is needed."""
    result, engine = measure(EarlyMajority(8, block=1), store, sure=["7"] * 8, unsure=["7", "5"] + ["7"] * 6)
    assert engine.calls == [{"sure": (0, 1, 2, 3, 4), "unsure": (0, 1, 2, 3, 4)}, {"unsure": (5,)}]
    assert {o.samples for o in result.outcomes} == {5, 6}
    assert {(o.status, o.answer) for o in result.outcomes} == {(Status.CORRECT, "7")}
    metrics = dict(result.metrics)
    assert metrics["samples_drawn"] == 5.5
    assert metrics["samples_saved"] == pytest.approx(2.5 / 8)
    assert metrics["rounds"] == 1.5
    assert "pass@1" not in metrics, "questions with all their samples are no fair sample of questions"
    assert metrics["one_sample"] == pytest.approx((1 + 4 / 5) / 2), "of the first round, which all questions have"
    [note] = [note for note in result.notes if note.startswith("It drew 5.5 of 8 samples")]
    assert "no comparison" in note


def test_a_block_is_drawn_whole(store: Store) -> None:
    _, engine = measure(EarlyMajority(16, block=6), store, q=["7"] * 8 + ["5"] * 8)
    assert engine.calls == [{"q": tuple(range(9))}, {"q": tuple(range(9, 15))}, {"q": (15,)}]
    assert first_round(EarlyMajority(16, block=6)) == 9
    assert first_round(EarlyMajority(16, block=12)) == 12
    assert first_round(EarlyMajority(4, block=12)) == 4


def test_at_a_confidence(store: Store) -> None:
    """P(Beta(5, 1) > ½) = 1 − 2⁻⁵ = .969: four of one answer are enough for .95, as three (.9375) are not."""
    result, engine = measure(EarlyMajority(20, stop=0.95, block=1), store, q=["7"] * 20)
    assert engine.calls == [{"q": (0, 1, 2, 3)}]
    assert result.outcomes[0].samples == 4
    _, engine = measure(EarlyMajority(20, stop=0.93, block=1), store, other=["7"] * 20)
    assert engine.calls == [{"other": (0, 1, 2)}]


def test_no_voice_and_no_sample(store: Store) -> None:
    """Cut-off and unparsable samples are drawn and do not vote; a failed one may yet vote, so that it is left."""
    texts = ["7", "nothing", "7 …", "7", "7", "7", "7", "5", "5"]
    _, engine = measure(EarlyMajority(9, block=1), store, q=texts)
    assert engine.calls == [{"q": (0, 1, 2, 3, 4)}, {"q": (5,)}], "4 of 9, and 3 left"
    result, engine = measure(EarlyMajority(5, block=1), store, p=["7", "!", "7", "5", "7"])
    assert engine.calls == [{"p": (0, 1, 2)}, {"p": (3,)}, {"p": (4,)}]
    assert result.outcomes[0].samples == 4
    again, engine = measure(EarlyMajority(5, block=1), store, p=["7", "7", "7", "5", "7"])
    assert engine.calls == [{"p": (1,)}], "the failed one is asked for again, and then it is settled"
    assert again.outcomes[0].samples == 3
    with pytest.raises(UserError, match="4 requests failed"):
        measure(EarlyMajority(4, block=1), store, r=["!"] * 4)


def test_beside_the_whole_vote_where_the_store_has_it(store: Store) -> None:
    texts = {"a": ["7"] * 6, "b": ["7", "5", "5", "5", "5", "7"], "c": ["5", "7", "7", "5", "7", "7"]}
    whole, _ = measure(Majority(6), store, **texts)
    result, engine = measure(EarlyMajority(6, block=1), store, **texts)
    assert engine.calls == [], "all of it is in the store"
    metrics = dict(result.metrics)
    assert [o.answer for o in result.outcomes] == [o.answer for o in whole.outcomes] == ["7", "5", "7"]
    assert metrics["same_answer"] == 1
    assert metrics["early_minus_full"] == 0
    assert metrics["full_vote"] == whole.score.value
    drawn = [o.samples for o in result.outcomes]
    assert drawn == [4, 5, 6]
    assert metrics["tokens_saved"] == pytest.approx(1 - sum(drawn) / 18), "each sample is one word"
    assert metrics["rounds"] == pytest.approx(5 / 3), "after 4; b also after 5, c also after 6"
    assert metrics["all_tokens_saved"] == pytest.approx(1 - (sum(drawn) + 5) / (18 + 3)), "and a word a prompt"
    [note] = [note for note in result.notes if note.startswith("It drew")]
    assert "the same answer to 3 of 3 questions" in note
    hasty, _ = measure(EarlyMajority(6, stop=0.7, block=1), store, **texts)
    assert [o.answer for o in hasty.outcomes] == ["7", "7", "5"], "a first answer is ahead with P = 3/4"
    assert dict(hasty.metrics)["same_answer"] == pytest.approx(1 / 3)
    assert dict(hasty.metrics)["early_minus_full"] == pytest.approx(2 / 3 - 2 / 3), "one mended, one broken"


def test_what_is_drawn_is_what_it_costs(store: Store) -> None:
    texts = {"a question": ["7"] * 6, "b question": ["7", "5", "7", "5", "7", "5"]}
    whole, _ = measure(Majority(6), store, **texts)
    result, _ = measure(EarlyMajority(6, block=1), store, **texts)
    assert result.cost_to_use.completion_tokens == (4 + 6) / 2
    assert whole.cost_to_use.completion_tokens == 6
    rounds = dict(result.metrics)["rounds"]
    assert rounds > 1
    assert result.cost_to_use.prompt_tokens == 2 * rounds, "a prompt of two words is read once a round"
    assert result.cost_to_use.flops is not None and whole.cost_to_use.flops is not None


def test_samples_are_those_of_the_whole_vote() -> None:
    early, full = (System(Model("fake"), PROMPT, decode) for decode in (EarlyMajority(16), Majority(16)))
    assert stream_key(early, "fake 1", ()) == stream_key(full, "fake 1", ())
    assert system_hash(early) != system_hash(full)
    for stop in ("certain", 0.95):
        system = replace(early, decode=EarlyMajority(16, stop=stop))  # type: ignore[arg-type]
        assert from_json(to_json(system)) == system


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["7", "5", "3", "what"]), min_size=1, max_size=12), st.integers(1, 5))
def test_certain_means_certain(texts: list[str], block: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as store:
        result, engine = measure(EarlyMajority(len(texts), block=block), store, q=texts)
    [outcome] = result.outcomes
    answers = [text if text != "what" else None for text in texts]
    assert outcome.answer == majority(outcome.id, answers), "the whole vote's answer, ties among them"
    [drawn] = [[i for call in engine.calls for i in call["q"]]]
    assert drawn == list(range(len(drawn))), "in order, none twice"
    if block == 1 and 1 < len(drawn) < len(texts):
        first, second = leaders(answers[: len(drawn) - 1])
        assert first <= second + len(texts) - len(drawn) + 1, "one sample fewer would not have done"


@pytest.mark.parametrize("stop", [0.5, 1.0, 0.0, -1.0, 1, True, "sure", float("nan"), None])
def test_stops_that_are_none(stop: Any) -> None:
    with pytest.raises(UserError, match=r"stop is .* it must be certain, or a number above 0.5 and below 1"):
        EarlyMajority(stop=stop)


def test_blocks_that_are_none() -> None:
    with pytest.raises(UserError, match="block is 0"):
        EarlyMajority(block=0)
