"""The worker process of calls that are killed when they are late."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CTRL_C = """
import os, signal
from workbench.killable import Worker

signal.signal(signal.SIGINT, lambda *_: None)  # we go on, as a chat does after an answer was stopped
worker = Worker("workbench.tasks.checker", 1 << 30)
number = ["search", "[0-9]", "7"]
before = worker.ask(number, 60.0)
os.killpg(0, signal.SIGINT)
for _ in range(20):
    assert worker.ask(number, 60.0) == before
print("the same worker answers")
"""


def test_ctrl_c_in_the_terminal_is_not_for_the_worker() -> None:
    """A terminal sends it to every process of its group."""
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C],
        cwd=ROOT,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert done.stdout == "the same worker answers\n", done.stderr
