"""Sweep: a tuning method at several learning rates and ranks, judged on dev; test is not looked at."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.errors import UserError
from workbench.session import Session, Setup
from workbench.sweep import Config as SweepConfig
from workbench.sweep import Trial, sweep


@dataclass(frozen=True)
class Config:
    """What to tune on and what to try."""

    setup: Flat[Setup] = field(default_factory=lambda: Setup(split="dev"))
    sweep: Flat[SweepConfig] = field(default_factory=SweepConfig)


def main(config: Config) -> list[Trial]:
    """Train and judge every setting."""
    if config.setup.split != "dev":
        raise UserError(f"A sweep looks at dev only; leave --split {config.setup.split} out.")
    with Session("sweep", config.setup, config) as session:
        return sweep(session, config.sweep)


if __name__ == "__main__":
    run_script(main, Config, __file__)
