"""Samples of one question as a page hears them: how far they are while they come, and Stop.

A model in this process draws them as one batch, which is fast and takes the model's turn; of a server each is
asked for as an answer of its own, as many at once as it is lent.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from workbench.catalogue import Entry
from workbench.conversation import End, Turn
from workbench.decodes import Sampling
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.lending import Lender
from workbench.talk import PAUSE, Talk
from workbench.types import Completion, Finish, Request

T = TypeVar("T")

_QUICK_UPDATES = 10
_STEP = 0.7  # seconds that a batch has to end between two tokens; the page promises a second
_STOPPED = "Stopped before it was done."

_END: dict[Finish, End] = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.ERROR: "error"}


@dataclass(frozen=True)
class Progress:
    """How far the samples are.

    Attributes:
        ended: samples that have ended.
        tokens: drawn so far, where it is known.
        text: of the first sample, as far as it has come; empty where samples are drawn together.
        turns: every sample's turn, when all have ended or been stopped; else None.
    """

    ended: int
    tokens: int
    text: str = ""
    turns: tuple[Turn, ...] | None = None


async def working(
    lender: Lender, entry: Entry, work: Callable[[Engine], T], stopped: threading.Event, grace: float = 0.0
) -> T:
    """What work with an entry's engine gives, in its turn and in a thread of its own.

    Args:
        lender: lends the model.
        entry: whose it is.
        work: is not begun once `stopped` is set; when it is set later, the thread goes on until the work ends.
        stopped: ends the waiting, also that for the model to load and for its turn.
        grace: seconds that work which has begun, and looks at `stopped` itself, is still waited for.

    Raises:
        UserError: it was stopped, the model cannot be lent or opened, or the work's own.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    begun = threading.Event()

    def settle(result: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error is not None else done.set_result(result)

    with ExitStack() as stack:
        speaker = stack.enter_context(lender.lent(entry))

        def run(left: ExitStack) -> None:
            result, failure = None, None
            with left:  # the model is lent until this thread has left it
                try:
                    with speaker.working() as engine:
                        if stopped.is_set():
                            raise UserError(_STOPPED)
                        begun.set()
                        result = work(engine)
                except Exception as error:
                    failure = error
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(settle, result, failure)

        name = "workbench-work"
        threading.Thread(target=run, args=(stack.pop_all(),), name=name, daemon=True).start()
    try:
        while not done.done() and not stopped.is_set():
            await asyncio.wait({done}, timeout=PAUSE)
        if begun.is_set():
            await asyncio.wait({done}, timeout=grace)
        if not done.done():
            raise UserError(_STOPPED)
        return done.result()
    finally:
        done.cancel()  # nobody waits for it any more


class Draw:
    """The samples of one pane, one question at a time, which any event of the same browser session can stop."""

    def __init__(self) -> None:
        self._talks: list[Talk] = []
        self._stopped: threading.Event | None = None
        self._task: asyncio.Task[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether samples are on their way."""
        return self._stopped is not None

    def stop(self) -> None:
        """End the samples that are on their way; those that have ended are kept."""
        if self._stopped is not None:
            self._stopped.set()
        for talk in self._talks:
            talk.stop()

    async def hear(
        self, lender: Lender, entry: Entry, request: Request, sampling: Sampling
    ) -> AsyncGenerator[Progress, None]:
        """Draw every index of the request. Closing the iterator stops them.

        Raises:
            UserError: samples are on their way already, or the model cannot be lent now.
        """
        if self.busy:
            raise UserError("An answer is on its way. Stop it, or wait.")
        self._stopped = threading.Event()
        try:
            draw = self._batch if entry.in_process and len(request.indices) > 1 else self._talked
            async with aclosing(draw(lender, entry, request, sampling)) as steps:
                async for step in steps:
                    yield step
        finally:
            self.stop()
            self._talks, self._stopped = [], None

    async def _talked(
        self, lender: Lender, entry: Entry, request: Request, sampling: Sampling
    ) -> AsyncGenerator[Progress, None]:
        """Each sample as an answer of its own."""
        self._talks = [Talk() for _ in request.indices]
        turns: list[Turn | None] = [None] * len(self._talks)
        texts = [""] * len(self._talks)
        tokens = [0] * len(self._talks)
        news = asyncio.Event()
        updates = 0

        async def one(place: int) -> None:
            asked = replace(request, indices=(request.indices[place],))
            async with aclosing(self._talks[place].hear(lender, entry, asked, sampling)) as pieces:
                async for heard in pieces:
                    texts[place], tokens[place], turns[place] = heard.text, heard.tokens, heard.turn
                    news.set()

        tasks = [asyncio.create_task(one(place)) for place in range(len(turns))]
        for task in tasks:
            task.add_done_callback(lambda _: news.set())
        try:
            while not all(task.done() for task in tasks):
                await news.wait()
                news.clear()
                done = [turn for turn in turns if turn is not None]
                if len(done) < len(turns) and any(texts):
                    yield Progress(len(done), sum(tokens), texts[0])
                    updates += 1
                    # The first words come at once; then four panes together must not keep a browser busy.
                    await asyncio.sleep(PAUSE if updates < _QUICK_UPDATES else 4 * PAUSE)
            for task in tasks:
                task.result()
        finally:
            self.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
        whole = tuple(turn for turn in turns if turn is not None)
        yield Progress(len(whole), sum(tokens), texts[0], whole)

    async def _batch(
        self, lender: Lender, entry: Entry, request: Request, sampling: Sampling
    ) -> AsyncGenerator[Progress, None]:
        """All samples in one batch of the engine in this process."""
        stopped = self._stopped
        assert stopped is not None
        question, started = request.messages[-1].content, time.monotonic()
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        found: dict[int, Completion] = {}
        tokens: dict[int, int] = {}  # of each sample that is being drawn

        def wake() -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(news.set)

        def watch(rows: Sequence[Any]) -> bool:
            tokens.update((row.index, len(row.tokens)) for row in rows)
            ended.update(row.index for row in rows if row.finish is not None)
            wake()
            return not stopped.is_set()

        ended: set[int] = set()

        def work(engine: Any) -> None:
            engine.watch = watch
            try:
                for batch in engine.sample([request], sampling):
                    found.update((completion.index, completion) for _, completion in batch)
                    if stopped.is_set():
                        break
            finally:
                engine.watch = None

        problem = ""
        task = asyncio.create_task(working(lender, entry, work, stopped, _STEP))
        task.add_done_callback(lambda _: news.set())
        try:
            while not task.done() and not stopped.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), PAUSE)  # Stop is looked for as often
                if news.is_set() and not task.done():
                    news.clear()
                    yield Progress(len(ended), sum(tokens.values()))
                    await asyncio.sleep(PAUSE)
            await task  # after Stop too: samples that have ended come when the token is drawn that is on its way
        except UserError as error:
            problem = "" if stopped.is_set() else str(error)
        except Exception as error:  # a bug: its traceback is for the terminal, the page goes on
            traceback.print_exc(file=sys.stderr)
            problem = f"{type(error).__name__}: {error}"
        finally:
            stopped.set()  # also when the browser has gone
            task.cancel()
        seconds = time.monotonic() - started
        turns = tuple(
            _turn(question, found.get(index), problem, tokens.get(index, 0), seconds) for index in request.indices
        )
        yield Progress(len(found), sum(turn.completion_tokens for turn in turns), "", turns)


def _turn(question: str, completion: Completion | None, problem: str, tokens: int, seconds: float) -> Turn:
    if completion is not None:
        end, error = _END[completion.finish], completion.error or ""
        counts = (completion.prompt_tokens, completion.completion_tokens)
        return Turn(question, completion.text, end, *counts, seconds, error)
    if problem:
        return Turn(question, "", "error", seconds=seconds, error=problem)
    return Turn(question, "", "stopped", completion_tokens=tokens, seconds=seconds)
