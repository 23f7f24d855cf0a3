"""A real vLLM server killed with -9 in the middle of a run: nothing is lost, and nothing is drawn twice."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from interpreters import NEEDS_VLLM

from workbench.models import EMBEDDED
from workbench.server_state import ServerState, read_states
from workbench.serving.process import processes_of

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS, N = 12, 16

pytestmark = [*NEEDS_VLLM, pytest.mark.slow]


def workbench(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recipes", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def serve(server: Any) -> ServerState:
    told = server.settings
    # The canaries have their own tests; a second model in memory would only make this one slower.
    flags = ["--python", str(told["python"]), "--port", str(server.port), "--canaries", "self"]
    for name in ("max_model_len", "max_loras", "dtype"):
        flags += ["--" + name.replace("_", "-"), str(told[name])]
    process = workbench("serve", *flags, "--adapters", *told["adapters"])
    _, words = process.communicate(timeout=400)
    assert process.returncode == 0, words
    [state] = read_states()
    assert (state.health, state.port) == ("healthy", server.port)
    return state


def rows(store: Path) -> dict[tuple[int, int], tuple[bytes, int]]:
    """(question, index) → (text, tokens) of every completion that is stored."""
    if not store.exists():
        return {}
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
        try:
            found = db.execute("SELECT question, idx, text, completion_tokens FROM completions").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return {}
    assert len({(question, index) for question, index, _, _ in found}) == len(found)
    return {(question, index): (text, tokens) for question, index, text, tokens in found}


def drawn(url: str) -> float:
    """Tokens that the server has generated, as it counts them itself."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    [value] = re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", text, re.M)
    return float(value)


def test_a_run_goes_on_behind_a_server_that_was_killed(
    tmp_path: Path, real_vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is the one that other tests were served by."""
    state = real_vllm.up()
    monkeypatch.setenv("WORKBENCH_CACHE", str(real_vllm.cache))
    what = f"majority_vote --questions {QUESTIONS} --n {N} --max-tokens 64 --model {EMBEDDED} --name vote"
    run = (*what.split(), "--engine", "vllm", "--endpoint", state.url, "--runs", str(tmp_path))
    store = tmp_path / "completions.sqlite"
    process = workbench(*run)
    deadline = time.monotonic() + 200
    while not (before := rows(store)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.kill(state.pid, signal.SIGKILL)
    _, words = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "does not answer" in words and "start the server again and repeat the same command" in words
    assert "Traceback" not in words
    stored = rows(store)
    assert before.items() <= stored.items() and len(stored) < QUESTIONS * N
    [dead] = read_states()
    assert dead.health == "dead"
    process = workbench("serve", "stop", "--port", str(real_vllm.port))
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert processes_of(dead) == [], "what its first process left behind is ended too"
    assert read_states() == [] and not any((real_vllm.cache / "servers" / "adapters").iterdir())

    state = serve(real_vllm)
    already = drawn(state.url)  # by its canaries
    process = workbench(*run)
    told, words = process.communicate(timeout=400)
    assert process.returncode == 0, words
    whole = rows(store)
    assert len(whole) == QUESTIONS * N
    assert stored.items() <= whole.items(), "what was stored before stays as it was"
    fresh = [tokens for key, (_, tokens) in whole.items() if key not in stored]
    assert drawn(state.url) - already == sum(fresh), "the new server drew what was missing, and nothing else"
    assert f"{QUESTIONS} questions" in told
