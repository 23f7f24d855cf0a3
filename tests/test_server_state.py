"""States of servers: written and read, found by their address, and told from processes that are none of theirs."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from workbench.errors import UserError
from workbench.server_state import (
    Canary,
    Served,
    ServerState,
    lives,
    read_states,
    remove_state,
    server_folder,
    state_of,
    write_state,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))


def a_state(port: int = 8000, host: str = "127.0.0.1") -> ServerState:
    """Of this very process."""
    return ServerState(
        url=f"http://{host}:{port}",
        host=host,
        port=port,
        model="smollm2-135m-instruct",
        revision=None,
        folder="/models/smollm2",
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        mark="abc",
        python=sys.executable,
        version="0.32.0 cpu",
        command=("python", "-m", "vllm"),
        dtype="bfloat16",
        max_lora_rank=8,
        room=None,
        prompt_embeds=False,
        started="2026-11-01T12:00:00+00:00",
        health="healthy",
        adapters={"lora-12345678": Served("/cache/lora-12345678", "LORA", "/runs/1/adapter")},
        canaries=(Canary("lora-12345678", "decode", 0.01, 0.2, "all is well"),),
        note="",
    )


def test_what_is_written_is_read() -> None:
    write_state(a_state(8001))
    write_state(a_state(900))
    assert read_states() == [a_state(900), a_state(8001)]
    remove_state(a_state(900))
    assert read_states() == [a_state(8001)]


def test_none_were_started() -> None:
    assert read_states() == []
    assert state_of("http://127.0.0.1:8000") is None


@pytest.mark.parametrize(
    ("host", "url", "found"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("127.0.0.1", "http://localhost:8000/v1/", True),
        ("localhost", "http://127.0.0.1:8000", True),
        ("0.0.0.0", "http://127.0.0.1:8000", True),
        ("10.0.0.7", "http://10.0.0.7:8000", True),
        ("10.0.0.7", "http://127.0.0.1:8000", False),
        ("127.0.0.1", "http://10.0.0.7:8000", False),
        ("127.0.0.1", "http://127.0.0.1:8001", False),
        ("127.0.0.1", "http://127.0.0.1", False),
        ("127.0.0.1", "http://127.0.0.1:port", False),
        ("127.0.0.1", "", False),
    ],
)
def test_a_server_is_found_by_its_address(host: str, url: str, found: bool) -> None:
    write_state(a_state(host=host))
    assert (state_of(url) is not None) is found


def test_a_process_of_another_time_is_another_process() -> None:
    assert lives(a_state())
    reused = replace(a_state(), created=a_state().created - 60)
    assert not lives(reused)
    write_state(reused)
    assert [state.health for state in read_states()] == ["dead"]
    state = state_of("http://127.0.0.1:8000")
    assert state is not None and state.health == "dead"


def test_a_process_that_nobody_waited_for_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    created = psutil.Process(process.pid).create_time()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    zombie = replace(a_state(), pid=process.pid, created=created)
    assert not lives(zombie)
    process.wait()
    assert not lives(zombie)


def test_a_value_that_is_no_number_has_not_passed() -> None:
    write_state(replace(a_state(), canaries=(Canary("base", "decode", math.nan, 0.2, "no number"),)))
    [state] = read_states()
    assert [canary.words for canary in state.failed] == ["no number"]
    assert math.isnan(state.canaries[0].value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"adapters": 1}', '{"adapters": {}, "canaries": [1]}'])
def test_a_damaged_state_is_named(content: str) -> None:
    path = server_folder(8000) / "state.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=r"servers.8000.state\.json is damaged"):
        read_states()


def test_only_folders_of_ports_are_read() -> None:
    write_state(a_state(8000))
    shutil.copytree(server_folder(8000), server_folder(8000).with_name("8000.bak"))
    assert read_states() == [a_state(8000)]
    write_state(a_state(8001))
    (server_folder(8001) / "state.json").write_text("{}")
    assert read_states(8000) == [a_state(8000)] and read_states(8002) == []
    with pytest.raises(UserError, match="damaged"):
        read_states(8001)


def test_a_state_of_another_version_is_named() -> None:
    write_state(a_state())
    path = server_folder(8000) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}))
    with pytest.raises(UserError, match=r"damaged.*'new'.*Delete its folder"):
        read_states()
