"""A comparison as one browser session has it: its panes, what each was asked, and what came of it."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.catalogue import Entry
from workbench.comparing.drawing import Draw, Progress, working
from workbench.comparing.panes import NAMES
from workbench.comparing.questions import Picked
from workbench.comparing.tokens import Token, begun_anew, tokens_of
from workbench.comparing.votes import Tally, Verdict, judged, shown, tally
from workbench.conversation import Turn
from workbench.decoding.ask import room_needed
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.exemplars import choose_fitting
from workbench.lending import Lender
from workbench.prompts import render
from workbench.tasks.base import Task
from workbench.types import Example, Message, Request, System


@dataclass(frozen=True)
class Asked:
    """What a pane was asked.

    Attributes:
        entry: who answers.
        system: how; its decode draws `samples` samples.
        samples: of the question.
        example: the question.
        task: whose grader checks the answers; None where the question is no task's.
    """

    entry: Entry
    system: System
    samples: int
    example: Example
    task: Task | None = None


@dataclass(frozen=True)
class Answered:
    """What came of it.

    Attributes:
        asked: what was asked.
        request: as the engine got it.
        turns: the samples, exactly as generated.
        verdicts: of the samples.
        vote: among the samples.
        which: of the samples is shown as the answer.
        begun: the beginning of the answer that was given to the model, which its turn's text holds.
        seconds: from the question to the last sample's end.
        waited: of them, those before anything came: for other answers' turn, for the model to load and to read.
    """

    asked: Asked
    request: Request
    turns: tuple[Turn, ...]
    verdicts: tuple[Verdict, ...]
    vote: Tally
    which: int
    begun: str = ""
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def text(self) -> str:
        """The answer that is shown."""
        return self.turns[self.which].answer

    @property
    def tokens(self) -> int:
        """Tokens drawn, where they are known."""
        return sum(turn.completion_tokens for turn in self.turns)

    @property
    def stopped(self) -> bool:
        """Whether the person ended it."""
        return any(turn.end == "stopped" for turn in self.turns)


@dataclass
class Pane:
    """One pane. An empty one can be copied, so it can be the initial value of a session's state."""

    draw: Draw = field(default_factory=Draw)
    answered: Answered | None = None
    tokens: tuple[Token, ...] = ()
    token: int | None = None  # the one whose alternatives are shown
    tries: int = 0  # how often the same was asked: other samples each time
    busy: bool = False
    _stopped: threading.Event | None = None

    def stop(self) -> None:
        """End what is on its way."""
        if self._stopped is not None:
            self._stopped.set()
        self.draw.stop()

    async def ask(self, lender: Lender, asked: Asked, again: bool = False) -> AsyncGenerator[Progress, None]:
        """Draw the answer or answers; `answered` holds them when the last progress has come.

        Args:
            lender: lends the model.
            asked: what.
            again: other samples than last time, where it is not greedy.

        Raises:
            UserError: an answer is on its way, or the question cannot be asked.
        """
        self._begin()
        try:
            self.tries = self.tries + 1 if again else 0
            request = await self._request(lender, asked)
            first = self.tries * asked.samples
            request = replace(request, indices=tuple(range(first, first + asked.samples)))
            async with aclosing(self._drawn(lender, asked, request, "")) as steps:
                async for step in steps:
                    yield step
        finally:
            self.busy = False

    async def go_on(self, lender: Lender, choice: int) -> AsyncGenerator[Progress, None]:
        """Answer anew from the chosen token, one of its alternatives in its place.

        Raises:
            UserError: an answer is on its way, or there is nothing to go on from.
        """
        before, at = self.answered, self.token
        if before is None or at is None:
            raise UserError("Choose a token of an answer first.")
        begun = begun_anew(self.tokens, at, choice)
        self._begin()
        try:
            *asked, last = before.request.messages
            if last.role == "assistant":  # the prompt's own beginning of the answer
                messages = (*asked, Message("assistant", last.content + begun))
            else:
                messages = (*asked, last, Message("assistant", begun))
            request = replace(before.request, messages=messages, indices=before.request.indices[:1])
            asked_once = replace(before.asked, samples=1)
            async with aclosing(self._drawn(lender, asked_once, request, begun, before.request)) as steps:
                async for step in steps:
                    yield step
        finally:
            self.busy = False

    async def score(self, lender: Lender) -> None:
        """Work out the tokens of the shown answer with their probabilities, where that is not done.

        Raises:
            UserError: the engine cannot tell them, or nothing was answered.
        """
        of = self.answered
        if of is None or self.tokens or self.busy:
            return
        if not of.text:
            raise UserError("There is no answer whose tokens could be shown.")
        self._stopped = threading.Event()

        def work(engine: Engine) -> tuple[Token, ...]:
            return tokens_of(engine, replace(of.request, indices=(0,)), of.text)

        tokens = await working(lender, of.asked.entry, work, self._stopped)
        if self.answered is of:  # nothing else was asked meanwhile
            self.tokens = tokens

    def _begin(self) -> None:
        if self.busy:
            raise UserError("An answer is on its way. Stop it, or wait.")
        self.busy, self.answered, self.tokens, self.token = True, None, (), None
        self._stopped = threading.Event()

    async def _request(self, lender: Lender, asked: Asked) -> Request:
        """The question as the System asks it; exemplars that are near to it may need the model to be found."""
        prompt, example = asked.system.prompt, asked.example
        exemplars: Sequence[Example] = ()
        if prompt.shots:
            assert self._stopped is not None

            def work(engine: Engine) -> Sequence[Example]:
                room = 0 if engine.context is None else room_needed(asked.system.decode, (), engine)
                return choose_fitting(prompt, [example], engine, room)[0][0]

            exemplars = await working(lender, asked.entry, work, self._stopped)
        return Request(example.id, render(prompt, example, exemplars), style=prompt.style)

    async def _drawn(
        self, lender: Lender, asked: Asked, request: Request, begun: str, scored: Request | None = None
    ) -> AsyncGenerator[Progress, None]:
        assert self._stopped is not None
        if self._stopped.is_set():
            raise UserError("Stopped before anything came.")
        sampling = replace(asked.system.decode.sampling(), stop=asked.system.prompt.stop)  # type: ignore[union-attr]
        begun_at, first = time.monotonic(), 0.0
        async with aclosing(self.draw.hear(lender, asked.entry, request, sampling)) as steps:
            async for step in steps:
                first = first or time.monotonic() - begun_at
                if step.turns is None:
                    yield replace(step, text=begun + step.text)
                    continue
                turns = tuple(replace(turn, answer=begun + turn.answer) for turn in step.turns)
                # A task's check may take its time; the page goes on.
                self.answered = await asyncio.to_thread(_answered, asked, scored or request, turns, begun, first)
                yield replace(step, text=begun + step.text, turns=turns)


def _answered(asked: Asked, request: Request, turns: tuple[Turn, ...], begun: str, waited: float) -> Answered:
    verdicts = tuple(judged(turn, asked.example, asked.task) for turn in turns)
    vote = tally(asked.example.id, verdicts)
    seconds = max(turn.seconds for turn in turns)
    waited = waited if waited < seconds else 0.0  # all came at once
    return Answered(asked, request, turns, verdicts, vote, shown(verdicts, vote), begun, seconds, waited)


@dataclass
class Board:
    """A session's comparison.

    Attributes:
        panes: all four, of which the first `count` are shown.
        count: 2 to 4.
        picked: the task's question that was put into the box; it counts as long as the box holds it unchanged.
        showings: how often the answers were shown in a chosen way; only the last goes on.
    """

    panes: list[Pane] = field(default_factory=lambda: [Pane() for _ in NAMES])
    count: int = 2
    picked: Picked | None = None
    showings: int = 0

    def example(self, question: str) -> tuple[Example, Task | None]:
        """What is asked, and the task whose grader checks it, where the question is a task's."""
        if self.is_picked(question):
            assert self.picked is not None
            return self.picked.example, self.picked.task
        return Example.make(question, ""), None

    def is_picked(self, question: Any) -> bool:
        """Whether this is the task's question, unchanged."""
        return self.picked is not None and question == self.picked.example.input

    def stop(self) -> None:
        """End what is on its way in every pane."""
        for pane in self.panes:
            pane.stop()
