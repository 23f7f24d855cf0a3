"""Reward model: learn from pairs which answer is better, and measure it on pairs that were held out."""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.command import Flat, run_script
from workbench.errors import UserError
from workbench.files import read_json
from workbench.methods.reward_model import FOLDER, adapt
from workbench.methods.reward_model import Config as RewardConfig
from workbench.session import Session, Setup


@dataclass(frozen=True)
class Config:
    """What to learn from, and how.

    Attributes:
        setup: the model that the reward model is made of, and the task; what is measured are held-out pairs.
        reward_model: the pairs and the training.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    reward_model: Flat[RewardConfig] = field(default_factory=RewardConfig)


def main(config: Config) -> Path:
    """Train, print how it does on held-out pairs, and give its folder."""
    from workbench.preferring.held_out import in_words

    setup = config.setup
    if setup.questions is not None or setup.split != "test":
        raise UserError("Held-out pairs are measured here; --questions and --split are for `workbench best_of_n`.")
    with Session("reward_model", setup, config) as session:
        system = session.system()
        adapt(system, session.task, config.reward_model, session.run, session.drawer, quiet=setup.quiet)
        folder = session.run.path / FOLDER
        print(in_words(read_json(session.run.path / "held_out.json")))
        print(f"reward model {folder}; choose with it: workbench best_of_n --scorer {folder}")
        return folder


if __name__ == "__main__":
    run_script(main, Config, __file__)
