"""Critique and revise, k rounds; beside it a majority vote that costs as many tokens."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.equal_tokens import Beside, beside_vote
from workbench.report import Rung
from workbench.session import Session, Setup
from workbench.step_decodes import Revision


@dataclass(frozen=True)
class Config:
    """What to measure, how, and what beside it."""

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[Revision] = field(default_factory=Revision)
    beside: Flat[Beside] = field(default_factory=Beside)


def main(config: Config) -> list[Rung]:
    """Answer, criticise and rewrite, and measure it and the vote."""
    with Session("revise", config.setup, config) as session:
        return beside_vote(session, "revision", session.system(config.decode), config.beside)


if __name__ == "__main__":
    run_script(main, Config, __file__)
