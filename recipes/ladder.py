"""The ladder: several ways of adapting one model to one task, in one honest table with its costs, and advice.

workbench ladder --task phrasebank --task-args path=DIR --questions 300 --rungs zero-shot few-shot-knn lora
"""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.ladder import climb
from workbench.report import Rung
from workbench.rungs import Config as LadderConfig
from workbench.session import Session, Setup


@dataclass(frozen=True)
class Config:
    """The task and the model, the rungs, and the methods' settings."""

    setup: Flat[Setup] = field(default_factory=Setup)
    ladder: Flat[LadderConfig] = field(default_factory=LadderConfig)


def main(config: Config) -> list[Rung]:
    """Climb; the same command goes on where an interrupted one stopped."""
    with Session("ladder", config.setup, config) as session:
        return climb(session, config.ladder)


if __name__ == "__main__":
    run_script(main, Config, __file__)
