"""List the runs: id, recipe, state, score, and when each was made."""

from dataclasses import dataclass
from pathlib import Path

from workbench.command import run_script
from workbench.report import percent
from workbench.runs import RunInfo, list_runs


@dataclass(frozen=True)
class Config:
    """Where.

    Attributes:
        runs: folder of all runs.
    """

    runs: Path = Path("runs")


def main(config: Config) -> list[RunInfo]:
    """Print one line a run, oldest first."""
    found = list_runs(config.runs)
    if not found:
        print(f"No runs in {config.runs}. `workbench quickstart` makes the first.")
    for info in found:
        score = "" if info.score is None else percent(info.score)
        print(f"{info.created[:19]}  {info.state:<11}  {score:>7}  {info.id}")
    return found


if __name__ == "__main__":
    run_script(main, Config, __file__)
