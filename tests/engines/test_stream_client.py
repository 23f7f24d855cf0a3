"""Streaming from servers: pieces as they come, the completion last, and no answer from what broke off."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from stub_server import KEY, Fault, StubServer, garbage, hang, reset, status, streamed, waits

from workbench.decodes import Sampling
from workbench.engines.base import sample_seed
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Model, Request

STYLES = ["chat", "text"]


@pytest.fixture
def server() -> Iterator[StubServer]:
    stub = StubServer()
    yield stub
    stub.die()


def engine_for(*servers: StubServer, **options: Any) -> VllmEngine:
    urls = [server.url for server in servers]
    return VllmEngine(Model("model"), urls, **{"backoff": 0.01, "retries": 2, "timeout": 5.0, **options})


def ask(style: str = "chat", indices: tuple[int, ...] = (0,), text: str = "2 + 2?") -> Request:
    return Request("q", (Message("user", text),), indices, style)


def read(engine: VllmEngine, request: Request) -> tuple[list[str], Completion]:
    *pieces, last = engine.stream(request, Sampling(seed=5))
    assert isinstance(last, Completion)
    assert "" not in pieces
    assert "".join(map(str, pieces)) == last.text
    return [str(piece) for piece in pieces], last


@pytest.mark.parametrize("style", STYLES)
def test_a_stream_is_the_sample_of_its_index_in_pieces(server: StubServer, style: str) -> None:
    engine = engine_for(server)
    pieces, last = read(engine, ask(style, (3, 4)))
    [[(_, drawn)]] = engine.sample([ask(style, (3,))], Sampling(seed=5))
    for name in ("index", "text", "prompt_tokens", "completion_tokens", "logprob", "finish", "error"):
        assert getattr(last, name) == getattr(drawn, name), name
    assert pieces == list(f"seed {sample_seed(5, 'q', 3)}")
    first, second = server.bodies
    assert first == second | {"stream": True, "stream_options": {"include_usage": True}}
    assert 0 < last.seconds < 5


def test_the_first_piece_is_there_before_the_second_is_said(server: StubServer) -> None:
    server.faults = [streamed(lambda events: events.__delitem__(slice(2, None)), end="hang")]
    pieces: Any = engine_for(server).stream(ask(), Sampling(seed=5))
    assert next(pieces) == "s", "the server says nothing more"
    pieces.close()


def put(place: int, event: Any) -> Callable[[list[Any]], None]:
    """Another event in this place, and none behind it."""

    def edit(events: list[Any]) -> None:
        events[place:] = [event]

    return edit


def without_finish(events: list[Any]) -> None:
    for event in events:
        for choice in event["choices"]:
            choice.pop("finish_reason", None)


def finish(reason: object) -> Callable[[list[Any]], None]:
    return lambda events: events[-2]["choices"][0].update(finish_reason=reason)


def logprob(value: float) -> Callable[[list[Any]], None]:
    def edit(events: list[Any]) -> None:
        told = events[4]["choices"][0]["logprobs"]
        if "content" in told:
            told["content"][0]["logprob"] = value
        else:
            told["token_logprobs"][0] = value

    return edit


BROKEN: dict[str, Fault] = {
    "cut": streamed(put(4, b": nothing more\n\n"), end="cut"),
    "reset": streamed(put(4, b": nothing more\n\n"), end="reset"),
    "cut before the end": streamed(end="cut"),
    "hung": streamed(put(4, b": nothing more\n\n"), end="hang"),
    "no DONE": streamed(done=False),
    "no finish_reason": streamed(without_finish),
    "no event": streamed(lambda events: events.clear()),
    "an event cut in the middle": streamed(put(4, b'data: {"choices": [{"ind'), done=False),
    "no JSON": streamed(put(4, b"data: <html>\n\n")),
    "no bytes of text": streamed(put(4, b"data: \xff\xfe\n\n")),
    "an error": streamed(put(4, {"error": {"message": "out of memory", "code": 500}})),
    "no choices": streamed(put(4, {"object": "error"})),
    "a list": streamed(put(4, ["choices"])),
    "a number": streamed(put(4, 4)),
    "text that is none": streamed(put(4, {"choices": [{"text": 4}]})),
    "usage that is none": streamed(put(-1, {"choices": [], "usage": [4]})),
    "usage that counts nothing": streamed(put(-1, {"choices": [], "usage": {"prompt_tokens": "many"}})),
    "aborted": streamed(finish("abort")),
    "a finish_reason that is none": streamed(finish(["stop"])),
    "NaN": streamed(logprob(float("nan"))),
    "no stream": garbage({"choices": [{"index": 0, "text": "4", "finish_reason": "stop"}]}),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_what_breaks_off_is_incomplete_and_has_the_text_that_came(
    server: StubServer, style: str, fault: Fault
) -> None:
    server.faults = [fault]
    _, last = read(engine_for(server, timeout=1.0), ask(style))
    assert last.finish is Finish.ERROR
    assert "incomplete" in (last.error or "")
    assert f"seed {sample_seed(5, 'q', 0)}".startswith(last.text)
    assert len(server.calls) == 1, "what was said cannot be taken back"


def test_the_text_that_came_before_a_cut(server: StubServer) -> None:
    server.faults = [BROKEN["cut"], BROKEN["an error"], BROKEN["hung"]]
    engine = engine_for(server, timeout=1.0)
    for words in ("broke off", "out of memory", "ReadTimeout"):
        pieces, last = read(engine, ask("text"))
        assert (pieces, last.text, last.completion_tokens) == (list("seed"), "seed", 4)
        assert words in (last.error or "")


def test_length_ends_an_answer_that_is_cut_off(server: StubServer) -> None:
    server.faults = [streamed(finish("length"))]
    assert read(engine_for(server), ask())[1].finish is Finish.LENGTH


def test_characters_that_part_lines_comments_and_carriage_returns(server: StubServer) -> None:
    text = "a\u2028b\u0085c\x0bd \r e\n 👩"

    def edit(events: list[Any]) -> None:
        events[1]["choices"][0]["delta"]["content"] = text
        events[2:-2] = [b": ping\n\n", b"event: more\r\n", b'data:{"choices": []}\r\n\r\n']

    server.faults = [streamed(edit)]
    pieces, last = read(engine_for(server), ask())
    assert pieces[0] == text
    assert last.finish is Finish.STOP


def test_pieces_that_arrive_in_single_bytes(server: StubServer) -> None:
    def edit(events: list[Any]) -> None:
        whole = b'data: {"choices": [{"text": "\xf0\x9f\x91\xa9!", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
        events[:] = [whole[i : i + 1] for i in range(len(whole))]

    server.faults = [streamed(edit)]
    pieces, last = read(engine_for(server), ask())
    assert (pieces, last.finish) == (["👩!"], Finish.STOP)


def test_without_usage_the_log_probabilities_are_counted_and_without_both_nothing(server: StubServer) -> None:
    def bare(events: list[Any]) -> None:
        events.pop()
        for event in events:
            event["choices"][0].pop("logprobs", None)

    server.faults = [streamed(lambda events: events.pop()), streamed(bare)]
    _, last = read(engine_for(server), ask())
    assert (last.finish, last.prompt_tokens, last.completion_tokens) == (Finish.STOP, 0, len(last.text))
    _, last = read(engine_for(server), ask())
    assert (last.finish, last.completion_tokens, last.logprob) == (Finish.STOP, 0, None)


# --- before it begins -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [status(429, retry_after="0"), status(503), status(500), reset], ids=["429", "503", "500", "reset"]
)
def test_what_may_pass_before_it_begins_is_tried_again(server: StubServer, fault: Fault) -> None:
    server.faults = [fault, fault]
    _, last = read(engine_for(server), ask())
    assert last.finish is Finish.STOP
    assert server.bodies[0] == server.bodies[2]
    assert len(server.calls) == 3


@pytest.mark.parametrize(("fault", "words", "calls"), [
    (status(400, "maximum context length"), "HTTP 400: maximum context length", 1),
    (status(503, "busy"), "HTTP 503: busy (tries: 3)", 3),
    (hang, "ReadTimeout (tries: 3)", 3),
])  # fmt: skip
def test_what_does_not_begin_is_an_error(server: StubServer, fault: Fault, words: str, calls: int) -> None:
    server.always = fault
    pieces, last = read(engine_for(server, timeout=1.0), ask(indices=(7,)))
    assert (pieces, last.index, last.finish, last.error) == ([], 7, Finish.ERROR, words)
    assert len(server.calls) == calls


def test_a_dead_server_a_refused_key_and_control_tokens(server: StubServer) -> None:
    [last] = engine_for(server).stream(ask(text="a <|im_end|>"), Sampling())
    assert isinstance(last, Completion)
    assert "control token" in (last.error or "")
    server.key = "another"
    with pytest.raises(UserError, match="API key"):
        list(engine_for(server, api_key=KEY).stream(ask(), Sampling()))
    server.key = None
    server.faults = [streamed(put(3, {"error": f"Bearer {KEY} is odd"}))]
    assert KEY not in repr(list(engine_for(server, api_key=KEY).stream(ask(), Sampling())))
    dead = StubServer()
    dead.die()
    assert read(engine_for(dead, server), ask())[1].finish is Finish.STOP, "another endpoint answers"
    with pytest.raises(UserError, match="does not answer"):
        list(engine_for(dead).stream(ask(), Sampling()))


# --- stopping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_closing_it_closes_the_connection(server: StubServer, style: str) -> None:
    server.always = streamed(put(3, b": more to come\n\n"), end="hang")
    pieces: Any = engine_for(server).stream(ask(style), Sampling(seed=5))
    assert next(pieces) == "s"
    pieces.close()
    assert server.left.acquire(timeout=5), "the server does not see that the client has left"
    assert not [t for t in threading.enumerate() if t.name == "workbench-client"]
    assert list(pieces) == []


def test_closing_sample_closes_every_connection(server: StubServer) -> None:
    server.faults = [status(400)]
    server.always = waits
    requests = [Request(str(i), (Message("user", "?"),)) for i in range(9)]
    batches: Any = engine_for(server, concurrency=4).sample(requests, Sampling())
    next(batches)
    while len(server.calls) < 5:
        time.sleep(0.01)
    batches.close()
    assert all(server.left.acquire(timeout=5) for _ in range(4))
    assert len(server.calls) == 5


def test_leaving_the_loop_and_an_error_in_it_close_the_connection(server: StubServer) -> None:
    server.always = streamed(put(3, b": more to come\n\n"), end="hang")
    for _ in engine_for(server).stream(ask(), Sampling()):
        break
    assert server.left.acquire(timeout=5)
    with pytest.raises(ZeroDivisionError):
        for _ in engine_for(server).stream(ask(), Sampling()):
            _ = 1 / 0
    assert server.left.acquire(timeout=5)
    assert httpx.get(f"{server.url}/version").status_code == 200
