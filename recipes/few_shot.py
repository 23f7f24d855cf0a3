"""Few-shot: exemplars from the practice split in the prompt: random, balanced, or each question's nearest."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.methods import few_shot, label_scoring
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.methods.label_scoring import Config as LabelConfig
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, which exemplars, and how labels are scored."""

    setup: Flat[Setup] = field(default_factory=Setup)
    few_shot: Flat[FewShotConfig] = field(default_factory=FewShotConfig)
    labels: Flat[LabelConfig] = field(default_factory=LabelConfig)


def main(config: Config) -> Result:
    """Put exemplars into the prompt, and measure."""
    with Session("few_shot", config.setup, config) as session:
        system = label_scoring.adapt(session.system(), session.task, config.labels)
        return session.report(few_shot.adapt(system, session.task, config.few_shot))


if __name__ == "__main__":
    run_script(main, Config, __file__)
