"""Preference data: pairs from a verifier, an AI judge, a constitution, blind votes or a file."""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.command import Flat, run_script
from workbench.errors import UserError
from workbench.methods.preferences import make_pairs
from workbench.preferring.card import summary
from workbench.preferring.settings import Config as PreferencesConfig
from workbench.session import Session, Setup


@dataclass(frozen=True)
class Config:
    """Where the pairs come from.

    Attributes:
        setup: its questions and its split, practice or dev, are those that pairs are made of.
        preferences: the source and its settings.
    """

    setup: Flat[Setup] = field(default_factory=lambda: Setup(split="practice"))
    preferences: Flat[PreferencesConfig] = field(default_factory=PreferencesConfig)


def main(config: Config) -> Path:
    """Make the pairs, print what they are like, and give their file."""
    setup = config.setup
    if config.preferences.source in ("file", "votes") and (
        setup.questions is not None or setup.split != "practice"
    ):
        raise UserError(
            f"--questions and --split choose what is asked, and --source {config.preferences.source} asks nothing."
        )
    with Session("preferences", setup, config) as session:
        told = make_pairs(
            session.system(),
            session.task,
            config.preferences,
            session.run,
            session.drawer,
            split=setup.split,
            questions=setup.questions,
        )
        print(summary(told))
        pairs = session.run.path / "pairs.jsonl"
        print(f"pairs {pairs}")
        return pairs


if __name__ == "__main__":
    run_script(main, Config, __file__)
