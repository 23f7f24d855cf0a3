"""Few-shot: exemplars from the practice split in the prompt: random, balanced, or each question's nearest."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.methods.few_shot import adapt
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, and which exemplars."""

    setup: Flat[Setup] = field(default_factory=Setup)
    few_shot: Flat[FewShotConfig] = field(default_factory=FewShotConfig)


def main(config: Config) -> Result:
    """Put exemplars into the prompt, and measure."""
    with Session("few_shot", config.setup, config) as session:
        return session.report(adapt(session.system(), session.task, config.few_shot))


if __name__ == "__main__":
    run_script(main, Config, __file__)
