"""A weighted vote: n samples a question, the answer whose samples' scores add up to the most; chance beside it."""

from dataclasses import dataclass, field

from recipes.best_of_n import report
from workbench.command import Flat, run_script
from workbench.decodes import WeightedVote
from workbench.errors import check_range
from workbench.session import Session, Setup
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to measure, how samples are drawn, and what weighs them.

    Raises:
        UserError: there is nothing to choose among.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[WeightedVote] = field(default_factory=WeightedVote)

    def __post_init__(self) -> None:
        check_range("n", self.decode.n, 2, 10**6)


def main(config: Config) -> Result:
    """Draw n samples a question, weigh them, vote, and print the vote beside every other way of choosing."""
    with Session("weighted_vote", config.setup, config) as session:
        return report(session, config.decode)


if __name__ == "__main__":
    run_script(main, Config, __file__)
