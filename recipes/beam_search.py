"""Beam search over steps, or diverse tree search; beside it a majority vote that costs as many tokens."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.equal_tokens import Beside, beside_vote
from workbench.report import Rung
from workbench.session import Session, Setup
from workbench.step_decodes import BeamSearch


@dataclass(frozen=True)
class Config:
    """What to measure, how, and what beside it."""

    setup: Flat[Setup] = field(default_factory=Setup)
    decode: Flat[BeamSearch] = field(default_factory=BeamSearch)
    beside: Flat[Beside] = field(default_factory=Beside)


def main(config: Config) -> list[Rung]:
    """Search for every answer step by step, and measure it and the vote."""
    with Session("beam_search", config.setup, config) as session:
        name = "diverse tree search" if config.decode.diverse else "beam search"
        return beside_vote(session, name, session.system(config.decode), config.beside)


if __name__ == "__main__":
    run_script(main, Config, __file__)
