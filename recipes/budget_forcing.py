"""Budget forcing: thinking no shorter and no longer; beside it a majority vote that costs as many tokens."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.equal_tokens import Beside, beside_vote
from workbench.report import Rung
from workbench.session import Session, Setup
from workbench.step_decodes import BudgetForcing


@dataclass(frozen=True)
class Config:
    """What to measure, how, and what beside it."""

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[BudgetForcing] = field(default_factory=BudgetForcing)
    beside: Flat[Beside] = field(default_factory=Beside)


def main(config: Config) -> list[Rung]:
    """Think within the budget, answer, and measure it and the vote."""
    with Session("budget_forcing", config.setup, config) as session:
        return beside_vote(session, "budget forcing", session.system(config.decode), config.beside)


if __name__ == "__main__":
    run_script(main, Config, __file__)
