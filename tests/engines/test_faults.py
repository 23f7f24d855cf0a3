"""Faults of servers, end to end: through the vllm engine, the store and the harness, with every answer counted."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from stub_server import Fault, Handler, StubServer, edited, good_answer, half, hang, reset, status

from workbench.decodes import Majority
from workbench.decoding.ask import completions
from workbench.engines.base import sample_seed
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.store import Store
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import grade_number
from workbench.types import Completion, Example, Finish, Message, Model, Prompt, Request, Result, System

N = 40  # samples a question: two requests each, of 32 and 8
SYSTEM = System(Model("model"), Prompt("plain", (Message("user", "{{ input }}"),)), Majority(n=N, seed=5))
QUESTIONS = tuple(Example.make(f"question {i}", "4") for i in range(6))
REQUESTS = [Request(question.id, (Message("user", question.input),)) for question in QUESTIONS]
WANTED = {f"seed {sample_seed(5, question.id, i)}" for question in QUESTIONS for i in range(N)}


@pytest.fixture
def server() -> Iterator[StubServer]:
    stub = StubServer()
    yield stub
    stub.die()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "completions.sqlite") as store:
        yield store


def engine_for(*servers: StubServer, **options: Any) -> VllmEngine:
    urls = [server.url for server in servers]
    return VllmEngine(Model("model"), urls, **{"backoff": 0.01, "retries": 9, "timeout": 5.0, **options})


def asked(engine: VllmEngine, store: Store) -> dict[str, list[Completion]]:
    """Every completion, exactly one for each index of each question."""
    told: list[tuple[int, int]] = []
    found = completions(SYSTEM, REQUESTS, (), engine, store, lambda done, total: told.append((done, total)))
    for question in QUESTIONS:
        assert [completion.index for completion in found[question.id]] == list(range(N))
    assert told[-1] == (N * len(QUESTIONS), N * len(QUESTIONS))
    return found


def texts(found: dict[str, list[Completion]]) -> list[str]:
    return [c.text for completions in found.values() for c in completions if c.finish is not Finish.ERROR]


def stored(store: Store) -> int:
    return sum(count for _, _, count in store.streams())


def measured(engine: VllmEngine, store: Store) -> Result:
    task: Task = make_task(
        "numbers",
        settings={},
        splits={"practice": (Example.make("p", "0"),), "dev": (Example.make("d", "0"),), "test": QUESTIONS},
        grade=grade_number,
        prompt="question",
    )
    return evaluate(SYSTEM, task, engine, store)


class Storm:
    """Two requests of three meet a fault; the seeds of those that are answered are kept."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        self.count = 0
        self.given: list[int] = []
        self.lock = threading.Lock()

    def __call__(self, handler: Handler, body: dict[str, Any]) -> None:
        with self.lock:
            self.count += 1
            count = self.count
            if count % 3 == 0:
                self.given += range(body["seed"], body["seed"] + body["n"])
        if count % 3:
            self.faults[count % len(self.faults)](handler, body)
        else:
            handler.reply(200, good_answer(handler.path, body))


def date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


STORMS = {
    "429": (status(429, "slow down"),),
    "429 and a number": (status(429, retry_after="0.02"),),
    "429 and a date": (status(429, retry_after=date(-1)),),
    "503": (status(503),),
    "503, a number and a date": (status(503, retry_after="0"), status(503, retry_after=date(0))),
    "an hour": (status(503, retry_after="3600"), status(429, retry_after=date(3600))),
    "resets": (reset,),
    "cut answers": (half,),
    "all": (status(429), reset, half, status(500), status(503, retry_after="0")),
}


@pytest.mark.parametrize("faults", STORMS.values(), ids=STORMS)
def test_a_storm_costs_time_and_nothing_else(
    server: StubServer, store: Store, monkeypatch: pytest.MonkeyPatch, faults: tuple[Fault, ...]
) -> None:
    monkeypatch.setattr("workbench.engines.client.MAX_WAIT", 0.05)
    server.always = storm = Storm(*faults)
    # Of ten tries all meet a fault once in sixty times, where two take turns by chance.
    found = asked(engine_for(server, concurrency=2, retries=60), store)
    assert sorted(texts(found)) == sorted(WANTED)
    assert len(storm.given) == len(set(storm.given)) == N * len(QUESTIONS), "a seed was answered twice"
    assert stored(store) == N * len(QUESTIONS)
    assert len(server.calls) == 3 * 2 * len(QUESTIONS)
    asked(engine_for(server), store)
    assert len(server.calls) == 3 * 2 * len(QUESTIONS), "all of it is in the store"


def test_hung_sockets_are_left_and_asked_again(server: StubServer, store: Store) -> None:
    server.faults = [hang] * 4
    assert sorted(texts(asked(engine_for(server, timeout=1.0, concurrency=4), store))) == sorted(WANTED)
    assert len(server.calls) == 4 + 2 * len(QUESTIONS)


def poisoned(fault: Fault) -> Fault:
    """The fault for question 2, good answers for the others."""

    def some(handler: Handler, body: dict[str, Any]) -> None:
        if body["messages"][-1]["content"] == "question 2":
            fault(handler, body)
        else:
            handler.reply(200, good_answer(handler.path, body))

    return some


@pytest.mark.parametrize(
    ("fault", "words", "tries"),
    [
        (status(503, "busy", retry_after="0"), "HTTP 503: busy (tries: 2)", 2),
        (status(429, retry_after="0"), "HTTP 429", 2),
        (hang, "ReadTimeout (tries: 2)", 2),
        (status(400, "maximum context length"), "HTTP 400: maximum context length", 1),
        (edited(lambda answer: [c.update(finish_reason="abort") for c in answer["choices"]]), "'abort'", 1),
        (edited(lambda answer: answer.pop("usage")), "lacks what it must have", 1),
    ],
    ids=["503", "429", "hung", "400", "aborted", "no usage"],
)
def test_what_fails_is_an_error_outcome_and_leaves_the_denominator(
    server: StubServer, store: Store, fault: Fault, words: str, tries: int
) -> None:
    server.always = poisoned(fault)
    result = measured(engine_for(server, retries=1, timeout=1.0), store)
    assert dict(result.counts)["error"] == 1
    assert result.total == len(QUESTIONS) - 1
    assert [o.score is None for o in result.outcomes] == [i == 2 for i in range(len(QUESTIONS))]
    assert words in result.notes[0]
    assert stored(store) == N * (len(QUESTIONS) - 1), "a failed request is never stored"
    assert len(server.calls) == 2 * (len(QUESTIONS) - 1) + 2 * tries
    server.always = None
    server.calls.clear()
    again = measured(engine_for(server), store)
    assert (again.total, dict(again.counts)["error"]) == (len(QUESTIONS), 0)
    seeds = [sample_seed(5, QUESTIONS[2].id, start) for start in (0, 32)]
    assert sorted(body["seed"] for body in server.bodies) == sorted(seeds), "only what failed is asked again"


def test_one_sample_of_a_request_that_is_missing_is_the_only_one_asked_again(
    server: StubServer, store: Store
) -> None:
    server.faults = [edited(lambda answer: answer["choices"].pop(7))]
    found = asked(engine_for(server, concurrency=1), store)
    [failed] = [c for completions in found.values() for c in completions if c.finish is Finish.ERROR]
    assert stored(store) == N * len(QUESTIONS) - 1
    result = measured(engine_for(server), store)
    assert (result.total, dict(result.counts)["error"]) == (len(QUESTIONS), 0)
    last = server.bodies[-1]
    assert (last["n"], last["seed"]) == (1, sample_seed(5, QUESTIONS[0].id, failed.index))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_server_that_dies_in_the_middle_and_comes_back(store: Store, concurrency: int) -> None:
    doomed = StubServer()
    lock, count = threading.Lock(), 0

    def dies(handler: Handler, body: dict[str, Any]) -> None:
        nonlocal count
        with lock:
            count += 1
            last = count > 5
        if not last:
            handler.reply(200, good_answer(handler.path, body))
            return
        if count == 6:
            threading.Thread(target=doomed.die).start()
        reset(handler, body)

    doomed.always = dies
    with pytest.raises(UserError) as caught:
        asked(engine_for(doomed, retries=2, concurrency=concurrency), store)
    for words in (doomed.url, "does not answer", "is kept", "start the server again", "goes on"):
        assert words in str(caught.value)
    before = stored(store)
    assert before % 8 == 0
    assert 0 < before < N * len(QUESTIONS)
    kept = {c.text for completions in store_read(store).values() for c in completions}
    assert len(kept) == before
    assert kept <= WANTED

    back = StubServer(port=doomed.port)
    try:
        found = asked(engine_for(back), store)
    finally:
        back.die()
    drawn = [f"seed {body['seed'] + i}" for body in back.bodies for i in range(body["n"])]
    assert sorted([*kept, *drawn]) == sorted(WANTED), "the missing ones, each once"
    assert sorted(texts(found)) == sorted(WANTED)


def store_read(store: Store) -> dict[str, list[Completion]]:
    [(stream, _, _)] = store.streams()
    return store.read(stream, [question.id for question in QUESTIONS], N)


def test_of_several_servers_one_dies_and_the_others_finish(server: StubServer, store: Store) -> None:
    doomed, third = StubServer(), StubServer()
    doomed.faults = [edited(lambda answer: None)] * 2
    doomed.always = reset
    found = asked(engine_for(server, doomed, third, concurrency=3), store)
    doomed.die()
    third.die()
    assert sorted(texts(found)) == sorted(WANTED)
    assert all(len(stub.calls) >= 2 for stub in (server, doomed, third)), "the work is shared"
    answered = len(server.calls) + len(third.calls) + 2
    assert answered == 2 * len(QUESTIONS), "none is answered twice"
