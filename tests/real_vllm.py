"""A real vLLM on the CPU that `workbench serve` started: a start takes most of a minute, so tests share one."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interpreters import VLLM

from workbench.models import EMBEDDED, load_base, model_folder
from workbench.server_state import ServerState, read_states
from workbench.types import Model


class RealVllm:
    """The embedded model, a LoRA `a` with room for one more, and a soft prompt, behind a port of its own.

    Attributes:
        cache: its cache folder, where `workbench serve` keeps what it knows of it; others are in no test's way.
        adapters: the folder of two LoRAs of the rank 8, `one` and `two`, and a soft prompt, `soft`, whose values
            were drawn and not learned.
        port: its port.
    """

    def __init__(self, root: Path) -> None:
        self.cache, self.adapters = root / "cache", root / "adapters"
        self.cache.mkdir()
        (self.cache / EMBEDDED).symlink_to(model_folder(EMBEDDED))
        self.adapters.mkdir()
        for seed, name in enumerate(("one", "two", "soft")):
            _write_adapter(self.adapters / name, seed)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @property
    def settings(self) -> dict[str, Any]:
        """What `workbench serve` is told, by the names of ServeConfig.

        In float32 two ways to the same number agree, whatever is in the batch; in bfloat16 a label of -35 nats
        was .25 apart on a processor with AMX. `test_a_fault_of_vllm_is_caught` has one in bfloat16.
        """
        served = (f"a={self.adapters / 'one'}", str(self.adapters / "soft"))
        size = {"max_model_len": 2048, "max_loras": 2, "dtype": "float32"}
        return {"adapters": served, "python": VLLM, "port": self.port, **size}

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """With its cache folder as the machine's."""
        before = os.environ["WORKBENCH_CACHE"]
        os.environ["WORKBENCH_CACHE"] = str(self.cache)
        try:
            yield
        finally:
            os.environ["WORKBENCH_CACHE"] = before

    def up(self) -> ServerState:
        """The server, healthy; started, with all of its canaries, if it is not there or was killed."""
        from workbench.serving.config import ServeConfig
        from workbench.serving.server import start

        with self.at_home():
            there = [state for state in read_states(self.port) if state.health == "healthy"]
            return there[0] if there else start(ServeConfig(**self.settings))

    def close(self) -> None:
        """End it."""
        from workbench.serving.process import end

        with self.at_home():
            for state in read_states():
                end(state, gentle=5)


def _write_adapter(folder: Path, seed: int) -> None:
    import torch
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    from workbench.adapters import save_adapter

    model = Model(EMBEDDED)
    torch.manual_seed(seed)
    kind: Any = (
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        if folder.name == "soft"
        else LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    )
    adapted = get_peft_model(load_base(model, "bfloat16", "cpu"), kind)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    save_adapter(adapted, model, folder)
