"""A stand-in for vLLM, adapters for the tiny model, and the end of whatever a test left running."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.server_state import read_states
from workbench.serving.config import ServeConfig
from workbench.serving.process import end

STUB = Path(__file__).with_name("stub_vllm.py")


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of this test's own; its servers end with it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("WORKBENCH_CACHE", str(folder))
    monkeypatch.delenv("WORKBENCH_API_KEY", raising=False)
    monkeypatch.delenv("STUB_VLLM", raising=False)
    yield folder
    for state in read_states():
        end(state, gentle=0)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the stand-in does wrong."""
    return lambda **what: monkeypatch.setenv("STUB_VLLM", json.dumps(what))


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for an interpreter with vLLM."""
    import sys

    path = tmp_path_factory.mktemp("stub") / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STUB}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def config(cache: Path, port: int, python: Path, tiny_model: Path) -> Callable[..., ServeConfig]:
    """A server of the tiny model with the stand-in."""

    def make(**changed: Any) -> ServeConfig:
        told = {"model": str(tiny_model), "port": port, "python": python, "canaries": "self", "timeout": 60.0}
        return ServeConfig(**{**told, **changed})

    return make


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder of LoRAs on the tiny model: `one` and `two` of the rank 4, and `soft`, a soft prompt."""
    import torch
    from peft import LoraConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from workbench.adapters import save_adapter
    from workbench.types import Model

    root = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("one", "two", "soft")):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        kind = (
            PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
            if name == "soft"
            else LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"])
        )
        adapted = get_peft_model(base, kind)
        with torch.no_grad():
            for weight_name, weight in adapted.named_parameters():
                if "lora_B" in weight_name:
                    weight.normal_(std=0.3)
        save_adapter(adapted, Model(str(tiny_model)), root / name)
    return root


@pytest.fixture
def changed_adapter(loras: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the LoRA `one` whose adapter_config.json says something else."""

    def make(**fields: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(loras / "one", folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return make
