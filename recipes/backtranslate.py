"""Instruction backtranslation: instructions for your texts, written and graded by a model, as data to tune on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.command import Flat, run_script
from workbench.identity import file_hash
from workbench.methods.backtranslation import Config as BacktranslationConfig
from workbench.model_flags import ModelFlags


@dataclass(frozen=True)
class Config:
    """Which texts, and who writes their instructions.

    Attributes:
        backtranslation: what is made, and how.
        model: writes and grades.
        runs: folder of all runs and of the store of completions.
        name: a name for the run's folder; by default the recipe's name and a hash of the settings.
        overwrite: start anew where a run of other settings has this name; what is there is kept aside.
        quiet: no progress bars.
    """

    backtranslation: Flat[BacktranslationConfig] = field(default_factory=BacktranslationConfig)
    model: Flat[ModelFlags] = field(default_factory=ModelFlags)
    runs: Path = Path("runs")
    name: str | None = None
    overwrite: bool = False
    quiet: bool = False


def main(config: Config) -> dict[str, Any]:
    """Make the data set; gives what backtranslation.json holds."""
    from workbench.instructing.grades import lines  # here and below: numpy would slow --help down
    from workbench.methods.backtranslation import make
    from workbench.session import open_making

    made = config.backtranslation
    hashes = {} if made.texts is None else {"texts_hash": file_hash(made.texts)}
    with open_making("backtranslate", config, hashes) as (run, drawer):
        told = make(config.model.reference(), made, run, drawer)
        print("\n".join(lines(told)))
        print(f"Learn them: workbench sft --data {run.path / 'data.jsonl'} --data-format prompt-completion")
    return told


if __name__ == "__main__":
    run_script(main, Config, __file__)
