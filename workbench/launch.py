"""Several processes of one training, as `accelerate launch` starts them: the first one works, the others help.

Each loads the model and takes its share of every batch (`training/trainer.py`). What is written and measured is
the first one's alone: a helper works in a scratch folder, and ends when the training ends.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import UserError

Made = TypeVar("Made")

_PATIENCE = timedelta(days=1)  # samples of all questions take longer than torch's 10 or 30 minutes


def is_launched() -> bool:
    """Whether there are several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_helper() -> bool:
    """Whether this process is one of several, and not the first."""
    return is_launched() and int(os.environ.get("RANK", "0")) > 0


def device() -> str:
    """Where this process trains: its own GPU of several, the first one alone; the CPU where there is none."""
    import torch

    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def scratch_folder() -> Path:
    """A folder for what a helper writes, gone when it ends."""
    folder = tempfile.mkdtemp(prefix="workbench-helper-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def meet() -> None:
    """Let the processes meet, where there are several: who comes first decides how, and how long they wait."""
    if is_launched():
        from accelerate import PartialState

        PartialState(cpu=device() == "cpu", timeout=_PATIENCE)


def from_first(make: Callable[[], Made]) -> Made:
    """What the first process makes, in all of them; the others wait for it, a day at most, and make nothing."""
    if not is_launched():
        return make()
    from accelerate.utils import broadcast_object_list

    meet()
    made: list[Any] = [None if is_helper() else make()]
    broadcast_object_list(made)
    found: Made = made[0]
    return found


def check_single(what: str) -> None:
    """See that several processes are not started for what is more than one training.

    Raises:
        UserError: they are.
    """
    if is_launched():
        raise UserError(
            f"`accelerate launch` is for one training, and {what} is several. Start it without, or launch "
            "its trainings one by one (`workbench lora`, `workbench sft`, …)."
        )
