"""Models lent to those who talk with them: each is loaded once, and only so many are in memory at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from workbench.catalogue import Entry
from workbench.chatting import Speaker
from workbench.decodes import Sampling
from workbench.engines import EngineConfig, open_engine
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.proxy import Proxy
from workbench.types import Model

AT_ONCE = 32
"""Answers that one server, or the fake engine, is asked for at the same time; others wait their turn."""


@dataclass
class _Lent:
    speaker: Speaker
    users: int = 0
    last: int = 0  # when it was last lent, by the lender's count


class Lender:
    """Lends a catalogue's models.

    Args:
        keep: how many models may be in this process's memory; servers' models do not count.
        open: opens an engine.
    """

    def __init__(self, keep: int = 4, open: Callable[[Model | Proxy, EngineConfig], Engine] = open_engine) -> None:
        self.keep = keep
        self._open = open
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # transformers cannot load two models at the same time
        self._lent: dict[str, _Lent] = {}
        self._count = 0

    @contextmanager
    def lent(self, entry: Entry) -> Iterator[Speaker]:
        """The speaker of an entry; it is not closed as long as the block runs.

        Its engine is opened by the first question. Where memory is full, the model that was not used for the
        longest time is freed first.

        Raises:
            UserError: as many models as may be in memory are all in use.
        """
        with self._lock:
            held = self._lent.get(entry.weights)
            if held is None:
                if entry.in_process:
                    self._make_room()
                speaker = Speaker(lambda: self._opened(entry), Sampling(), 1 if entry.in_process else AT_ONCE)
                held = self._lent[entry.weights] = _Lent(speaker)
            self._count += 1
            held.users, held.last = held.users + 1, self._count
        try:
            yield held.speaker
        finally:
            with self._lock:
                held.users -= 1

    def _opened(self, entry: Entry) -> Engine:
        with self._opening if entry.in_process else nullcontext():
            return self._open(entry.model, entry.engine)

    def close(self) -> bool:
        """End every answer and free every model; whether all of them have ended."""
        with self._lock:
            held, self._lent = list(self._lent.values()), {}
        ended = [one.speaker.close() for one in held]
        return all(ended)

    def _make_room(self) -> None:
        inside = {key: one for key, one in self._lent.items() if one.speaker.at_once == 1}
        if len(inside) < self.keep:
            return
        idle = [key for key, one in inside.items() if not one.users]
        if not idle:
            raise UserError(
                f"{self.keep} models are in use, which is as many as this page keeps in memory (--keep). "
                "Try again when one of them has answered."
            )
        key = min(idle, key=lambda key: inside[key].last)
        if inside[key].speaker.close():
            del self._lent[key]
            return
        raise UserError("A model that is no longer used is still ending its answer. Try again in a moment.")
