"""An answer as a page hears it: the first piece at once, one at a time, stopped by whoever closes it."""

import asyncio
import copy
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise

import pytest

from workbench.catalogue import Entry
from workbench.decodes import Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import Piece
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.lending import Lender
from workbench.talk import PAUSE, Heard, Talk
from workbench.types import Completion, Message, Model, Request

ENTRY = Entry("key", "fake", Model("fake"), EngineConfig("fake"), "weights")


class Paced(FakeEngine):
    """Words until `end`, one each 5 ms; "bug" raises; `ended` is set when the generation has ended."""

    def __init__(self) -> None:
        super().__init__(Model("fake"))
        self.ended = threading.Event()
        self.sampling: Sampling | None = None

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        self.sampling = sampling
        try:
            if request.messages[-1].content == "bug":
                raise ZeroDivisionError("a bug")
            count = int(request.messages[-1].content)
            for i in range(count):
                yield Piece(f"w{i} ", i + 1)
                time.sleep(0.005)
            yield Completion(0, "".join(f"w{i} " for i in range(count)), 3, count)
        finally:
            self.ended.set()


def request(question: str) -> Request:
    return Request("id", (Message("user", question),))


async def everything(talk: Talk, lender: Lender, question: str) -> list[Heard]:
    async with aclosing(talk.hear(lender, ENTRY, request(question), Sampling(max_tokens=7))) as heard:
        return [now async for now in heard]


def lending(engine: FakeEngine) -> Lender:
    return Lender(open=lambda model, config: engine)


def test_pieces_come_at_the_pace_of_a_screen_and_the_turn_last() -> None:
    engine, talk = Paced(), Talk()
    *heard, last = asyncio.run(everything(talk, lending(engine), "40"))
    assert heard[0].text.startswith("w0 ") and heard[0].turn is None
    assert all(now.text.startswith(before.text) for before, now in pairwise(heard))
    assert all(now.tokens == now.text.count("w") for now in [*heard, last])
    assert len(heard) <= 2 + 40 * 0.02 / PAUSE, "no more updates than the time allows"
    assert last.turn is not None and (last.turn.end, last.turn.completion_tokens) == ("stop", 40)
    assert last.text == last.turn.answer
    assert engine.sampling == Sampling(max_tokens=7)
    assert not talk.busy


def test_stop_ends_the_generation_and_keeps_what_came() -> None:
    engine, talk = Paced(), Talk()

    async def stopped() -> Heard:
        found = []
        async with aclosing(talk.hear(lending(engine), ENTRY, request("100000"), Sampling())) as heard:
            async for now in heard:
                talk.stop()
                found.append(now)
        return found[-1]

    last = asyncio.run(stopped())
    assert last.turn is not None and last.turn.end == "stopped" and last.text
    assert last.turn.completion_tokens == last.tokens >= last.text.count("w") > 0
    assert engine.ended.wait(1)


def test_one_answer_at_a_time() -> None:
    engine, talk = Paced(), Talk()
    lender = lending(engine)

    async def twice() -> None:
        async with aclosing(talk.hear(lender, ENTRY, request("100000"), Sampling())) as heard:
            await anext(heard)
            assert talk.busy
            with pytest.raises(UserError, match="on its way"):
                await anext(talk.hear(lender, ENTRY, request("1"), Sampling()))
            assert talk.busy

    asyncio.run(twice())
    assert engine.ended.wait(1), "closing the iterator ends the generation"
    assert not talk.busy
    assert asyncio.run(everything(talk, lender, "1"))[-1].turn is not None


def test_a_model_is_lent_until_its_thread_has_left_it() -> None:
    engine, talk = Paced(), Talk()
    lender = lending(engine)
    asyncio.run(everything(talk, lender, "3"))
    assert engine.ended.wait(1)
    for _ in range(100):
        if lender._lent["weights"].users == 0:
            return
        time.sleep(0.01)
    pytest.fail("the model is still lent")


def test_a_bug_is_a_turn_with_an_error_and_its_traceback_is_for_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    talk = Talk()
    [last] = asyncio.run(everything(talk, lending(Paced()), "bug"))
    assert last.turn is not None and last.turn.end == "error" and "ZeroDivisionError" in last.turn.error
    assert "Traceback" in capsys.readouterr().err


def test_a_model_that_cannot_be_opened_is_a_turn_with_an_error() -> None:
    def open(model: object, config: EngineConfig) -> FakeEngine:
        raise UserError("There is no such folder.")

    [last] = asyncio.run(everything(Talk(), Lender(open=open), "1"))
    assert last.turn is not None and (last.turn.end, last.turn.error) == ("error", "There is no such folder.")


def test_an_empty_one_can_be_copied() -> None:
    assert not copy.deepcopy(Talk()).busy
