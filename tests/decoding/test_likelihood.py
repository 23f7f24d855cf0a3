"""Log-probabilities of right answers: the engine's own numbers, through the store, and never 0 for a failure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.decodes import Greedy
from workbench.decoding.likelihood import answer_logprobs
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.engines.hf import HfEngine
from workbench.errors import UserError
from workbench.prompts import load_prompt, render
from workbench.store import Store
from workbench.types import Completion, Example, Finish, Message, Model, Prompt, Request, Shots, System

SYSTEM = System(Model("fake"), load_prompt("arithmetic"), Greedy())
EXAMPLES = [Example.make(f"What is {n} + 1?", str(n + 1), f"{n} + 1 = {n + 1}") for n in range(5)]
NONE: list[tuple[Example, ...]] = [()] * len(EXAMPLES)


class Counting(FakeEngine):
    """Tells what it was asked, and fails where it is told to."""

    def __init__(self, fails: Sequence[str] = ()) -> None:
        super().__init__(Model("fake"))
        self.fails = fails
        self.asked: list[str] = []

    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        for batch in super().logprobs(requests, continuations):
            self.asked += [c.text for _, c in batch]
            yield [
                (id, replace(c, finish=Finish.ERROR, error="no", logprob=None) if c.text in self.fails else c)
                for id, c in batch
            ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def score(
    engine: Any, store: Store, system: System = SYSTEM, examples: Sequence[Example] = EXAMPLES, shown: Any = None
) -> list[Completion]:
    shown = [()] * len(examples) if shown is None else shown
    return answer_logprobs(system, examples, shown, engine, store, lambda done, total: None)


def test_it_scores_the_answer_that_the_shot_shows_behind_the_question(store: Store) -> None:
    engine = Counting()
    found = score(engine, store)
    assert engine.asked == [example.rationale for example in EXAMPLES]
    requests = [Request(e.id, render(SYSTEM.prompt, e)) for e in EXAMPLES]
    own = [
        c
        for batch in FakeEngine(Model("fake")).logprobs(requests, [[e.rationale] for e in EXAMPLES])
        for _, c in batch
    ]
    assert [c.logprob for c in found] == [c.logprob for c in own]


def test_what_is_stored_is_not_asked_again(store: Store) -> None:
    engine = Counting()
    first = score(engine, store, examples=EXAMPLES[:2])
    seen: list[tuple[int, int]] = []
    again = answer_logprobs(SYSTEM, EXAMPLES, NONE, engine, store, lambda done, total: seen.append((done, total)))
    assert len(engine.asked) == len(EXAMPLES) and again[:2] == first
    assert (seen[0], seen[-1]) == ((2, 5), (5, 5))


def test_a_failed_request_has_no_number_is_not_stored_and_is_asked_again(store: Store) -> None:
    found = score(Counting(fails=[EXAMPLES[1].rationale]), store)
    assert [c.logprob is None for c in found] == [False, True, False, False, False]
    assert found[1].error == "no"
    engine = Counting()
    assert score(engine, store)[1].logprob is not None
    assert engine.asked == [EXAMPLES[1].rationale]


@pytest.mark.parametrize("change", ["target", "variables", "prompt", "exemplars", "model"])
def test_whatever_changes_the_number_is_another_question_to_the_store(store: Store, change: str) -> None:
    shown: list[tuple[Example, ...]] = [()]
    prompt = replace(SYSTEM.prompt, variables=("input", "hint"), defaults=(("hint", "none"),))
    ask = Message("user", "{{ input }} {{ hint }}")
    prompt = replace(prompt, messages=(ask,), shot=(ask, Message("assistant", "{{ target }}")))
    system, example = replace(SYSTEM, prompt=prompt), EXAMPLES[0]
    score(Counting(), store, system, [example])
    if change == "target":
        example = replace(example, target="another")
    elif change == "variables":
        example = replace(example, variables=(("hint", "think"),))
    elif change == "prompt":
        system = replace(system, prompt=replace(prompt, defaults=(("hint", "look"),)))
    elif change == "exemplars":
        system = replace(system, prompt=replace(prompt, shots=Shots((EXAMPLES[1],), 1)))
        shown = [(EXAMPLES[1],)]
    else:
        system = replace(system, model=Model("fake:0.9"))
    engine = Counting()
    score(engine, store, system, [example], shown)
    assert len(engine.asked) == 1, change


def test_a_prompt_without_a_shot_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="shows no answer: its file has no `shot`"):
        score(Counting(), store, replace(SYSTEM, prompt=Prompt("bare", (Message("user", "{{ input }}"),))))


def test_it_is_the_sum_over_the_answers_tokens(tiny_model: Path, store: Store) -> None:
    """Against the model's own logits, position by position."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    engine = HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")
    system = replace(SYSTEM, model=Model(str(tiny_model)))
    found = score(engine, store, system)
    for example, completion in zip(EXAMPLES, found, strict=True):
        prompt, answer, _ = engine.encoder.encode_pair(
            Request("x", render(system.prompt, example)), example.rationale
        )
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        expected = sum(float(logits[i, token]) for i, token in zip(at, answer, strict=True))
        assert completion.logprob is not None
        assert math.isclose(completion.logprob, expected, rel_tol=1e-4)
        assert completion.completion_tokens == len(answer)
