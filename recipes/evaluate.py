"""Evaluate any System on any task: the one that a run made (`--run ID`), or one in a file (`--system FILE`)."""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.command import Flat, run_script
from workbench.errors import UserError
from workbench.run_folder import read_system
from workbench.runs import find_run
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        run: id of the run whose system.json is measured.
        system: a system.json.
        setup: the task to measure on; its model and prompt are not used, the System brings its own.
    """

    run: str | None = None
    system: Path | None = None
    setup: Flat[Setup] = field(default_factory=Setup)


def main(config: Config) -> Result:
    """Measure the System as it is."""
    if (config.run is None) == (config.system is None):
        raise UserError("Say which System: --run ID (`workbench runs` lists them) or --system FILE.")
    cost_to_make = None
    if config.run is not None:
        run = find_run(config.setup.runs, config.run)
        system, measured = run.read_system(), run.read_result()
        cost_to_make = measured.cost_to_make if measured else None
    else:
        system = read_system(Path(str(config.system)))
    with Session("evaluate", config.setup, config) as session:
        return session.report(system, cost_to_make)


if __name__ == "__main__":
    run_script(main, Config, __file__)
