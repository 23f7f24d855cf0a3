"""A training in a process of its own, which dies or runs out of disk or memory: for the tests beside it.

Usage: training_process.py METHOD MODEL ROOT kill STEP | kill-inside PASS | full STEP LIMIT | memory MB
"""

import itertools
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.decodes import Greedy
from workbench.errors import UserError
from workbench.methods import lora, qlora, sft
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.config import Training
from workbench.training.packed_loss import PackedLoss
from workbench.types import Model, System

TASK = load(ArithmeticConfig(practice=12, dev=1, test=1))
# Three updates an epoch, nine in all, of two passes each; checkpoints at 2, 4, 6, 8 and the end.
TRAINING = Training(learning_rate=1e-2, batch_size=4, micro_batch=2, precision="float32", save_every=2)
CONFIG = lora.Config(rank=2, training=TRAINING)
METHODS: dict[str, tuple[Any, Any]] = {
    "lora": (lora.adapt, CONFIG),
    "sft": (sft.adapt, sft.Config(training=TRAINING)),
    "qlora": (qlora.adapt, qlora.Config(rank=2, training=TRAINING)),
}


class FaultyRun(Run):
    """A run in which something happens after a step's metrics are written."""

    after: int
    event: Any

    def log(self, **metrics: Any) -> None:
        super().log(**metrics)
        if metrics.get("step") == self.after:
            self.event()


def train(
    model: str | Path, root: Path, after: int = 0, event: Any = None, method: str = "lora", **settings: Any
) -> FaultyRun:
    """Train in `root/tuned`, or go on there; `settings` change the training's."""
    adapt, config = METHODS[method]
    config = replace(config, training=replace(config.training, **settings))
    system = System(Model(str(model)), load_prompt("arithmetic"), Greedy(16))
    with FaultyRun.open(root, method, {"config": config}, name="tuned") as run:
        run.after, run.event = after, event
        adapt(system, TASK, config, run, quiet=True)
        return run


def at_pass(number: int, event: Any) -> None:
    """Have something happen before the so manyth forward pass of a training, counted from 1."""
    passes, forward = itertools.count(1), PackedLoss.forward

    def counted(self: PackedLoss, batch: Any) -> Any:
        if next(passes) == number:
            event()
        return forward(self, batch)

    PackedLoss.forward = counted  # type: ignore[method-assign]


def kill() -> None:
    """As `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(limit: int) -> None:
    """From now on no file can grow beyond `limit` bytes; what would is told so as by a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def fill_memory(megabytes: int) -> None:
    """From now on the process cannot have so much more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    method, model, root, what, step, *limit = sys.argv[1:]
    settings: dict[str, Any] = {}
    if what == "kill-inside":
        at_pass(int(step), kill)
    if what == "memory":
        settings = {"batch_size": 12, "micro_batch": 12, "steps": 1}
        at_pass(1, lambda: fill_memory(int(step)))
    event = kill if what == "kill" else lambda: fill_disk(int(limit[0]))
    try:
        train(model, Path(root), int(step) if what in ("kill", "full") else 0, event, method, **settings)
    except UserError as error:
        sys.exit(f"training: {error}")
