"""Conversations and answers on their way: what is kept, what stops, what a failure leaves."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from workbench import chatting
from workbench.chatting import Answer, ChatFlags, Speaker, freed
from workbench.conversation import Conversation, Turn
from workbench.decodes import Sampling
from workbench.engines.base import Piece
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Model, Request

SAMPLING = Sampling(temperature=0.7, max_tokens=50)


class Slow(FakeEngine):
    """Words without end, one each time that `go` is released; `closed` is set when the generation ends."""

    def __init__(self) -> None:
        super().__init__(Model("fake"))
        self.go = threading.Semaphore(0)
        self.closed = threading.Event()
        self.asked: list[tuple[Request, Sampling]] = []

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        self.asked.append((request, sampling))
        try:
            for i in range(1000):
                self.go.acquire()
                yield Piece(f"w{i} ", i + 1)
        finally:
            self.closed.set()


def start(engine: Any, question: str = "Hi", conversation: Conversation | None = None, at_once: int = 1) -> Any:
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    speaker = Speaker(lambda: engine, SAMPLING, at_once)
    return started(speaker.answer((conversation or Conversation()).ask(question), pieces.put)), pieces


def started(answer: Answer) -> Answer:
    answer.start()
    return answer


def heard(pieces: "queue.SimpleQueue[str | None]") -> list[str]:
    found = []
    while (piece := pieces.get(timeout=10)) is not None:
        found.append(piece)
    return found


def test_an_answer_comes_in_pieces_and_has_its_counts() -> None:
    answer, pieces = start(FakeEngine(Model("fake"), lambda request, index: "one two\n  three"))
    assert heard(pieces) == ["one", " two", "\n  three"]
    turn = answer.turn()
    assert (turn.question, turn.answer, turn.end) == ("Hi", "one two\n  three", "stop")
    assert (turn.prompt_tokens, turn.completion_tokens, turn.error) == (1, 3, "")
    assert turn.seconds > 0


def test_stop_is_felt_at_once_and_keeps_what_came() -> None:
    engine = Slow()
    answer, pieces = start(engine)
    engine.go.release(2)
    first = [pieces.get(timeout=10), pieces.get(timeout=10)]
    before = time.monotonic()
    answer.stop()  # while the engine is silent
    assert heard(pieces) == []
    assert time.monotonic() - before < 1
    turn = answer.turn()
    assert (turn.end, turn.answer) == ("stopped", "".join(map(str, first)))
    assert (turn.prompt_tokens, turn.completion_tokens) == (0, 2)
    assert not engine.closed.is_set()
    engine.go.release()  # its next piece, which nobody hears
    assert engine.closed.wait(10)
    answer.join(10)
    assert pieces.empty() and answer.turn() == turn


def test_the_next_answer_waits_for_the_one_that_is_being_stopped() -> None:
    engine = Slow()
    speaker = Speaker(lambda: engine, SAMPLING)
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    first = started(speaker.answer(Conversation().ask("a"), lambda piece: None))
    while not engine.asked:
        time.sleep(0.001)
    first.stop()
    never = started(speaker.answer(Conversation().ask("never"), lambda piece: None))
    never.stop()
    second = started(speaker.answer(Conversation().ask("b"), pieces.put))
    time.sleep(0.05)
    assert len(engine.asked) == 1, "an engine in this process answers one at a time"
    engine.go.release(2)
    assert pieces.get(timeout=10) == "w0 "
    second.stop()
    engine.go.release()
    never.join(10)
    assert [request.messages[0].content for request, _ in engine.asked] == ["a", "b"]


def test_a_server_answers_several_at_once() -> None:
    engine = Slow()
    speaker = Speaker(lambda: engine, SAMPLING, at_once=2)
    answers = [started(speaker.answer(Conversation().ask(text), lambda piece: None)) for text in "ab"]
    until = time.monotonic() + 10
    while len(engine.asked) < 2:
        assert time.monotonic() < until
        time.sleep(0.001)
    for answer in answers:
        answer.stop()
        engine.go.release()


def test_the_engine_is_opened_once_and_after_a_failure_again() -> None:
    opened: list[int] = []

    def open() -> FakeEngine:
        opened.append(1)
        if len(opened) == 1:
            raise UserError("There is no model 'x'.")
        return FakeEngine(Model("fake"))

    speaker = Speaker(open, SAMPLING)
    turns = []
    for _ in range(3):
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        answer = started(speaker.answer(Conversation().ask("Hi"), pieces.put))
        heard(pieces)
        turns.append(answer.turn())
    assert [turn.end for turn in turns] == ["error", "stop", "stop"]
    assert turns[0].error == "There is no model 'x'."
    assert len(opened) == 2


def test_closing_ends_answers_before_it_frees_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(Slow):
        freed = False

        def close(self) -> None:
            assert self.closed.is_set(), "its generation had not ended"
            self.freed = True

    engine = Watched()
    speaker = Speaker(lambda: engine, SAMPLING, at_once=2)
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    answer = started(speaker.answer(Conversation().ask("a"), pieces.put))
    engine.go.release(1)
    assert pieces.get(timeout=10) == "w0 "
    monkeypatch.setattr(chatting, "_PATIENCE", 0.05)
    assert not speaker.close(), "the engine is silent"
    assert not engine.freed
    monkeypatch.setattr(chatting, "_PATIENCE", 10.0)
    engine.go.release(1)
    answer.join(10)
    assert answer.turn().answer == "w0 ", "nothing is heard after the close"

    engine = Watched()
    speaker = Speaker(lambda: engine, SAMPLING, at_once=2)
    answer = started(speaker.answer(Conversation().ask("a"), pieces.put))
    while not engine.asked:
        time.sleep(0.001)
    threading.Timer(0.1, engine.go.release).start()
    assert speaker.close() and engine.freed


def test_a_block_frees_its_speaker_and_passes_on_what_it_raises() -> None:
    closed: list[int] = []

    class Closing(FakeEngine):
        def close(self) -> None:
            closed.append(1)

    for error in (None, KeyboardInterrupt(), UserError("no")):
        speaker = Speaker(lambda: Closing(Model("fake")), SAMPLING)
        with nullcontext() if error is None else pytest.raises(type(error)), freed(speaker):
            assert speaker.engine
            if error is not None:
                raise error
    assert len(closed) == 3


def test_a_stream_that_broke_off_is_an_error() -> None:
    class Broken(FakeEngine):
        def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
            yield "half an "
            yield Completion(0, "half an ", 3, 2, finish=Finish.ERROR, error="the connection was cut")

    answer, pieces = start(Broken(Model("fake")))
    assert heard(pieces) == ["half an "]
    turn = answer.turn()
    assert (turn.end, turn.answer, turn.error) == ("error", "half an ", "the connection was cut")
    conversation = Conversation()
    assert not conversation.keep(turn) and conversation.turns == []


def test_a_bug_is_raised_to_who_asks_for_the_turn() -> None:
    class Buggy(FakeEngine):
        def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
            yield "a"
            raise ZeroDivisionError("a bug")

    answer, pieces = start(Buggy(Model("fake")))
    assert heard(pieces) == ["a"]
    with pytest.raises(ZeroDivisionError):
        answer.turn()


def test_a_full_context_is_said_and_a_nearly_full_one_shortens_the_answer() -> None:
    engine = Slow()
    engine.context = 10
    _, pieces = start(engine, "one two three")
    engine.go.release()
    assert pieces.get(timeout=10) == "w0 "
    assert engine.asked[0][1].max_tokens == 7
    answer, pieces = start(engine, "word " * 10)
    assert heard(pieces) == []
    assert "has 10 tokens, and the model reads 10 with its answer. Begin anew" in answer.turn().error


def test_a_conversation_has_its_history_and_its_system_prompt() -> None:
    conversation = Conversation("Be brief.")
    first = conversation.ask("one?")
    assert first.messages == (Message("system", "Be brief."), Message("user", "one?"))
    conversation.keep(Turn("one?", " 1\n", "stop", 5, 2, 0.1))
    conversation.keep(Turn("two?", "", "stopped"))
    conversation.keep(Turn("three?", "thr", "stopped"))
    second = conversation.ask("four?")
    assert [message.content for message in second.messages] == [
        *("Be brief.", "one?", " 1\n", "three?", "thr", "four?"),
    ]
    assert conversation.row() == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one?"},
            {"role": "assistant", "content": " 1\n", "finish": "stop", "tokens": 2},
            {"role": "user", "content": "three?"},
            {"role": "assistant", "content": "thr", "finish": "stopped", "tokens": None},
        ]
    }
    conversation.clear()
    again = conversation.ask("one?")
    assert again.messages == first.messages and again.id == first.id
    assert again.indices != first.indices, "another sample of the same question"


@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_flags_that_are_no_numbers_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=f"{field} is nan"):
        ChatFlags(sampling=Sampling(**{field: float("nan")}))


def test_an_answer_without_an_end_is_an_error() -> None:
    class Endless(FakeEngine):
        def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
            yield "a"

    request = Conversation().ask("Hi")
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    answer = Answer(request, lambda: Endless(Model("fake")).stream(request, SAMPLING), pieces.put)  # type: ignore[arg-type,return-value]
    answer.start()
    heard(pieces)
    assert answer.turn().end == "error"
