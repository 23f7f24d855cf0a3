"""The benchmarks' table: its rows, how it is printed, and where it stands in the README."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT.parent / "shared" / "data"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
VERSIONS = ("torch", "transformers", "trl", "lm-eval", "numpy")
HEADS = ("what", "baseline", "workbench", "result", "floor", "checked")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured, and on how much.
        baseline, workbench: the two sides' figures; the baseline is "–" where there is a bound only.
        result: the ratio, or the figure that the floor is about.
        floor: what `result` must reach; "–" where the line is only a record.
        checked: what was seen to be equal on both sides.
        passed: whether the floor is reached and the check held.
    """

    what: str
    baseline: str
    workbench: str
    result: str
    floor: str
    checked: str
    passed: bool = True


class Skip(Exception):
    """A benchmark cannot run here; the text says why."""


def markdown(rows: Sequence[Row]) -> str:
    """The table, under a line that tells the date, the machine and the versions."""
    lines = [f"| {' | '.join(HEADS)} |", f"| {' | '.join('---' for _ in HEADS)} |"]
    for row in rows:
        cells = [row.what, row.baseline, row.workbench, row.result, row.floor, row.checked]
        if not row.passed:
            cells[3] += " **missed**"
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([f"Measured on {time.strftime('%Y-%m-%d')}, {machine()}.", "", *lines])


def machine() -> str:
    """Cores, processor and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return f"{len(os.sched_getaffinity(0))} cores ({_processor()}), Python {platform.python_version()}, {versions}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(path: Path, table: str) -> bool:
    """Put the table between the two markers of a file; False where the file or the markers are not there."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        return False
    path.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")
    return True
