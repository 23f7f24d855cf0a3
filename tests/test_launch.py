"""Several processes of one training: one makes, the others wait for it for long."""

import os
import subprocess
import sys

import pytest

from workbench.launch import from_first

WORKER = """
import os
import torch
from workbench.launch import from_first, is_helper

made = from_first(lambda: "made by " + ("a helper" if is_helper() else "the first"))
group = torch.distributed.distributed_c10d._get_default_group()
said = f"{made} {group._get_backend(torch.device('cpu')).options._timeout}\\n"
os.write(1, said.encode())  # at once: two processes write into one pipe
torch.distributed.barrier()
os._exit(0)  # gloo's threads need not be ended in order
"""


def test_alone_it_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert from_first(lambda: 7) == 7


def test_helpers_get_what_the_first_makes_and_wait_for_a_day() -> None:
    """Not for the minutes after which torch gives up: the first process may draw samples for hours."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += ["--no_python", sys.executable, "-c", WORKER]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["made by the first 1 day, 0:00:00"] * 2
