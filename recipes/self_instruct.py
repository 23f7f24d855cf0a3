"""Self-Instruct: a model writes instructions and answers them, as data to tune on, from a few dozen seed tasks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.command import Flat, command_typed, run_script
from workbench.identity import file_hash, short_hash
from workbench.instructing.seeds import SEEDS
from workbench.methods.self_instruct import Config as SelfInstructConfig
from workbench.model_flags import ModelFlags


@dataclass(frozen=True)
class Config:
    """Who teaches, and how much.

    Attributes:
        self_instruct: what is made, and how.
        model: the teacher.
        runs: folder of all runs and of the store of completions.
        name: a name for the run's folder; by default the recipe's name and a hash of the settings.
        overwrite: start anew where a run of other settings has this name; what is there is kept aside.
        quiet: no progress bars.
    """

    self_instruct: Flat[SelfInstructConfig] = field(default_factory=SelfInstructConfig)
    model: Flat[ModelFlags] = field(default_factory=ModelFlags)
    runs: Path = Path("runs")
    name: str | None = None
    overwrite: bool = False
    quiet: bool = False


def main(config: Config) -> dict[str, Any]:
    """Make the data set and its report; returns what self_instruct.json holds.

    Raises:
        UserError: as `make`.
    """
    from workbench.instructing.report import summary, write_report  # here and below: numpy would slow --help down
    from workbench.instructing.teacher import PROMPTS
    from workbench.methods.self_instruct import make
    from workbench.prompts import load_prompt
    from workbench.session import open_making

    made = config.self_instruct
    prompts = [load_prompt(f"self-instruct-{name}").file_hash for name in PROMPTS]
    content = {"seeds_hash": file_hash(made.seeds or SEEDS), "prompts_hash": short_hash(prompts)}
    with open_making("self_instruct", config, content) as (run, drawer):
        found = make(config.model.reference(), made, run, drawer)
        report = write_report(run, found, command_typed())
        print(summary(found))
        print(f"Data: {run.path / 'data.jsonl'}\nReport: {report}", flush=True)
    return found


if __name__ == "__main__":
    run_script(main, Config, __file__)
