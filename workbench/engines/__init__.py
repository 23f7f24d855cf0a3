"""The engines by name. To add one: a class that keeps the promises of `base.py`, and a line in `ENGINES`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.proxy import Proxy, check_one
from workbench.types import Model


@dataclass(frozen=True)
class EngineConfig:
    """Which engine answers, and where.

    Attributes:
        engine: `hf` is transformers in this process, `vllm` any OpenAI-compatible server, `fake` needs no
            weights.
        device: of the hf engine: cpu, cuda, …; by default the GPU where there is one.
        dtype: of the hf engine.
        endpoint: of the vllm engine: base addresses as http://127.0.0.1:8000; several share the work. The key
            is read from the environment variable WORKBENCH_API_KEY. A server that `workbench serve` did not start
            does not tell its dtype, quantization or mode: when these change under the same name, use another
            folder of runs, or stored answers are taken for its own.
        served_name: of the vllm engine: the name the server knows the model by, if it is another.
        scorer_endpoint: of best-of-n: base addresses of vLLM servers that serve the reward model's folder, in
            place of loading it here.
    """

    engine: Literal["hf", "vllm", "fake"] = "hf"
    device: str | None = None
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    endpoint: tuple[str, ...] = ()
    served_name: str | None = None
    scorer_endpoint: tuple[str, ...] = ()


def open_engine(model: Model, config: EngineConfig) -> Engine:
    """The engine of a model.

    Raises:
        UserError: the model, the device or the server cannot be had.
    """
    if config.engine != "hf":
        check_one(model, f"asked with --engine {config.engine}, which does not give three models' logits")
    return ENGINES[config.engine](model, config)


def _hf(model: Model, config: EngineConfig) -> Engine:
    if isinstance(model, Proxy):
        from workbench.engines.proxy import ProxyEngine

        return ProxyEngine(model, dtype=config.dtype, device=config.device)
    from workbench.engines.hf import HfEngine

    return HfEngine(model, dtype=config.dtype, device=config.device)


def _vllm(model: Model, config: EngineConfig) -> Engine:
    from workbench.engines.vllm import VllmEngine

    if not config.endpoint:
        raise UserError("The vllm engine needs a server: --endpoint http://127.0.0.1:8000")
    key = os.environ.get("WORKBENCH_API_KEY")
    return VllmEngine(model, config.endpoint, api_key=key, served_name=config.served_name)


def _fake(model: Model, config: EngineConfig) -> Engine:
    from workbench.engines.fake import FakeEngine

    return FakeEngine(model)


ENGINES: dict[str, Callable[[Model, EngineConfig], Engine]] = {"hf": _hf, "vllm": _vllm, "fake": _fake}
