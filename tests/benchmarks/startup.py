"""How long a command line takes to say what it can do: whole processes, as a person starts them."""

import statistics
import subprocess
import sys
import time

from tests.benchmarks.table import ROOT, Row, Skip

COMMANDS = (("--help",), ("lora", "--help"))
TIMES = 7
SECONDS = 0.4


def run(quick: bool = False) -> list[Row]:
    """Medians; the bare interpreter's own start is told beside them."""
    if not (ROOT / "recipes" / "__main__.py").is_file():
        raise Skip("recipes/__main__.py does not exist")
    times = 3 if quick else TIMES
    bare, _ = _median([sys.executable, "-c", ""], times)
    rows = []
    for command in COMMANDS:
        seconds, said = _median([sys.executable, "-m", "recipes", *command], times)
        helps = "usage" in said.lower()
        rows.append(
            Row(
                what=f"`workbench {' '.join(command)}`, median of {times} processes",
                baseline=f"Python alone: {bare:.2f} s",
                workbench=f"{seconds:.2f} s",
                result=f"{seconds:.2f} s",
                floor=f"< {SECONDS:g} s",
                checked="exits with 0 and prints its usage" if helps else "prints NO usage",
                passed=seconds < SECONDS and helps,
            )
        )
    return rows


def _median(command: list[str], times: int) -> tuple[float, str]:
    """Median seconds, and what the last process printed. One more run goes first, to fill the caches."""
    seconds, said = [], ""
    for _ in range(times + 1):
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
        said = done.stdout
    return statistics.median(seconds[1:]), said
