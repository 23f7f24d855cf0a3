"""An answer as a page hears it: the text so far, as often as a screen can show it, and the finished turn last.

Engines answer in threads of their own (`chatting.py`); what is here brings their pieces to the page's event loop.
"""

import asyncio
import sys
import traceback
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from workbench.catalogue import Entry
from workbench.chatting import Answer
from workbench.conversation import Turn
from workbench.decodes import Sampling
from workbench.engines.base import Piece
from workbench.errors import UserError
from workbench.lending import Lender
from workbench.types import Request

PAUSE = 0.05
"""Seconds between two updates of the page. The first piece is shown at once."""


@dataclass(frozen=True)
class Heard:
    """What has come of an answer.

    Attributes:
        text: exactly as generated.
        tokens: drawn so far; 0 where the engine does not tell.
        turn: the finished turn; None while the answer is on its way.
    """

    text: str
    tokens: int = 0
    turn: Turn | None = None


class Talk:
    """One answer at a time, which any event of the same browser session can stop.

    An empty one can be copied, so it can be the initial value of a session's state.
    """

    def __init__(self) -> None:
        self._answer: Answer | None = None
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether an answer is on its way."""
        return self._busy

    def stop(self) -> None:
        """End the answer that is on its way, if one is."""
        if self._answer is not None:
            self._answer.stop()

    async def hear(
        self, lender: Lender, entry: Entry, request: Request, sampling: Sampling
    ) -> AsyncGenerator[Heard, None]:
        """The answer as it comes; closing the iterator stops it. What failed is a turn that ended with `error`.

        Raises:
            UserError: an answer is on its way already, or the model cannot be lent now.
        """
        if self._busy:
            raise UserError("An answer is on its way. Stop it, or wait.")
        self._busy = True
        try:
            with ExitStack() as stack:
                speaker = stack.enter_context(lender.lent(entry))
                loop = asyncio.get_running_loop()
                pieces: asyncio.Queue[str | None] = asyncio.Queue()

                def tell(piece: str | None) -> None:
                    with suppress(RuntimeError):  # the server has ended
                        loop.call_soon_threadsafe(pieces.put_nowait, piece)

                self._answer = answer = speaker.answer(request, tell, sampling)
                # The model is lent until its thread has left it, not only until the page has heard enough.
                answer.start(ended=stack.pop_all().close)
                text = ""
                try:
                    while (piece := await pieces.get()) is not None:
                        text += piece
                        if pieces.empty():
                            yield Heard(text, piece.tokens if isinstance(piece, Piece) else 0)
                            await asyncio.sleep(PAUSE)
                finally:  # also when the browser has gone
                    answer.stop()
            turn = _turn(answer, request, text)
            yield Heard(text, turn.completion_tokens, turn)
        finally:
            self._answer, self._busy = None, False


def _turn(answer: Answer, request: Request, text: str) -> Turn:
    try:
        return answer.turn()
    except Exception as error:  # a bug: its traceback is for the terminal, the page goes on
        traceback.print_exc(file=sys.stderr)
        return Turn(request.messages[-1].content, text, "error", error=f"{type(error).__name__}: {error}")
