"""DPO and its kin: learn from pairs of a better and a worse answer; measured before and after."""

from dataclasses import dataclass, field

from workbench.aligning import align
from workbench.command import Flat, run_script
from workbench.decodes import Sample
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.dpo import adapt
from workbench.session import Session, Setup
from workbench.types import Result

_TOLD = (
    "loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "kto/reference_point",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What to learn from, and what to measure.

    Attributes:
        setup: its model learns, and is measured before and after.
        dpo: the pairs, the loss, the training.
        paths: the samples that are measured beside the System's own decode: one of them, and a vote of all.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    dpo: Flat[DpoConfig] = field(default_factory=DpoConfig)
    paths: Sample = field(default_factory=lambda: Sample(n=16))


def main(config: Config) -> Result:
    """Train; measure both models; write the card."""
    with Session("dpo", config.setup, config) as session:
        base, run, quiet = session.system(), session.run, config.setup.quiet
        return align(
            session,
            lambda: adapt(base, session.task, config.dpo, run, session.drawer, quiet=quiet),
            config.paths,
            _TOLD,
        )


if __name__ == "__main__":
    run_script(main, Config, __file__)
