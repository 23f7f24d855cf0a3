"""Compare two or more runs on the questions that they share: the first is the baseline of the paired tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from workbench.command import run_script
from workbench.errors import UserError
from workbench.report import Rung, table
from workbench.runs import find_run
from workbench.session import one_sample
from workbench.store import Store


@dataclass(frozen=True)
class Config:
    """Which runs.

    Attributes:
        ids: two or more runs' ids, or how they begin.
        runs: folder of all runs.
    """

    ids: Annotated[tuple[str, ...], Positional]
    runs: Path = Path("runs")


def main(config: Config) -> list[Rung]:
    """Print the table."""
    if len(config.ids) < 2:
        raise UserError("compare takes two or more runs; `workbench runs` lists them.")
    rungs = []
    for id in config.ids:
        run = find_run(config.runs, id)
        result = run.read_result()
        if result is None:
            raise UserError(f"The run {run.id!r} has no result.json: it has measured nothing (yet).")
        rungs.append(Rung(run.id, result, one_sample(result)))
    first = rungs[0].result
    with Store(config.runs / "completions.sqlite") as store:
        print(table(rungs, store.looks(first.task_hash, first.split)))
    return rungs


if __name__ == "__main__":
    run_script(main, Config, __file__)
