"""A round: two unnamed models answer one question, and a person says once which answer is better.

Everything that a vote records but its word comes from the server: the browser knows a round by a number without
meaning, and learns who answered when it has voted.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.arena.asked import Asked, played
from workbench.arena.kept import keep
from workbench.arena.names import names_itself
from workbench.catalogue import Entry
from workbench.conversation import Turn
from workbench.decodes import Greedy, Sample, Sampling
from workbench.errors import UserError
from workbench.identity import system_hash
from workbench.inert import is_utf8
from workbench.lending import Lender
from workbench.preferring.votes import VOTES
from workbench.prompts import render
from workbench.talk import Talk
from workbench.types import Example, Request, System

_TICK = 1.0  # seconds between two signs that answers are on their way


@dataclass(frozen=True)
class Side:
    """One answer of a round: who gives it, as what System, and the finished turn."""

    entry: Entry
    system: System
    turn: Turn

    def told(self) -> dict[str, str]:
        """Who it is."""
        return {"key": self.entry.key, "label": self.entry.label, "hash": system_hash(self.system)}


@dataclass(frozen=True)
class Round:
    """Two finished answers that can be voted on.

    Attributes:
        id: what the browser names the round by.
        asked: the question.
        left, right: the answers.
    """

    id: str
    asked: Asked
    left: Side
    right: Side

    def row(self, vote: str) -> dict[str, Any]:
        """The vote as it is kept, and as `preferring/votes.py` reads it."""
        turns = self.asked.turns()
        alone = [turn.role for turn in turns] == ["user"]
        named = [side.entry for side in (self.left, self.right)]
        return {
            "prompt": turns[0].content if alone else [vars(turn) for turn in turns],
            "left": self.left.turn.answer,
            "right": self.right.turn.answer,
            "vote": vote,
            "left_system": self.left.told(),
            "right_system": self.right.told(),
            "left_end": self.left.turn.end,
            "right_end": self.right.turn.end,
            "task": self.asked.task or None,
            "question": self.asked.example.id,
            "names_itself": any(names_itself(side.turn.answer, named) for side in (self.left, self.right)),
            "round": self.id,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }


class Match:
    """What one browser session has: the answers on their way, or the round that can be voted on."""

    def __init__(self) -> None:
        self._talks: list[Talk] = []
        self._running = self._stopped = False
        self._round: Round | None = None

    def stop(self) -> None:
        """End both answers; their round is dropped."""
        self._stopped = True
        for talk in self._talks:
            talk.stop()

    def check_free(self) -> None:
        """That a round can begin.

        Raises:
            UserError: one is on its way.
        """
        if self._running:
            raise UserError("A round is on its way. Stop it, or wait.")

    async def play(
        self, lender: Lender, asked: Asked, left: Entry, right: Entry, sampling: Sampling
    ) -> AsyncGenerator[float | Round, None]:
        """Have both answer: the seconds so far about once a second, and the round last.

        Nothing of an answer is told before both are there, so that neither speed nor order can tell one model
        from another. Closing the iterator stops both.

        Args:
            lender: lends the models.
            asked: the question.
            left, right: who answers.
            sampling: how, for a model that is no run's System.

        Raises:
            UserError: a round is on its way already, or the round is dropped: an answer failed, was stopped, or
                has no text.
        """
        self.check_free()
        self._running, self._stopped, self._round = True, False, None
        self._talks = [Talk(), Talk()]
        started = time.monotonic()
        # Where there is room for one model only, one answers after the other.
        together = asyncio.Semaphore(1 if left.in_process and right.in_process and lender.keep < 2 else 2)
        tasks = [
            asyncio.create_task(self._side(talk, together, lender, entry, asked, sampling))
            for talk, entry in zip(self._talks, (left, right), strict=True)
        ]
        try:
            waiting: set[asyncio.Task[Side]] = set(tasks)
            while waiting:
                yield time.monotonic() - started
                done, waiting = await asyncio.wait(waiting, timeout=_TICK, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            first, second = (task.result() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running, self._talks = False, []
        self._round = Round(secrets.token_hex(16), asked, first, second)
        yield self._round

    async def _side(
        self, talk: Talk, turn: asyncio.Semaphore, lender: Lender, entry: Entry, asked: Asked, sampling: Sampling
    ) -> Side:
        """One answer, whole.

        Raises:
            UserError: it failed, was stopped, or is no text that a vote could be about.
        """
        async with turn:
            system = played(entry, asked, sampling)
            request = await asyncio.to_thread(_request, lender, entry, system, asked)
            if self._stopped:
                raise UserError("Stopped: the round is dropped.")
            decode = system.decode
            assert isinstance(decode, (Greedy, Sample)), f"one answer is drawn, not {decode}"
            how = replace(decode.sampling(), stop=system.prompt.stop)
            said: Turn | None = None
            async with aclosing(talk.hear(lender, entry, request, how)) as heard:
                async for now in heard:
                    said = now.turn
        assert said is not None, "an answer ends with its turn"
        if said.end == "stopped":
            raise UserError("Stopped: the round is dropped.")
        if said.end == "error":
            raise UserError(f"The round is dropped, because an answer failed: {said.error}")
        if not said.answer.strip() or not is_utf8(said.answer):
            raise UserError("The round is dropped, because a model answered with no readable text.")
        return Side(entry, system, said)

    def vote(self, id: object, word: object, home: Path) -> dict[str, Any]:
        """Keep the vote on the open round in the visitor's folder, once, and give its row.

        Raises:
            UserError: there is no such vote, the round is not open, or the vote cannot be written.
        """
        if word not in VOTES:
            raise UserError(f"A vote is one of {', '.join(VOTES)}.")
        voted, self._round = self._round, None  # at once: the second click of two finds no round
        if voted is None or id != voted.id:
            self._round = voted
            raise UserError("This round is not open any more. Start a new one.")
        try:
            row = voted.row(str(word))
            keep(home, row)
        except UserError:
            self._round = voted
            raise
        return row


def _request(lender: Lender, entry: Entry, system: System, asked: Asked) -> Request:
    """The question as a System asks it, with its exemplars; a sample of its own. Blocks."""
    prompt = system.prompt
    shown: tuple[Example, ...] = ()
    if prompt.shots is not None:
        from workbench.exemplars import choose_fitting

        assert isinstance(system.decode, (Greedy, Sample))
        with lender.lent(entry) as speaker, speaker.working() as engine:
            room = system.decode.sampling().max_tokens
            [shown], _ = choose_fitting(prompt, [asked.example], engine, room)
    index = secrets.randbelow(2**20)  # the seeds of a question (`sample_seed`): asked again, it is another sample
    return Request(asked.example.id, render(prompt, asked.example, shown), (index,), prompt.style)
