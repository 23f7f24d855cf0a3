"""GRPO: learn from the grades of a model's own answers to practice questions, and measure it on the test split."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.forgetting import Forgetting
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.grpo import adapt
from workbench.session import Session, Setup
from workbench.tuning import tune_and_measure
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to learn from and measure, and how."""

    setup: Flat[Setup] = field(default_factory=Setup)
    grpo: Flat[GrpoConfig] = field(default_factory=GrpoConfig)
    forgetting: Flat[Forgetting] = field(default_factory=Forgetting)


def main(config: Config) -> Result:
    """Tune, measure, and add the result to the model card."""
    with Session("grpo", config.setup, config) as session:
        return tune_and_measure(session, adapt, {"grpo": config.grpo}, config.forgetting)


if __name__ == "__main__":
    run_script(main, Config, __file__)
