"""Prefix tuning: learn the keys and values of a few virtual tokens, the model frozen, and measure.

With several --lengths each is learned, and the one that does best on dev is measured.
"""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.forgetting_flags import Forgetting
from workbench.methods.soft_prompt import PrefixTuning, adapt, by_length
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to learn and measure, and how.

    Attributes:
        lengths: several numbers of virtual tokens, in place of --tokens.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    prefix_tuning: Flat[PrefixTuning] = field(default_factory=PrefixTuning)
    lengths: tuple[int, ...] = ()
    forgetting: Flat[Forgetting] = field(default_factory=Forgetting)


def main(config: Config) -> Result:
    """Learn, measure, and add the result to the model card."""
    from workbench.tuning import tune_and_measure  # numpy would slow --help down

    variants = by_length(config.prefix_tuning, config.lengths)
    with Session("prefix_tuning", config.setup, config) as session:
        return tune_and_measure(session, adapt, variants, config.forgetting)


if __name__ == "__main__":
    run_script(main, Config, __file__)
