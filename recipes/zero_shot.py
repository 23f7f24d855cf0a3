"""Zero-shot: the prompt alone, greedy or by the likelihood of labels. What everything else is measured against."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure."""

    setup: Flat[Setup] = field(default_factory=Setup)


def main(config: Config) -> Result:
    """Measure the System that the setup names."""
    with Session("zero_shot", config.setup, config) as session:
        return session.report(session.system())


if __name__ == "__main__":
    run_script(main, Config, __file__)
