"""What the tests of stepwise decodes share: a scripted model, its stages, and what was asked of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.decodes import Decode, Sampling
from workbench.decoding.steps import Stages
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.store import Store
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import grade_number
from workbench.types import Completion, Example, Message, Model, Prompt, Request, System

PROMPT = Prompt("plain", (Message("user", "{{ input }}"),))
QUESTIONS = tuple(Example.make(f"Question {i}?", "7") for i in range(3))

Script = Callable[[Request, int], str]


def task(questions: Sequence[Example] = QUESTIONS) -> Task:
    other = (Example.make("Another?", "1"),)
    splits = {"practice": other, "dev": other, "test": tuple(questions)}
    return make_task("numbers", settings={}, splits=splits, grade=grade_number, prompt="plain", max_tokens=8)


class Noting(FakeEngine):
    """A fake engine that notes every sample that it was asked for, and may die at one of them."""

    def __init__(self, script: Script | None, model: str = "fake", dies_at: int | None = None) -> None:
        super().__init__(Model(model), script)
        self.asked: list[tuple[Request, Sampling]] = []
        self.dies_at = dies_at

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        for request in requests:
            for index in request.indices:
                if self.dies_at is not None and len(self.asked) >= self.dies_at:
                    raise KeyboardInterrupt
                self.asked.append((replace(request, indices=(index,)), sampling))
                yield from super().sample([self.asked[-1][0]], sampling)


def said(request: Request) -> str:
    """What the assistant has said so far in a conversation."""
    last = request.messages[-1]
    return last.content if last.role == "assistant" else ""


def stages(engine: FakeEngine, store: Store, decode: Decode, **changes: Any) -> Stages:
    """The three questions under a decode, with changes to the prompt."""
    system = System(Model("fake"), replace(PROMPT, **changes), decode)
    return Stages(system, [Request(q.id, (Message("user", q.input),)) for q in QUESTIONS], engine, store)


def read(question: str, completion: Completion) -> str | None:
    """The number in an answer."""
    return grade_number(completion.text, QUESTIONS[0]).answer


def whole_store(path: Path) -> dict[str, int]:
    """How many completions the store has of each name."""
    counts: dict[str, int] = {}
    with Store(path) as store:
        for number, _, _ in list(store.streams()):
            for name, _ in store.rows(number):
                counts[name] = counts.get(name, 0) + 1
    return counts
