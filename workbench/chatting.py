"""Talking with a model: answers that come piece by piece and stop when they are told to.

An engine streams in a thread of its own, because a forward pass or a silent server cannot be interrupted: who
listens is told at once that an answer has stopped, and the thread ends the generation at its next piece.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from workbench.command import Flat
from workbench.conversation import End, Turn
from workbench.decodes import Sampling
from workbench.engines.base import Engine, Piece
from workbench.errors import UserError
from workbench.model_flags import ModelFlags
from workbench.types import Completion, Finish, Request

Pieces = Generator[str | Completion, None, None]

_PATIENCE = 3.0  # seconds that answers have to end when the model is to be freed


@dataclass(frozen=True)
class ChatFlags:
    """Who is talked with, and how answers are drawn.

    Attributes:
        model: who answers.
        sampling: how answers are drawn.
        system_prompt: what the model is told first; by default its own template says.
    """

    model: Flat[ModelFlags] = field(default_factory=ModelFlags)
    sampling: Flat[Sampling] = field(default_factory=lambda: Sampling(temperature=0.7, max_tokens=512))
    system_prompt: str | None = None

    def speaker(self) -> "Speaker":
        """The model, to be opened at the first question."""
        in_process = self.model.engine.engine == "hf"
        return Speaker(self.model.open, self.sampling, at_once=1 if in_process else 8)


class Speaker:
    """The model that is talked with; its engine is opened when it is first needed.

    Args:
        open: opens the engine.
        sampling: how answers are drawn.
        at_once: how many answers the engine may give at the same time; others wait.
    """

    def __init__(self, open: Callable[[], Engine], sampling: Sampling, at_once: int = 1) -> None:
        self.sampling, self.at_once = sampling, at_once
        self._open, self._opening = open, threading.Lock()
        self._engine: Engine | None = None
        self._turns = threading.BoundedSemaphore(at_once)
        self._closed = False

    @property
    def engine(self) -> Engine:
        """The engine, opened by the first who asks.

        Raises:
            UserError: it cannot be opened; the next who asks tries again.
        """
        with self._opening:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def answer(
        self, request: Request, hear: Callable[[str | None], None], sampling: Sampling | None = None
    ) -> "Answer":
        """An answer, not yet started.

        Args:
            request: what is asked.
            sampling: how it is drawn, if not as the speaker's others.
            hear: called in the answer's thread with every piece of its text, and with None at its end; also
                from `Answer.stop`.
        """
        return Answer(request, lambda: self._pieces(request, sampling or self.sampling), hear)

    @contextmanager
    def working(self) -> Iterator[Engine]:
        """The engine, for work other than an answer, in its turn. A blocking call: for a thread, not for a page.

        Raises:
            UserError: the engine cannot be opened, or the speaker is closed.
        """
        with self._turns:
            self._check_open()
            yield self.engine

    @property
    def is_loaded(self) -> bool:
        """Whether the engine is open and holds memory."""
        return self._engine is not None

    def close(self) -> bool:
        """End the answers that are on their way, and free the model. A speaker is not used after it is closed.

        Returns:
            Whether the answers have ended. Where one has not, within some seconds, the model is left to it.
        """
        self._closed = True
        until = time.monotonic() + _PATIENCE
        for _ in range(self.at_once):
            if not self._turns.acquire(timeout=max(0.0, until - time.monotonic())):
                return False
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        return True

    def _pieces(self, request: Request, sampling: Sampling) -> Pieces:
        with self._turns:
            yield ""  # one that was stopped while it waited ends here
            self._check_open()
            engine = self.engine
            if engine.context is not None:
                [used] = engine.count_tokens([request])
                room = engine.context - used
                if room < 1:
                    raise UserError(
                        f"The conversation has {used:,} tokens, and the model reads {engine.context:,} with its "
                        "answer. Begin anew, or ask something shorter."
                    )
                sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
            stream: Any = engine.stream(request, sampling)
            with closing(stream):
                for piece in stream:
                    self._check_open()
                    yield piece

    def _check_open(self) -> None:
        if self._closed:
            raise UserError("The program has ended.")


class Closable(Protocol):
    """What holds models."""

    def close(self) -> bool:
        """End every answer and free the models; whether all answers have ended."""


@contextmanager
def freed(speaker: Closable) -> Iterator[None]:
    """Free the models behind the block. Where an answer does not end, the process does, here.

    A forward pass cannot be interrupted, and an interpreter that ends while a thread is in torch is aborted.
    """
    raised: BaseException | None = None
    ended = False
    try:
        yield
    except BaseException as error:
        raised = error
    try:
        ended = speaker.close()
    except KeyboardInterrupt as error:
        raised = error
    if not ended:
        _leave(raised)
    if raised is not None:
        raise raised


def _leave(raised: BaseException | None) -> NoReturn:
    """End the process with the status that what was raised would have given it."""
    status = 1
    if raised is None:
        status = 0
    elif isinstance(raised, KeyboardInterrupt):
        status = 130
    elif isinstance(raised, SystemExit) and isinstance(raised.code, int):
        status = raised.code
    elif not isinstance(raised, BrokenPipeError):
        traceback.print_exception(raised)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # its reader has gone
            stream.flush()
    os._exit(status)


class Answer:
    """One answer on its way. What `hear` was given, joined, is its turn's text."""

    def __init__(
        self,
        request: Request,
        speak: Callable[[], Pieces],
        hear: Callable[[str | None], None],
    ) -> None:
        self._request, self._speak, self._hear = request, speak, hear
        self._text: list[str] = []
        self._tokens = 0
        self._turn: Turn | None = None
        self._bug: BaseException | None = None
        self._ended: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="workbench-answer", daemon=True)

    def start(self, ended: Callable[[], None] | None = None) -> None:
        """Begin. Apart from making it, so that a Ctrl-C in here finds an answer to stop.

        Args:
            ended: called in the answer's thread when the generation itself has ended, which is after `stop`.
        """
        self._ended = ended
        self._thread.start()

    def stop(self) -> None:
        """End the answer with what came so far; the generation itself ends at its next piece."""
        self._end("stopped")

    def turn(self) -> Turn:
        """The finished turn, once `hear` was given None. An exception that is a bug is raised here."""
        if self._bug is not None:
            raise self._bug
        assert self._turn is not None, "the answer has not ended"
        return self._turn

    def join(self, seconds: float) -> None:
        """Wait until the generation has ended, but no longer than that."""
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            with closing(self._speak()) as pieces:
                for piece in pieces:
                    if isinstance(piece, Completion):
                        self._end(_END[piece.finish], piece)
                    elif not self._said(piece):
                        break
            self._end("error", error="The engine's answer has no end.")
        except UserError as error:
            self._end("error", error=str(error))
        except BaseException as error:
            self._bug = error
            self._end("error", error=f"{type(error).__name__}: {error}")
        finally:
            if self._ended is not None:
                self._ended()

    def _said(self, piece: str) -> bool:
        with self._lock:
            if self._turn is None and piece:
                self._text.append(piece)
                self._tokens = piece.tokens if isinstance(piece, Piece) else 0
                self._hear(piece)
            return self._turn is None

    def _end(self, end: End, told: Completion | None = None, error: str = "") -> None:
        with self._lock:
            if self._turn is not None:  # only the first end counts
                return
            counts = (told.prompt_tokens, told.completion_tokens) if told else (0, self._tokens)
            seconds = time.monotonic() - self._started
            error = error or (told.error or "" if told else "")
            question = self._request.messages[-1].content
            self._turn = Turn(question, "".join(self._text), end, *counts, seconds, error)
            self._hear(None)


_END: dict[Finish, End] = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.ERROR: "error"}
