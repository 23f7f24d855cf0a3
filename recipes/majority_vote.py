"""Majority vote (self-consistency): n samples a question, the most frequent answer wins; one sample beside it.

With `--early-stop` a question gets no more samples than its vote needs.
"""

from dataclasses import dataclass, field
from typing import Literal

from workbench.command import Flat, run_script
from workbench.decodes import EarlyMajority, Majority
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, and how samples are drawn.

    Attributes:
        early_stop: certain, to stop when what is left cannot change the answer; or a confidence above 0.5, as
            0.95, to stop also when the leader is so likely ahead of the runner-up. By default all n are drawn.
        block: samples of a question that are drawn together, at least, with --early-stop.

    Raises:
        UserError: the confidence or the block is out of range.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[Majority] = field(default_factory=Majority)
    early_stop: Literal["certain"] | float | None = None
    block: int = EarlyMajority.block

    def __post_init__(self) -> None:
        self.voting()

    def voting(self) -> Majority:
        """The decode that the flags come to."""
        if self.early_stop is None:
            return self.decode
        return EarlyMajority(**vars(self.decode), stop=self.early_stop, block=self.block)


def main(config: Config) -> Result:
    """Draw the samples, vote, and measure the vote and one sample of it."""
    with Session("majority_vote", config.setup, config) as session:
        return session.report(session.system(config.voting()))


if __name__ == "__main__":
    run_script(main, Config, __file__)
