"""Served names: adapters by their content's hash, several endpoints, and servers that failed their canaries."""

import os
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from stub_server import StubServer

from workbench.decodes import Sampling
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.identity import folder_hash
from workbench.server_state import Canary, ServerState, write_state
from workbench.types import Finish, Message, Model, Request

QUESTION = Request("q", (Message("user", "?"),))
ASKED: list[Callable[[VllmEngine], object]] = [
    lambda engine: engine.version,
    lambda engine: engine.context,
    lambda engine: list(engine.sample([QUESTION], Sampling())),
    lambda engine: list(engine.stream(QUESTION, Sampling())),
    lambda engine: list(engine.token_logprobs([QUESTION], ["a"])),
]


@pytest.fixture
def server() -> Iterator[StubServer]:
    stub = StubServer(names=("base",))
    yield stub
    stub.die()


@pytest.fixture
def other() -> Iterator[StubServer]:
    stub = StubServer(names=("base",))
    yield stub
    stub.die()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder that says LORA; what its weights hold does not matter to a client."""
    return save_lora(tmp_path / "my-lora", 1.0)


def save_lora(folder: Path, value: float) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    save_file({"lora_A": torch.full((2, 4), value)}, folder / "adapter_model.safetensors")
    return folder


def hashed(adapter: Path, alias: str = "sums") -> str:
    return f"{alias}-{folder_hash(adapter)[:8]}"


def engine_for(adapter: Path | str, *servers: StubServer, **options: Any) -> VllmEngine:
    urls = [server.url for server in servers]
    return VllmEngine(Model("base", adapter=str(adapter)), urls, backoff=0.01, retries=1, **options)


def named(engine: VllmEngine, *servers: StubServer) -> set[str]:
    """The names that requests are sent under."""
    requests = [Request(str(i), (Message("user", "?"),)) for i in range(4)]
    assert all(c.finish is Finish.STOP for batch in engine.sample(requests, Sampling()) for _, c in batch)
    return {body["model"] for server in servers for body in server.bodies}


def test_the_name_that_ends_in_the_content_s_hash(adapter: Path, server: StubServer) -> None:
    server.adapters = ("sums-00000000", "my-lora", hashed(adapter))
    engine = engine_for(adapter, server)
    assert named(engine, server) == {hashed(adapter)}
    assert engine.version == f"vllm 0.32.0, /models/base + {folder_hash(adapter)[:8]}"
    assert engine.context == 2048, "an adapter's context is that of its base"


def test_the_version_does_not_depend_on_alias_or_place(
    adapter: Path, server: StubServer, other: StubServer
) -> None:
    server.adapters, other.adapters = (hashed(adapter, "a"),), (hashed(adapter, "b"),)
    assert engine_for(adapter, server).version == engine_for(adapter, other).version
    other.names = ("another base",)
    assert engine_for(adapter, server).version != engine_for(adapter, other).version


def test_else_the_folder_s_own_name_and_an_explicit_one_wins(adapter: Path, server: StubServer) -> None:
    server.adapters = ("sums-00000000", "my-lora")
    assert named(engine_for(adapter, server), server) == {"my-lora"}
    assert engine_for(adapter, server).version == "vllm 0.32.0, /adapters/my-lora"
    server.calls.clear()
    server.adapters = (*server.adapters, hashed(adapter))
    assert named(engine_for(adapter, server, served_name="sums-00000000"), server) == {"sums-00000000"}


@pytest.mark.parametrize("options", [{}, {"served_name": "my-lora"}])
def test_an_adapter_that_is_not_here_is_refused(server: StubServer, options: dict[str, Any]) -> None:
    server.adapters = ("my-lora",)
    with pytest.raises(UserError, match=r"no adapter in the folder 'runs/7/my-lora'\. .*--model NAME"):
        engine_for("runs/7/my-lora", server, **options)
    assert VllmEngine(Model("my-lora"), [server.url]).version == "vllm 0.32.0, /adapters/my-lora", "as it says"


def test_labels_under_an_adapter_are_scored_behind_one_prompt(adapter: Path, server: StubServer) -> None:
    server.adapters = (hashed(adapter),)
    [batch] = engine_for(adapter, server).logprobs([QUESTION], [["a", "b"]])
    assert [c.finish for _, c in batch] == [Finish.SCORED] * 2
    assert [body["logprob_token_ids"] for body in server.bodies if "n" not in body and "logprobs" in body] == [
        [ord("a"), ord("b")]
    ]


@pytest.mark.parametrize("ask", ASKED)
def test_an_adapter_that_is_not_served_is_refused_with_what_is(
    adapter: Path, server: StubServer, ask: Callable[[VllmEngine], object]
) -> None:
    server.adapters = ("sums-00000000",)
    with pytest.raises(UserError) as caught:
        ask(engine_for(adapter, server))
    for words in (hashed(adapter, ""), "base, sums-00000000", "workbench serve reload", "--served-name"):
        assert words in str(caught.value)
    assert server.calls == [], "nothing was asked of another model"


def test_new_weights_have_another_name(adapter: Path, server: StubServer) -> None:
    server.adapters = (hashed(adapter),)
    assert engine_for(adapter, server).version
    save_lora(adapter, 0.0)
    with pytest.raises(UserError, match="workbench serve reload"):
        engine_for(adapter, server).version  # noqa: B018


def test_several_endpoints_have_one_name(adapter: Path, server: StubServer, other: StubServer) -> None:
    server.adapters = (hashed(adapter, "a"), hashed(adapter, "b"), "my-lora")
    other.adapters = (hashed(adapter, "b"), hashed(adapter, "c"))
    assert named(engine_for(adapter, server, other), server, other) == {hashed(adapter, "b")}
    for names in ((hashed(adapter, "c"), "my-lora"), ("my-lora",), ()):
        other.adapters = names
        with pytest.raises(UserError, match=f"{other.url} serves base") as caught:
            engine_for(adapter, server, other).version  # noqa: B018
        assert "everywhere" in str(caught.value)
    server.adapters = other.adapters = ("my-lora",)
    assert "my-lora" in engine_for(adapter, server, other).version
    other.names = ("another",)
    with pytest.raises(UserError, match=f"There is no model at {other.url} named 'base'"):
        VllmEngine(Model("base"), [server.url, other.url]).version  # noqa: B018


def test_another_software_or_root_is_told_in_the_version(server: StubServer, other: StubServer) -> None:
    other.is_vllm = False
    version = VllmEngine(Model("base"), [server.url, other.url]).version
    assert version == "openai-compatible, /models/base + vllm 0.32.0, /models/base"
    other.is_vllm, other.root = True, "/elsewhere"
    version = VllmEngine(Model("base"), [server.url, other.url]).version
    assert version == "vllm 0.32.0, /elsewhere/base + vllm 0.32.0, /models/base"
    other.root = "\x1b[2J"
    assert "vllm 0.32.0, ⟨U+001B⟩[2J/base" in VllmEngine(Model("base"), [other.url]).version, (
        "no terminal obeys it"
    )


# --- what this machine knows of its servers ---------------------------------------------------------


def state(server: StubServer, **changes: Any) -> ServerState:
    told: dict[str, Any] = {field.name: "" for field in fields(ServerState) if field.default is MISSING}
    told |= {"url": server.url, "host": "127.0.0.1", "port": server.port, "command": (), "adapters": {}}
    told |= {"mark": "abc", "pid": os.getpid(), "created": psutil.Process().create_time()}
    return ServerState(**told | changes)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_a_server_that_failed_its_canaries_is_refused(server: StubServer, other: StubServer) -> None:
    seen = Canary("base", "decode", 4.5, 0.15, "'Two and two' was answered 'xyzzy', 4.5 nats off")
    write_state(state(server, health="unhealthy", canaries=(seen,)))
    local = f"{server.url.replace('127.0.0.1', 'localhost')}/v1"
    for urls in ([server.url], [local], [other.url, server.url]):
        engine = VllmEngine(Model("base"), urls)
        for ask in ASKED[:2]:
            with pytest.raises(UserError, match="unhealthy") as caught:
                ask(engine)
        assert "4.5 nats off" in str(caught.value)
        assert "workbench serve status" in str(caught.value)
    assert VllmEngine(Model("base"), [other.url]).version


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"health": "starting"}, "has not been checked: it is still starting"),
        ({"health": "unhealthy", "note": "nothing ran"}, "has not been checked: nothing ran"),
    ],
)
def test_a_server_that_was_not_checked_is_refused(server: StubServer, changes: dict[str, Any], why: str) -> None:
    write_state(state(server, **changes))
    with pytest.raises(UserError, match=why):
        VllmEngine(Model("base"), [server.url]).version  # noqa: B018


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_proxy_is_not_for_this_machine(server: StubServer, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    url = server.url.replace("127.0.0.1", host)
    engine = VllmEngine(Model("base"), [url], backoff=0.01, retries=1)
    assert engine.version.startswith("vllm")
    assert [c.finish for batch in engine.sample([QUESTION], Sampling()) for _, c in batch] == [Finish.STOP]
    elsewhere = VllmEngine(Model("base"), [url, "http://server.invalid:1"], backoff=0.01, retries=1)
    with pytest.raises(UserError, match="No server answers"):  # the proxy, which is not there, is asked
        elsewhere.version  # noqa: B018


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("changes", [{"health": "healthy"}, {"health": "unhealthy", "created": 1.0}])
def test_others_are_asked(server: StubServer, changes: dict[str, Any]) -> None:
    write_state(state(server, **changes))
    assert VllmEngine(Model("base"), [server.url]).version.startswith("vllm")


COMMAND = ("python", "-m", "vllm.entrypoints.openai.api_server", "--model", "/a", "--served-model-name", "base")
COMMAND += ("--host", "127.0.0.1", "--port", "8000", "--dtype", "float32", "--enforce-eager")
LORA = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "5", "--lora-target-modules", "q_proj", "v_proj")
LORA += ("--lora-modules", "sums-1=/copies/1", "news-2=/copies/2")


def version_of(server: StubServer, *command: str, **changes: Any) -> str:
    told = {"version": "0.32.0 cpu", "dtype": "float32", "health": "healthy"} | changes
    write_state(state(server, command=command, **told))
    return VllmEngine(Model("base"), [server.url]).version


@pytest.mark.usefixtures("cache")
def test_another_way_of_serving_a_folder_is_another_version(server: StubServer) -> None:
    plain = version_of(server, *COMMAND)
    assert plain.startswith("vllm 0.32.0, /models/base, 0.32.0 cpu, float32, eager, arguments ")
    others = [
        version_of(server, *COMMAND, dtype="bfloat16"),
        version_of(server, *COMMAND, version="0.32.0 gpu"),
        version_of(server, *COMMAND[:-1]),
        version_of(server, *COMMAND, "--quantization", "fp8"),
        version_of(server, *COMMAND, "--quantization", "secret"),
        version_of(server, *COMMAND, *LORA, "--max-num-seqs", "1"),
        version_of(server, *COMMAND, health="dead", created=1.0),
    ]
    assert len({plain, *others}) == 8
    assert "compiled" in others[2] and "secret" not in "".join(others)
    assert others[-1] == "vllm 0.32.0, /models/base", "what answers there now is another server"


@pytest.mark.usefixtures("cache")
def test_names_addresses_and_room_for_adapters_leave_the_version(server: StubServer) -> None:
    moved = [
        {"8000": "8001", "/a": "/b", "python": "/venv/bin/python", "127.0.0.1": "::"}.get(w, w) for w in COMMAND
    ]
    assert version_of(server, *moved, *LORA) == version_of(server, *COMMAND)
