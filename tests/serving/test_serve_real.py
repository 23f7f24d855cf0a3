"""`workbench serve` with a real vLLM on the CPU: the embedded model, LoRAs, canaries, a reload.

How a server ends is in `test_server_killed.py`. The interpreter with vLLM is `.venv-vllm`'s, or the one that
WORKBENCH_VLLM_PYTHON names.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interpreters import NEEDS_VLLM, VLLM

from workbench.decodes import Sampling
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.models import EMBEDDED, model_folder
from workbench.server_state import ServerState, read_states
from workbench.serving import server
from workbench.serving.config import ServeConfig
from workbench.serving.process import end, processes_of
from workbench.serving.server import reload, start, stop
from workbench.types import Message, Model, Request

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, embedded_model: Model) -> Iterator[Path]:
    """A cache folder of this file's own, with the embedded model in it."""
    prepared = model_folder(EMBEDDED)
    folder = tmp_path_factory.mktemp("cache")
    (folder / EMBEDDED).symlink_to(prepared)
    before = os.environ["WORKBENCH_CACHE"]
    os.environ["WORKBENCH_CACHE"] = str(folder)
    yield folder
    for state in read_states():
        end(state, gentle=5)
    os.environ["WORKBENCH_CACHE"] = before


def answer(state: ServerState, adapter: str | None) -> str:
    engine = VllmEngine(Model(EMBEDDED, adapter=adapter), [state.url])
    request = Request("q", (Message("user", "Write a short story about a lighthouse keeper."),))
    [[(_, completion)]] = engine.sample([request], Sampling(temperature=0, max_tokens=24))
    assert completion.error is None
    return completion.text


def test_serve_for_real(real_vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, soft = (str(real_vllm.adapters / name) for name in ("one", "two", "soft"))
    state = real_vllm.up()
    monkeypatch.setenv("WORKBENCH_CACHE", str(real_vllm.cache))
    assert state.health == "healthy" and state.version == "0.32.0 cpu" and state.note == ""
    # What was seen: see BOUNDS.
    largest = {c.check: max(o.value for o in state.canaries if o.check == c.check) for c in state.canaries}
    assert set(largest) == {"prefill", "decode", "self", "greedy", "tokens"}
    assert largest["decode"] < 0.01 and largest["self"] < 0.01

    before = {adapter: answer(state, adapter) for adapter in (None, one, soft)}
    assert len(set(before.values())) == 3, "each adapter is applied"
    with pytest.raises(UserError, match=r"workbench serve reload"):
        answer(state, two)
    state, fresh = reload(ServeConfig(adapters=(f"a={two}",)))
    assert state.health == "healthy" and len(fresh) == 1
    assert answer(state, two) not in before.values()
    assert {adapter: answer(state, adapter) for adapter in before} == before
    assert reload(ServeConfig(adapters=(f"a={two}",)))[1] == []
    with pytest.raises(UserError, match=r"has room for 2 LoRAs"):
        reload(ServeConfig(adapters=(f"c={one}", f"d={two}")))


@pytest.mark.slow
def test_a_fault_of_vllm_is_caught(
    cache: Path, real_vllm: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the slot that `serve` keeps empty, the base gets another's LoRA in mixed batches."""
    whole = server.command_line

    def too_few_slots(*arguments: Any) -> list[str]:
        command = whole(*arguments)
        place = command.index("--max-loras") + 1
        command[place] = str(int(command[place]) - 1)
        return command

    monkeypatch.setattr(server, "command_line", too_few_slots)
    texts = tuple(f"{name}={real_vllm.adapters / name}" for name in ("one", "two"))
    with pytest.raises(UserError, match=rf"canaries failed.\n    {EMBEDDED}, ") as refused:
        start(ServeConfig(adapters=texts, python=VLLM, port=port, max_model_len=2048, max_loras=2))
    assert "one-" not in str(refused.value), "only the base is wrong"
    [state] = read_states()
    assert state.health == "unhealthy"
    with pytest.raises(UserError, match=r"workbench serve status"):
        VllmEngine(Model(EMBEDDED), [state.url]).version  # noqa: B018
    stop(state)
    assert processes_of(state) == []
    shutil.rmtree(state.place, ignore_errors=True)


@pytest.mark.slow
def test_the_compiled_path_computes_the_model(cache: Path, port: int) -> None:
    """It was said to answer nonsense: it takes another of two words that are .1 nats apart, as rounding may."""
    state = start(ServeConfig(python=VLLM, port=port, max_model_len=2048, mode="compiled", timeout=900))
    assert "--enforce-eager" not in state.command
    assert state.health == "healthy" and state.failed == ()
    stop(state)
