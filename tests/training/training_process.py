"""A training in a process of its own, which dies or runs out of disk at a step: for the tests beside it.

Usage: training_process.py MODEL ROOT kill STEP | full STEP LIMIT
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.methods import lora
from workbench.prompts import load_prompt
from workbench.runs import Run
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.training.config import Training
from workbench.types import Greedy, Model, System

TASK = load(ArithmeticConfig(practice=12, dev=1, test=1))
# Three updates an epoch, nine in all; checkpoints at 2, 4, 6, 8 and the end.
CONFIG = lora.Config(
    rank=2,
    training=Training(learning_rate=1e-2, batch_size=4, micro_batch=2, precision="float32", save_every=2),
)


class FaultyRun(Run):
    """A run in which something happens after a step's metrics are written."""

    after: int
    event: Any

    def log(self, **metrics: Any) -> None:
        super().log(**metrics)
        if metrics.get("step") == self.after:
            self.event()


def train(model: str | Path, root: Path, after: int = 0, event: Any = None) -> FaultyRun:
    """Train in `root/tuned`, or go on there."""
    system = System(Model(str(model)), load_prompt("arithmetic"), Greedy(16))
    with FaultyRun.open(root, "lora", {"lora": CONFIG}, name="tuned") as run:
        run.after, run.event = after, event
        lora.adapt(system, TASK, CONFIG, run, quiet=True)
        return run


def kill() -> None:
    """As `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(limit: int) -> None:
    """From now on no file can grow beyond `limit` bytes; what would is told so as by a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


if __name__ == "__main__":
    model, root, what, step, *limit = sys.argv[1:]
    event = kill if what == "kill" else lambda: fill_disk(int(limit[0]))
    try:
        train(model, Path(root), int(step), event)
    except UserError as error:
        sys.exit(f"training: {error}")
