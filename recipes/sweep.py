"""Sweep: a tuning method at several learning rates and ranks, judged on dev; test is not looked at."""

from dataclasses import dataclass, field, replace

from workbench.command import Flat, run_script
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
    setup = replace(config.setup, split="dev")
    with Session("sweep", setup, replace(config, setup=setup)) as session:
        return sweep(session, config.sweep)


if __name__ == "__main__":
    run_script(main, Config, __file__)
