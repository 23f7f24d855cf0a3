"""Best of n: a scorer chooses among n samples; beside it a random one, votes, and what n can reach."""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.command import Flat, run_script
from workbench.decodes import OWN_SCORERS, BestOfN
from workbench.errors import check_range
from workbench.session import Session, Setup
from workbench.types import CostToMake, Result


@dataclass(frozen=True)
class Config:
    """What to measure, how samples are drawn, and what chooses among them.

    Raises:
        UserError: there is nothing to choose among.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[BestOfN] = field(default_factory=BestOfN)

    def __post_init__(self) -> None:
        check_range("n", self.decode.n, 2, 10**6)


def main(config: Config) -> Result:
    """Draw n samples a question, score them, and print what each way of choosing gives of 1, 2, 4, … n of them."""
    with Session("best_of_n", config.setup, config) as session:
        return report(session, config.decode)


def report(session: Session, decode: BestOfN) -> Result:
    """Measure a decode with a scorer, and print the tables of its samples."""
    from workbench.report_choice import choice_table

    result = session.report(session.system(decode), cost_of_scorer(decode.scorer))
    print("\n" + choice_table(result, decode.n, decode.scorer))
    return result


def cost_of_scorer(scorer: str) -> CostToMake | None:
    """What a reward model cost to make, where it lies in the run that made it."""
    from workbench.runs import RunFolder
    from workbench.training.card import cost_of

    home = Path(scorer).parent
    made = scorer not in OWN_SCORERS and (home / "cost.json").is_file()
    return cost_of(RunFolder(home)) if made else None


if __name__ == "__main__":
    run_script(main, Config, __file__)
