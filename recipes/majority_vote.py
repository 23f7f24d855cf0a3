"""Majority vote (self-consistency): n samples a question, the most frequent answer wins; one sample beside it."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.decodes import Majority
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, and how samples are drawn."""

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[Majority] = field(default_factory=Majority)


def main(config: Config) -> Result:
    """Draw the samples, vote, and measure the vote and one sample of it."""
    with Session("majority_vote", config.setup, config) as session:
        return session.report(session.system(config.decode))


if __name__ == "__main__":
    run_script(main, Config, __file__)
