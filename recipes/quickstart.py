"""The quickstart: the ladder of six rungs on the embedded model and task, with nothing to set."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.ladder import climb
from workbench.report import Rung
from workbench.rungs import Config as LadderConfig
from workbench.session import Session, Setup


@dataclass(frozen=True)
class Config:
    """The ladder's settings, all with a default that takes about ten minutes on two CPU cores."""

    setup: Flat[Setup] = field(default_factory=lambda: Setup(questions=120))
    ladder: Flat[LadderConfig] = field(default_factory=LadderConfig)


def main(config: Config) -> list[Rung]:
    """Climb the default rungs."""
    with Session("quickstart", config.setup, config) as session:
        return climb(session, config.ladder)


if __name__ == "__main__":
    run_script(main, Config, __file__)
