"""A classification head: tune it, alone or with all weights, on the practice split, then measure on test."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.forgetting_flags import Forgetting
from workbench.methods.head import Config as HeadConfig
from workbench.methods.head import adapt
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to tune on and measure, and how."""

    setup: Flat[Setup] = field(default_factory=Setup)
    head: Flat[HeadConfig] = field(default_factory=HeadConfig)
    forgetting: Flat[Forgetting] = field(default_factory=Forgetting)


def main(config: Config) -> Result:
    """Tune, measure, and add the result to the model card."""
    from workbench.tuning import tune_and_measure  # numpy would slow --help down

    with Session("head", config.setup, config) as session:
        return tune_and_measure(session, adapt, {config.head.variant: config.head}, config.forgetting)


if __name__ == "__main__":
    run_script(main, Config, __file__)
