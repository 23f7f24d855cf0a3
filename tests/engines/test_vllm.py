"""The vllm engine against a real HTTP server that misbehaves on demand."""

import itertools
import logging
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import KEY, Fault, Handler, StubServer, edited, garbage, good_answer, half, hang, reset, status

from workbench.decodes import Sampling
from workbench.engines.base import Batch, Engine, Piece, sample_seed
from workbench.engines.client import _retry_after
from workbench.engines.encode import Encoder
from workbench.engines.next_token import steps_of
from workbench.engines.vllm import VllmEngine, _runs
from workbench.errors import UserError
from workbench.types import Completion, Finish, Message, Model, Request

ROOT = Path(__file__).resolve().parents[2]
SAMPLING = Sampling(seed=5)


@pytest.fixture
def server() -> Iterator[StubServer]:
    stub = StubServer()
    yield stub
    stub.die()


def engine_for(*servers: StubServer, **options: Any) -> VllmEngine:
    urls = [server.url for server in servers]
    return VllmEngine(Model("model"), urls, **{"backoff": 0.01, "retries": 2, "timeout": 5.0, **options})


def ask(id: str = "q", indices: tuple[int, ...] = (0,), text: str = "2 + 2?", style: str = "chat") -> Request:
    return Request(id, (Message("user", text),), indices, style)


def draw(engine: Engine, *requests: Request, sampling: Sampling = SAMPLING) -> dict[str, list[Completion]]:
    """Each request's completions by index; an index that comes twice fails here."""
    found: dict[str, dict[int, Completion]] = {request.id: {} for request in requests}
    for batch in engine.sample(requests, sampling):
        for id, completion in batch:
            assert completion.index not in found[id], f"index {completion.index} of {id} came twice"
            found[id][completion.index] = completion
    for request in requests:
        assert sorted(found[request.id]) == sorted(request.indices)
    return {id: [by_index[i] for i in sorted(by_index)] for id, by_index in found.items()}


def one(engine: Engine, request: Request | None = None) -> Completion:
    [completion] = draw(engine, request or ask())["q"]
    return completion


# --- what is asked and what comes back --------------------------------------------------------------


@pytest.mark.parametrize("style", ["chat", "text"])
def test_a_completion_holds_what_the_server_said(server: StubServer, style: str) -> None:
    completion = one(engine_for(server), ask(style=style))
    text = f"seed {sample_seed(5, 'q', 0)}"
    assert (completion.text, completion.finish, completion.error) == (text, Finish.STOP, None)
    assert (completion.prompt_tokens, completion.completion_tokens) == (11, len(text))
    assert completion.logprob == pytest.approx(-0.5 * len(text))
    assert 0 < completion.seconds < 5


def test_every_parameter_is_said_and_the_styles_have_their_own_paths(server: StubServer) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=40, max_tokens=12, stop=("\n",), seed=3)
    draw(engine_for(server, concurrency=1), ask(style="text"), ask("c"), sampling=sampling)
    [(_, text_path, text), (_, chat_path, chat)] = server.calls
    wanted = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_tokens": 12, "stop": ["\n"], "n": 1}
    for body, id in ((text, "q"), (chat, "c")):
        assert {name: body[name] for name in wanted} == wanted
        assert (body["model"], body["seed"]) == ("model", sample_seed(3, id, 0))
    assert (text_path, text["prompt"]) == ("/v1/completions", "2 + 2?")
    assert (chat_path, chat["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": "2 + 2?"}])
    assert (chat["continue_final_message"], chat["add_generation_prompt"]) == (False, True)


BEGUN = Request("q", (Message("user", "2 + 2?"), Message("assistant", "<think>\nIt is\n")))


def test_a_begun_answer_is_sent_as_tokens_behind_those_of_the_template(server: StubServer) -> None:
    """A template that gets it as a turn may change it: of thinking models' templates many do."""
    engine = engine_for(server)
    completion = one(engine, BEGUN)
    asked, begun, drawn = server.bodies
    assert (asked["messages"], asked["add_generation_prompt"]) == ([{"role": "user", "content": "2 + 2?"}], True)
    assert (begun["prompt"], begun["add_special_tokens"]) == ("<think>\nIt is\n", False)
    assert drawn["prompt"] == [ord(character) for character in "2 + 2?<think>\nIt is\n"]
    assert [path for _, path, _ in server.calls] == ["/tokenize", "/tokenize", "/v1/completions"]
    assert (completion.finish, completion.logprob is None) == (Finish.STOP, False)
    assert engine.count_tokens([BEGUN]) == [len(drawn["prompt"])]
    *pieces, last = engine.stream(BEGUN, SAMPLING)
    assert (last, "".join(map(str, pieces))) == (replace(completion, seconds=last.seconds), completion.text)
    counts = [piece.tokens for piece in pieces if isinstance(piece, Piece)]
    assert counts == list(range(1, len(pieces) + 1)), "the server sends a token an event"
    empty = replace(BEGUN, messages=(*BEGUN.messages[:1], Message("assistant", "")))
    assert engine.count_tokens([empty]) == [len("2 + 2?")]


def test_a_begun_answer_that_cannot_be_made_tokens_of_is_an_error(server: StubServer) -> None:
    server.faults = [status(400, "no template")]
    completion = one(engine_for(server), BEGUN)
    assert (completion.finish, completion.text) == (Finish.ERROR, "")
    assert "no template" in (completion.error or "")


def test_of_a_server_that_is_not_vllm_a_begun_answer_is_a_turn(server: StubServer) -> None:
    server.is_vllm = False
    one(engine_for(server), BEGUN)
    [(_, path, body)] = server.calls
    assert (path, body["messages"][1]["content"]) == ("/v1/chat/completions", "<think>\nIt is\n")
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_seeds_never_overlap_across_calls(server: StubServer) -> None:
    engine = engine_for(server)
    first = draw(engine, ask("a", tuple(range(16))), ask("b", tuple(range(16))))
    rest = draw(engine, ask("a", tuple(range(16, 64))), ask("b", tuple(range(16, 64))))
    texts = [completion.text for id in "ab" for completion in first[id] + rest[id]]
    assert len(set(texts)) == 128
    assert texts[:64] == [f"seed {sample_seed(5, 'a', i)}" for i in range(64)]
    assert max(body["n"] for body in server.bodies) == 32


def test_greedy_asks_for_one_sample_at_a_time(server: StubServer) -> None:
    draw(engine_for(server), ask(indices=(0, 1, 2)), sampling=Sampling(temperature=0))
    assert [body["n"] for body in server.bodies] == [1, 1, 1]


@given(st.sets(st.integers(0, 200)), st.integers(1, 40))
def test_runs_cover_the_indices_once(indices: set[int], largest: int) -> None:
    runs = list(_runs(tuple(indices), largest))
    assert list(itertools.chain.from_iterable(runs)) == sorted(indices)
    assert all(0 < len(run) <= largest for run in runs)
    gaps = [b.start - a.stop for a, b in itertools.pairwise(runs) if len(a) < largest]
    assert all(gap > 0 for gap in gaps), "a run was cut short"


def test_concurrency_is_bounded_and_used(server: StubServer) -> None:
    running, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(4)

    def slow(answer: dict[str, Any]) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(timeout=60)  # each answer waits until four are being given
        with lock:
            running -= 1

    server.always = edited(slow)
    start = time.monotonic()
    drawn = draw(engine_for(server, concurrency=4), *(ask(str(i)) for i in range(16)))
    elapsed = time.monotonic() - start
    assert most == 4
    seconds = sum(completion.seconds for [completion] in drawn.values())
    assert 0 < seconds <= elapsed, "the shares of 16 answers must not add up to more than the wall time"


def test_batches_come_as_they_finish(server: StubServer) -> None:
    fast_was_seen = threading.Event()

    def answer(handler: Any, body: dict[str, Any]) -> None:
        if body["messages"][0]["content"] == "slow":  # whichever of the two arrives first
            fast_was_seen.wait(timeout=30)
        handler.reply(200, good_answer(handler.path, body))

    server.always = answer
    asked = [ask("slow", text="slow"), ask("fast", text="fast")]
    batches: Iterator[Batch] = engine_for(server, concurrency=2).sample(asked, SAMPLING)
    [(first, _)] = next(batches)
    fast_was_seen.set()
    [(second, completion)] = next(batches)
    assert (first, second, completion.finish) == ("fast", "slow", Finish.STOP)


# --- faults that pass -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [status(429), status(503), status(500), status(408), reset, half],
    ids=["429", "503", "500", "408", "reset", "half"],
)
@pytest.mark.parametrize("style", ["chat", "text"])
def test_what_may_pass_is_tried_again(server: StubServer, fault: Any, style: str) -> None:
    server.faults = [fault, fault]
    drawn = draw(engine_for(server, concurrency=1), ask("q", (0, 1), style=style), ask("r", style=style))
    assert len(server.calls) == 4
    assert server.bodies[0] == server.bodies[1] == server.bodies[2]
    assert [c.text for c in drawn["q"]] == [f"seed {sample_seed(5, 'q', i)}" for i in (0, 1)]


def test_the_waits_grow(server: StubServer) -> None:
    server.faults = [status(500)] * 3
    assert one(engine_for(server, retries=3, backoff=0.1)).finish is Finish.STOP
    assert all(0.1 * 2**i <= wait < 0.1 * 2**i * 1.5 + 0.2 for i, wait in enumerate(server.waits))


def test_retry_after_is_honoured_up_to_a_cap(server: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = [status(429, Retry_After="0.4"), status(503, Retry_After="3600")]
    monkeypatch.setattr("workbench.engines.client.MAX_WAIT", 0.6)
    assert one(engine_for(server)).finish is Finish.STOP
    assert 0.4 <= server.waits[0] < 0.6 <= server.waits[1] < 1


def test_a_server_that_says_wait_is_left_alone_by_the_other_requests(server: StubServer) -> None:
    server.faults = [status(429, Retry_After="0.5")]
    draw(engine_for(server, concurrency=1), ask("a"), ask("b"))
    assert [wait >= 0.5 for wait in server.waits] == [True, False]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert _retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 18 < (_retry_after(later) or 0) <= 20
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert 18 < (_retry_after(later.replace("GMT", "-0000")) or 0) <= 20


@pytest.mark.parametrize(
    ("fault", "words"), [(status(503, "busy"), "HTTP 503: busy (tries: 3)"), (hang, "ReadTimeout (tries: 3)")]
)
def test_what_does_not_pass_becomes_an_error_after_the_tries(server: StubServer, fault: Any, words: str) -> None:
    server.always = fault
    completion = one(engine_for(server, timeout=0.2))
    assert (completion.finish, completion.error, completion.text) == (Finish.ERROR, words, "")
    assert len(server.calls) == 3


# --- faults that do not pass ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 404, 413, 422, 501])
def test_a_refused_request_is_an_error_without_a_retry(server: StubServer, code: int) -> None:
    words = "This model's maximum context length is 2048 tokens."
    server.faults = [status(code, words)]
    drawn = draw(engine_for(server, concurrency=1), ask("long", (0, 1, 2)), ask("short"))
    assert [(c.finish, c.error) for c in drawn["long"]] == [(Finish.ERROR, f"HTTP {code}: {words}")] * 3
    assert drawn["short"][0].finish is Finish.STOP
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    "fault",
    [
        garbage(b'{"choices": [{"index": 0, "text": "4'),
        garbage(b"<html>ok</html>"),
        garbage(["no", "object"]),
        garbage({}),
        garbage({"choices": None, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        garbage({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        garbage({"choices": ["4"], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        edited(lambda answer: answer.pop("usage")),
        edited(lambda answer: answer["choices"][0].pop("message")),
        edited(lambda answer: answer["choices"][0]["message"].update(content=None)),
        edited(lambda answer: answer["choices"][0].update(finish_reason="abort")),
        edited(lambda answer: answer["choices"][0].update(finish_reason=None)),
        edited(lambda answer: answer["choices"][0]["logprobs"]["content"][0].update(logprob=float("nan"))),
    ],
)
def test_what_is_no_answer_is_an_error_and_never_an_answer(server: StubServer, fault: Any) -> None:
    server.faults = [fault]
    completion = one(engine_for(server))
    assert (completion.finish, completion.text) == (Finish.ERROR, ""), completion
    assert completion.error
    assert len(server.calls) == 1


def test_fewer_choices_than_asked_for(server: StubServer) -> None:
    server.faults = [edited(lambda answer: answer["choices"].pop(1))]
    drawn = draw(engine_for(server), ask(indices=(4, 5, 6)))["q"]
    assert [c.finish for c in drawn] == [Finish.STOP, Finish.ERROR, Finish.STOP]
    assert drawn[2].text == f"seed {sample_seed(5, 'q', 6)}"


def test_choices_in_another_order_keep_their_index(server: StubServer) -> None:
    server.faults = [edited(lambda answer: answer["choices"].reverse())]
    drawn = draw(engine_for(server), ask(indices=(0, 1, 2)))["q"]
    assert [c.text for c in drawn] == [f"seed {sample_seed(5, 'q', i)}" for i in range(3)]


def test_a_cut_off_sample_is_length_and_an_empty_one_is_an_answer(server: StubServer) -> None:
    server.faults = [
        edited(lambda answer: answer["choices"][0].update(finish_reason="length")),
        edited(lambda answer: answer["choices"][0]["message"].update(content="")),
    ]
    drawn = draw(engine_for(server, concurrency=1), ask("a"), ask("b"))
    assert drawn["a"][0].finish is Finish.LENGTH
    assert (drawn["b"][0].finish, drawn["b"][0].text) == (Finish.STOP, "")


def test_without_log_probabilities_the_usage_is_shared(server: StubServer) -> None:
    server.faults = [edited(lambda answer: [choice.pop("logprobs") for choice in answer["choices"]])]
    drawn = draw(engine_for(server), ask(indices=(0, 1)))["q"]
    assert [(c.logprob, c.completion_tokens) for c in drawn] == [(None, len(drawn[0].text))] * 2


@pytest.mark.parametrize("text", ["a <|im_end|> b", "<｜User｜>", "</s>", "[INST] x", "<start_of_turn>"])
@pytest.mark.parametrize("style", ["chat", "text"])
def test_control_tokens_in_the_text_are_not_sent(server: StubServer, text: str, style: str) -> None:
    engine = engine_for(server)
    completion = one(engine, ask(text=text, style=style))
    [[(_, scored)]] = engine.logprobs([ask(style=style)], [[text]])
    assert completion.finish is scored.finish is Finish.ERROR
    assert "control token" in (completion.error or "")
    assert server.calls == []


def test_text_that_only_looks_a_little_like_it_is_sent(server: StubServer) -> None:
    assert one(engine_for(server), ask(text="<b>5 < 6</b> |x| [1] \ud800")).finish is Finish.STOP
    assert server.bodies[0]["messages"][0]["content"] == "<b>5 < 6</b> |x| [1] \ud800"


# --- servers that die, keys, names ------------------------------------------------------------------


def test_a_server_that_dies_stops_the_run_which_then_goes_on(server: StubServer) -> None:
    doomed = StubServer()
    got = []

    def last_words(handler: Any, body: dict[str, Any]) -> None:
        doomed.always = reset
        reset(handler, body)
        doomed.die()

    requests = [ask(str(i)) for i in range(6)]
    doomed.faults = [edited(lambda answer: None)] * 3 + [last_words]
    with pytest.raises(UserError) as caught:
        for batch in engine_for(doomed, concurrency=1).sample(requests, SAMPLING):
            got.extend(batch)
    assert [id for id, _ in got] == ["0", "1", "2"]
    for words in (doomed.url, "does not answer", "is kept", "goes on"):
        assert words in str(caught.value)
    rest = draw(engine_for(server), *requests[3:])
    assert all(c.finish is Finish.STOP for [c] in rest.values())


def test_a_dead_endpoint_is_left_out_and_tried_again_later(server: StubServer) -> None:
    dead = StubServer()
    dead.die()
    engine = engine_for(dead, server, backoff=0.1)  # left out for two seconds
    drawn = draw(engine, *(ask(str(i)) for i in range(8)))
    assert all(c.finish is Finish.STOP for [c] in drawn.values())
    assert len(server.calls) == 8
    back = StubServer(port=dead.port)
    draw(engine, ask("at once"))
    assert back.calls == []
    time.sleep(2.1)
    draw(engine, *(ask(str(i)) for i in range(8)))
    back.die()
    assert len(back.calls) == 4


def test_endpoints_take_turns(server: StubServer) -> None:
    other = StubServer()
    draw(engine_for(server, other), *(ask(str(i)) for i in range(8)))
    other.die()
    assert len(server.calls) == len(other.calls) == 4


def test_a_refused_key_stops_at_once_and_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = StubServer(key="another")
    engine = engine_for(server, api_key=KEY)
    for attempt in (lambda: draw(engine, ask()), lambda: engine.version):
        with pytest.raises(UserError, match="API key") as caught:
            attempt()
        assert KEY not in "".join(traceback.format_exception(caught.value))
    server.key = None
    server.faults = [status(400, f"Bearer {KEY} is odd"), garbage({"choices": KEY}), status(500, KEY)]
    failed = [*draw(engine, ask(indices=(0, 2)))["q"], one(engine_for(server, api_key=KEY, retries=0))]
    server.die()
    with pytest.raises(UserError) as caught:
        one(engine)
    assert [c.finish for c in failed] == [Finish.ERROR] * 3
    shown = [repr(failed), str(caught.value), repr(engine), repr(engine._servers), caplog.text]
    assert KEY not in "".join(shown)
    assert len(server.calls) == 4


def test_the_key_is_sent(server: StubServer) -> None:
    server.key = KEY
    assert one(engine_for(server, api_key=f" {KEY}\n")).finish is Finish.STOP
    with pytest.raises(UserError, match="API key") as caught:
        engine_for(server, api_key=f"{KEY}\nx: y")
    assert KEY not in str(caught.value)


def test_version_and_served_names() -> None:
    server = StubServer(names=("model", "my-lora"))
    assert engine_for(server).version == "vllm 0.32.0, /models/model"
    assert VllmEngine(Model("my-lora"), [server.url + "/v1/"]).version.endswith("my-lora")
    with pytest.raises(UserError, match=r"Did you mean 'my-lora'\? There are: model, my-lora"):
        VllmEngine(Model("model"), [server.url], served_name="mylora").version  # noqa: B018
    server.is_vllm = False
    engine = engine_for(server)
    assert engine.version == "openai-compatible, /models/model"
    server.die()
    assert engine.version.startswith("openai-compatible"), "it is asked once"
    with pytest.raises(UserError, match=rf"No server answers\. {server.url}: (ConnectError|ReadError)"):
        engine_for(server).version  # noqa: B018
    with pytest.raises(UserError, match="engine hf"):
        engine.embed(["text"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoints": []}, "No server address"),
        ({"endpoints": ["localhost:8000"]}, "no server address"),
        ({"endpoints": ["http://me:pass@host"]}, "no server address"),
        ({"endpoints": ["http://x\n"]}, "no server address"),
        ({"endpoints": ["http://[::1"]}, r"endpoint is 'http://\[::1', which is no server address"),
        ({"endpoints": ["http://me:pass@[::1"]}, "no server address"),
        ({"endpoints": ["http://127.0.0.1:80x"]}, "no server address"),
        ({"endpoints": ["http://127.0.0.1:80000"]}, "no server address"),
        ({"endpoints": ["http://xn--" + "a" * 70]}, "no server address"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": float("nan")}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"backoff": float("inf")}, "backoff"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        VllmEngine(Model("model"), **{"endpoints": ["http://127.0.0.1:8000"], **options})
    assert "pass@" not in str(caught.value)


def test_the_context_is_the_smallest_that_a_server_tells(server: StubServer) -> None:
    other = StubServer()
    other.context = 512
    assert engine_for(server, other).context == 512
    other.context = None
    assert engine_for(server, other).context == 2048
    server.context = None
    assert engine_for(server, other).context is None
    other.die()
    assert engine_for(server, other).context is None, "an endpoint that does not answer is passed over"
    with pytest.raises(UserError, match="There is no model"):
        VllmEngine(Model("another"), [server.url]).context  # noqa: B018


# --- counting ---------------------------------------------------------------------------------------


def test_tokens_are_counted_in_the_order_of_the_requests(server: StubServer) -> None:
    texts = ["x" * length for length in (5, 1, 40, 0, 7)]
    requests = [ask(text=text, style=style) for text in texts for style in ("chat", "text")]
    assert engine_for(server, concurrency=3).count_tokens(requests) == [5, 5, 1, 1, 40, 40, 0, 0, 7, 7]
    assert {path for _, path, _ in server.calls} == {"/tokenize"}
    assert all(("messages" in body) != ("prompt" in body) for body in server.bodies)
    assert engine_for(server).count_tokens([]) == []


def test_what_cannot_be_counted_is_0_and_the_others_are_counted(server: StubServer) -> None:
    server.faults = [status(400, "no chat template"), garbage({"tokens": None})]
    requests = [ask(), ask(), ask(text="<|im_end|>")]
    assert engine_for(server, concurrency=1).count_tokens(requests) == [0, 0, 10]
    server.die()
    with pytest.raises(UserError, match="does not answer"):
        engine_for(server).count_tokens(requests)


# --- scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["chat", "text"])
def test_a_continuation_is_scored_by_its_own_tokens(server: StubServer, style: str) -> None:
    [batch] = engine_for(server).logprobs([ask(style=style)], [[" yes", " n"]])
    expected = [-0.5 * sum(ord(c) % 7 for c in text) for text in (" yes", " n")]
    assert [(c.index, c.text, c.finish, c.logprob) for _, c in batch] == [
        (0, " yes", Finish.SCORED, pytest.approx(expected[0])),
        (1, " n", Finish.SCORED, pytest.approx(expected[1])),
    ]
    assert [(c.prompt_tokens, c.completion_tokens) for _, c in batch] == [(6, 4), (6, 2)]


def test_labels_of_one_token_are_scored_behind_one_prompt(server: StubServer) -> None:
    labels = ["y", "n", "m"]
    [batch] = engine_for(server).logprobs([ask(style="chat")], [labels])
    assert [c.logprob for _, c in batch] == [pytest.approx(-0.5 * (ord(label) % 7)) for label in labels]
    assert [(c.prompt_tokens, c.completion_tokens) for _, c in batch] == [(6, 1)] * 3
    [body] = [body for _, path, body in server.calls if path == "/v1/completions"]
    assert len(body["prompt"]) == 1 and body["logprob_token_ids"] == sorted(map(ord, labels))
    assert body["max_tokens"] == 1 and "echo" not in body


def test_a_server_that_is_not_vllm_echoes_every_label(server: StubServer) -> None:
    server.is_vllm = False
    [batch] = engine_for(server).logprobs([ask()], [["y", "n"]])
    assert [c.logprob for _, c in batch] == [pytest.approx(-0.5 * (ord(label) % 7)) for label in "yn"]
    assert [len(body["prompt"]) for body in server.bodies if body.get("echo")] == [2]


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (("a", "b"), garbage({"choices": []})),
        (("a", "b"), edited(lambda answer: answer["choices"].pop())),
        (("ab", "bc"), edited(lambda answer: answer["choices"].pop())),
        (("ab", "bc"), edited(lambda answer: answer["choices"][0]["logprobs"]["token_logprobs"].pop())),
        (("a", "b"), edited(lambda answer: answer["choices"][0]["logprobs"]["top_logprobs"][0].popitem())),
        (("a", "b"), edited(lambda answer: answer["choices"][0].pop("logprobs"))),
        (("a", "b"), status(404, "no such path")),
    ],
)
def test_a_score_that_is_missing_makes_all_labels_errors(
    server: StubServer, labels: tuple[str, str], fault: Any
) -> None:
    engine = engine_for(server)
    list(engine.logprobs([ask()], [labels]))
    server.calls.clear()
    server.faults = [edited(lambda answer: None), fault]  # the prompt's tokens; the labels' are known by now
    [batch] = engine.logprobs([ask()], [labels])
    assert [(c.index, c.finish) for _, c in batch] == [(0, Finish.ERROR), (1, Finish.ERROR)]
    assert [path for _, path, _ in server.calls] == ["/tokenize", "/v1/completions"]


def test_a_prompt_or_a_continuation_without_tokens(server: StubServer) -> None:
    engine = engine_for(server)
    [[(_, scored)]] = engine.logprobs([ask(text="")], [["ab"]])
    assert scored.finish is Finish.ERROR
    for request in (ask(), ask(style="text"), ask(text="blank ", style="text")):
        with pytest.raises(UserError, match="The continuation '' has no tokens"):
            list(engine.logprobs([request], [["a", ""]]))


def read_by(tokenizer: Any) -> Fault:
    """A good server that has a real tokenizer."""

    def fault(handler: Handler, body: dict[str, Any]) -> None:
        answer = good_answer(handler.path, body)
        if handler.path == "/tokenize":
            special = body.get("add_special_tokens", True)
            answer = {"tokens": tokenizer(body["prompt"], add_special_tokens=special)["input_ids"]}
        handler.reply(200, answer)

    return fault


PROMPTS = ("You are", "You are ", "You are \n", "\nYou", "You are\n\n", "  ", "Two and\u00a0", "x", "Sentiment: ")


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("texts", [("y", "n"), (" y", " n"), ("you", "a pal"), ("\n", " "), ("\nyes", "  no")])
def test_tokens_in_text_style_are_those_of_the_engine_hf(
    server: StubServer, tiny_base_model: Path, texts: tuple[str, ...], bos: bool
) -> None:
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base_model)
    if bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    server.always = read_by(tokenizer)
    engine, encoder = engine_for(server), Encoder(tokenizer)
    for prompt in PROMPTS:
        server.calls.clear()
        request = ask(text=prompt, style="text")
        pairs = [encoder.encode_pair(request, text)[:2] for text in texts]
        [batch] = engine.logprobs([request], [texts])
        counts = [(len(before), len(own)) for before, own in pairs]
        assert [(c.prompt_tokens, c.completion_tokens) for _, c in batch] == counts
        [body] = [body for _, path, body in server.calls if path == "/v1/completions"]
        if "logprob_token_ids" in body:
            steps = [step for before, own in pairs for step in steps_of(before, own)]
            assert body["prompt"] == [list(before) for before in dict.fromkeys(before for before, _ in steps)]
            assert body["logprob_token_ids"] == sorted({token for _, token in steps})
        else:
            assert body["prompt"] == [before + own for before, own in pairs]
        for text, (before, own) in zip(texts, pairs, strict=True):
            [[(_, scores)]] = engine.token_logprobs([request], [text])
            assert [score.token for score in scores.tokens] == own
            assert server.bodies[-1]["prompt"] == [before + own]


# --- scores of tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["chat", "text"])
@pytest.mark.parametrize("top", [0, 3, 20])
def test_the_tokens_of_a_continuation_add_up_to_its_score(server: StubServer, style: str, top: int) -> None:
    engine, texts = engine_for(server), [" yes", " n"]
    asked = [ask(str(i), style=style) for i in range(2)]
    sums = {id: c.logprob for batch in engine.logprobs(asked, [[text] for text in texts]) for id, c in batch}
    found = dict(pair for batch in engine.token_logprobs(asked, texts, top) for pair in batch)
    for request, text in zip(asked, texts, strict=True):
        scores = found[request.id]
        assert scores.error is None
        assert [score.token for score in scores.tokens] == [ord(c) for c in text]
        assert sum(score.logprob for score in scores.tokens) == pytest.approx(sums[request.id])
        for score in scores.tokens:
            rivals = [(1000 + k, -0.25 - k) for k in range(top)]
            ranked = sorted([(score.token, score.logprob), *rivals], key=lambda pair: -pair[1])
            assert score.top == tuple(ranked[:top])
    body = server.bodies[-1]
    assert (body["echo"], body["max_tokens"], body["logprobs"]) == (True, 0, top)
    assert body["return_tokens_as_token_ids"] is True


@pytest.mark.parametrize(
    "fault", [status(404, "no such path"), garbage({"choices": []}), status(503)], ids=["404", "no choices", "503"]
)
def test_tokens_that_cannot_be_scored_are_an_error_and_the_others_are_scored(
    server: StubServer, fault: Any
) -> None:
    engine = engine_for(server, retries=0, concurrency=1)
    list(engine.token_logprobs([ask()], ["a"]))
    server.faults = [edited(lambda answer: None), fault]  # the prompt's tokens; the continuation's are known
    failed, good = engine.token_logprobs([ask("q"), ask("r")], ["a", "a"])
    [(_, scores)] = failed
    assert (scores.tokens, bool(scores.error)) == ((), True)
    assert (good[0][0], good[0][1].error) == ("r", None)


@pytest.mark.parametrize("top", [-1, 21, 1.5, float("nan"), float("inf")])
def test_what_cannot_be_scored_token_by_token(server: StubServer, top: Any) -> None:
    with pytest.raises(UserError, match="top is"):
        engine_for(server).token_logprobs([ask()], ["a"], top)
    with pytest.raises(UserError, match="no tokens"):
        list(engine_for(server).token_logprobs([ask()], [""]))
    [[(_, scores)]] = engine_for(server).token_logprobs([ask(text="<|im_end|>")], ["a"])
    assert "control token" in (scores.error or "")


# --- stopping ---------------------------------------------------------------------------------------


def test_closing_the_iterator_ends_at_once(server: StubServer) -> None:
    server.faults = [edited(lambda answer: None)]
    server.always = hang
    batches = engine_for(server, concurrency=4).sample([ask(str(i)) for i in range(50)], SAMPLING)
    next(batches)
    start = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 0.5
    assert not [t for t in threading.enumerate() if t.name == "workbench-client"]
    assert len(server.calls) <= 5


def test_ctrl_c_ends_at_once(server: StubServer) -> None:
    server.always = hang
    code = (
        "from workbench.engines.vllm import VllmEngine\n"
        "from workbench.decodes import Sampling\n"
        "from workbench.types import Message, Model, Request\n"
        f"engine = VllmEngine(Model('model'), [{server.url!r}])\n"
        "list(engine.sample([Request('q', (Message('user', '?'),))], Sampling()))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not server.calls and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, stderr = process.communicate(timeout=5)
    assert time.monotonic() - start < 1.5
    assert stderr.rstrip().endswith("KeyboardInterrupt")


def test_control_tokens_have_no_text_and_are_asked_for_as_many_at_once_as_allowed(server: StubServer) -> None:
    words = [" the", "<|im_end|>", "</s>", "<s> a", "a < b | c", "<|endoftext|>", "\n", "[INST]", ""]
    busy: list[int] = []
    most: list[int] = []

    def tells(handler: Handler, body: dict[str, Any]) -> None:
        assert handler.path == "/detokenize"
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.02)
        busy.pop()
        handler.reply(200, {"prompt": "".join(words[token] for token in body["tokens"])})

    server.always = tells
    groups = [[token] for token in range(len(words))] + [[0, 6]]
    told = engine_for(server, concurrency=3).detokenize(groups)
    assert told == [" the", "", "", "<s> a", "a < b | c", "", "\n", "", "", " the\n"]
    assert max(most) <= 3 and len(server.calls) == len(groups)
