"""Zero-shot: the prompt alone, greedy or by the likelihood of labels. What everything else is measured against."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.methods import label_scoring
from workbench.methods.label_scoring import Config as LabelConfig
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, and how labels are scored."""

    setup: Flat[Setup] = field(default_factory=Setup)
    labels: Flat[LabelConfig] = field(default_factory=LabelConfig)


def main(config: Config) -> Result:
    """Measure the System that the setup names."""
    with Session("zero_shot", config.setup, config) as session:
        return session.report(label_scoring.adapt(session.system(), session.task, config.labels))


if __name__ == "__main__":
    run_script(main, Config, __file__)
