"""The compare pane's answers: asked, stopped, retried, gone on with from a token, shown in three ways."""

import asyncio
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from workbench.comparing.board import Asked, Board, Pane
from workbench.comparing.drawing import Progress
from workbench.comparing.panes import NAMES, Setting, system_of
from workbench.errors import UserError
from workbench.ui import compare_views as views
from workbench.ui.chat_settings import question
from workbench.ui.compare_controls import PaneParts, QuestionParts
from workbench.ui.shell import QUICK, STREAMING, Shell, line, said

Shown = dict[Any, Any]

_SHOWING = {**STREAMING, "trigger_mode": "multiple"}
"""For listeners that show the answers in another way: the next does not wait for the one before, but ends it."""


class Answers:
    """The listeners of the panes' answers.

    Args:
        shell: the page's.
        state: the session's `Board`.
        top: the components above the panes.
        parts: the panes' components.
        setting: what a pane is set to, of what was sent.
        asking: what is shown above the panes when all are asked, and the address.
    """

    def __init__(
        self,
        shell: Shell,
        state: Any,
        top: QuestionParts,
        parts: Sequence[PaneParts],
        setting: Callable[[Shown, int], Setting],
        asking: Callable[[Shown], Shown],
    ) -> None:
        self._shell, self._state, self._top, self._parts = shell, state, top, parts
        self._setting, self._asking = setting, asking

    def connect(self, sent: set[Any]) -> None:
        """Connect buttons, keys and tokens; `sent` are the components whose values the listeners get."""
        top = self._top
        for place in range(len(self._parts)):
            self._connect(place, sent)
        top.stop.click(lambda board: board.stop(), [self._state], None, **QUICK)

        async def show(sent: Shown) -> AsyncIterator[Shown]:
            async for shown in self._shown(sent):
                yield shown

        async def ask_all(sent: Shown) -> AsyncIterator[Shown]:
            async for shown in self._ask_all(sent):
                yield shown

        async def show_after(sent: Shown) -> AsyncIterator[Shown]:
            if sent[top.view] == "text":  # as text they are shown already
                yield _nothing(self._parts[0].answer)
            else:
                async for shown in self._shown(sent):
                    yield shown

        outputs = [*(component for part in self._parts for component in part.shows), self._shell.live]
        # One listener: at each word of any a browser goes through all outputs that may show progress.
        all_asked = top.ask.click(
            ask_all,
            sent,
            [*outputs, self._shell.address, top.line],
            **STREAMING,
            show_progress_on=[self._shell.live],
        )
        all_asked.then(show_after, {self._state, top.view}, self._views(), **_SHOWING)
        top.view.change(show, {self._state, top.view}, self._views(), **_SHOWING)

    def _views(self) -> list[Any]:
        return [component for part in self._parts for component in (part.answer, part.beside)]

    def _connect(self, place: int, sent: set[Any]) -> None:
        import gradio as gr

        top, part, state = self._top, self._parts[place], self._state
        outputs = [*part.shows, self._shell.live]

        async def retry(sent: Shown) -> AsyncIterator[Shown]:
            async for shown in self._ask(place, sent, again=True):
                yield shown

        async def go_on(board: Board, event: gr.EventData) -> AsyncIterator[Shown]:
            pane, choice = board.panes[place], _number(event, "choice")
            steps = pane.go_on(self._shell.lender, choice)
            async for shown in self._answering(place, board, lambda: (steps, 1)):
                yield shown

        async def show(sent: Shown) -> AsyncIterator[Shown]:
            if sent[top.view] == "text":  # as text it is shown already
                yield _nothing(part.answer)
            else:
                async for shown in self._shown(sent):
                    yield shown

        def choose(board: Board, event: gr.EventData) -> str:
            pane, at = board.panes[place], _number(event, "token")
            if not 0 <= at < len(pane.tokens):
                return ""
            pane.token = at
            return views.alternatives(pane)

        for asked in (
            part.retry.click(retry, sent, outputs, **STREAMING),
            part.beside.click(go_on, [state], outputs, **STREAMING),
        ):
            asked.then(show, {state, top.view}, self._views(), **_SHOWING)
        part.stop.click(lambda board: board.panes[place].stop(), [state], None, **QUICK)
        part.answer.click(choose, [state], [part.beside], **QUICK)

    async def _ask_all(self, sent: Shown) -> AsyncIterator[Shown]:
        """All panes at once, in one listener: of several on one button a browser starts one after the other."""
        news: asyncio.Queue[Shown | None] = asyncio.Queue()

        async def one(place: int) -> None:
            try:
                async for shown in self._ask(place, sent, again=False):
                    news.put_nowait(shown)
            finally:
                news.put_nowait(None)

        tasks = [asyncio.create_task(one(place)) for place in range(sent[self._state].count)]
        left, found = len(tasks), self._asking(sent)
        try:
            while left:
                waiting = [await news.get()]
                while not news.empty():
                    waiting.append(news.get_nowait())
                for shown in waiting:
                    left -= shown is None
                    found |= shown or {}
                if found:
                    yield found
                found = {}
        finally:  # also when the browser has gone
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, place: int, sent: Shown, again: bool) -> AsyncIterator[Shown]:
        board: Board = sent[self._state]

        def begin() -> tuple[AsyncGenerator[Progress, None], int]:
            words = question(sent[self._top.box])
            setting = self._setting(sent, place)
            entry, system = system_of(setting, self._shell.catalogue)
            asked = Asked(entry, system, setting.samples, *board.example(words))
            return board.panes[place].ask(self._shell.lender, asked, again), setting.samples

        return self._answering(place, board, begin)

    async def _answering(
        self,
        place: int,
        board: Board,
        begin: Callable[[], tuple[AsyncGenerator[Progress, None], int]],
    ) -> AsyncIterator[Shown]:
        """What a pane shows as its answers come, and whatever goes wrong, in the pane."""
        if place >= board.count:
            yield _nothing(self._parts[place].status)
            return
        part, pane = self._parts[place], board.panes[place]
        free = {part.stop: _button(False), part.retry: _button(True)}
        try:
            steps, samples = begin()
            if not pane.busy:
                waiting = line("Waiting for the model…")
                yield {
                    part.status: waiting,
                    part.answer: "",
                    part.beside: "",
                    part.votes: "",
                    part.stop: _button(True),
                    part.retry: _button(False),
                }
            async with aclosing(steps):
                async for step in steps:
                    if step.turns is None:
                        yield {part.status: views.coming(step, samples), part.answer: views.text_of(step.text)}
            answered = pane.answered
            assert answered is not None, "the samples have no end"
            yield {
                part.status: views.ended(answered),
                part.answer: views.text_of(answered.text),
                part.votes: views.votes(answered),
                self._shell.live: said(views.said(NAMES[place].upper(), answered)),
                **free,
            }
        except UserError as error:
            spoken = {self._shell.live: said(error)}
            yield {part.status: line(error, True), **spoken, **({} if pane.busy else free)}
        except Exception as error:  # a bug: its traceback is for the terminal, the page goes on
            traceback.print_exc(file=sys.stderr)
            yield {part.status: line(f"Failed: {type(error).__name__}.", True), **free}

    async def _shown(self, sent: Shown) -> AsyncIterator[Shown]:
        """The answers in the way that is chosen, as long as no other call of this session shows them anew."""
        board, way = sent[self._state], sent[self._top.view]
        board.showings += 1
        own = board.showings
        yield _nothing(self._parts[0].answer)
        for pane, part in zip(board.panes[: board.count], self._parts, strict=False):
            answered = pane.answered
            if pane.busy or answered is None:
                continue
            try:
                shown = await self._in_way(way, board, pane, answered.text)
                beside = views.alternatives(pane) if way == "probabilities" else ""
            except UserError as error:
                shown, beside = line(error, True) + views.text_of(answered.text), ""
            except Exception as error:  # a bug: its traceback is for the terminal, the page goes on
                traceback.print_exc(file=sys.stderr)
                failed = line(f"Failed: {type(error).__name__}.", True)
                shown, beside = failed + views.text_of(answered.text), ""
            if board.showings != own:
                return
            if pane.answered is answered and not pane.busy:  # nothing else was asked meanwhile
                yield {part.answer: shown, part.beside: beside}

    async def _in_way(self, way: str, board: Board, pane: Pane, text: str) -> str:
        first = board.panes[0]
        if way == "differences" and pane is not first and first.answered is not None:
            return await asyncio.to_thread(views.differing, first.answered.text, text)
        if way == "probabilities":
            await pane.score(self._shell.lender)
            return views.tokens_of(pane.tokens)
        return views.text_of(text)


def _number(event: Any, name: str) -> int:
    """A place that the browser names; −1 where it is none."""
    data = event._data if isinstance(event._data, dict) else {}
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _button(active: bool) -> Any:
    import gradio as gr

    return gr.Button(interactive=active)


def _nothing(output: Any) -> Shown:
    """No change. Of a generator that yields nothing Gradio empties the outputs."""
    import gradio as gr

    return {output: gr.skip()}
