"""GRPO: learn from the grades of a model's own answers to practice questions; measured before and after."""

from dataclasses import dataclass, field

from workbench.aligning import align
from workbench.command import Flat, run_script
from workbench.decodes import Sample
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.grpo import adapt
from workbench.session import Session, Setup
from workbench.types import Result

_TOLD = ("reward", "kl", "entropy", "completions/mean_length", "completions/clipped_ratio", "frac_reward_zero_std")


@dataclass(frozen=True)
class Config:
    """What to learn from, and what to measure.

    Attributes:
        setup: its model learns, and is measured before and after.
        grpo: how it learns.
        paths: the samples that are measured beside the System's own decode: one of them, and a vote of all.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    grpo: Flat[GrpoConfig] = field(default_factory=GrpoConfig)
    paths: Sample = field(default_factory=lambda: Sample(n=16))


def main(config: Config) -> Result:
    """Train; measure both models; write the card."""
    with Session("grpo", config.setup, config) as session:
        base, run, quiet = session.system(), session.run, config.setup.quiet
        return align(
            session, lambda: adapt(base, session.task, config.grpo, run, quiet=quiet), config.paths, _TOLD
        )


if __name__ == "__main__":
    run_script(main, Config, __file__)
