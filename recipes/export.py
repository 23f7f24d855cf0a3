"""Export to a file: every stored completion, or the outcomes of runs. The suffix says the format.

JSONL and Parquet hold texts as they are; in CSV what a spreadsheet would take for a formula is neutralised.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from workbench.command import run_script
from workbench.errors import UserError
from workbench.export import export_completions, export_outcomes
from workbench.runs import find_run, list_runs
from workbench.store import Store


@dataclass(frozen=True)
class Config:
    """What, and where to.

    Attributes:
        path: the file to write: .jsonl, .csv or .parquet.
        ids: runs whose outcomes are exported; `all` for every run. Without any, the store's completions are.
        runs: folder of all runs.
    """

    path: Annotated[Path, Positional]
    ids: tuple[str, ...] = ()
    runs: Path = Path("runs")


def main(config: Config) -> int:
    """Write the file; returns the number of rows."""
    if config.ids:
        ids = [info.id for info in list_runs(config.runs)] if config.ids == ("all",) else config.ids
        found = [find_run(config.runs, id) for id in ids]
        results = {run.id: result for run in found if (result := run.read_result()) is not None}
        rows = export_outcomes(results, config.path)
    else:
        database = config.runs / "completions.sqlite"
        if not database.exists():
            raise UserError(f"There is no store at {database}; --runs names the folder of your runs.")
        with Store(database) as store:
            rows = export_completions(store, config.path)
    print(f"{rows:,} rows in {config.path}")
    return rows


if __name__ == "__main__":
    run_script(main, Config, __file__)
