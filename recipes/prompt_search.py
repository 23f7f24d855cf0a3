"""Prompt search: instructions that the model proposes, chosen on dev; the best is measured beside your prompt."""

from dataclasses import dataclass, field

from workbench.command import Flat, run_script
from workbench.files import read_json
from workbench.methods.prompt_search import Config as PromptSearchConfig
from workbench.methods.prompt_search import adapt, plan
from workbench.report import Rung, table
from workbench.searching.summary import summary
from workbench.session import Session, Setup, one_sample
from workbench.training.card import cost_of
from workbench.types import Result


@dataclass(frozen=True)
class Config:
    """What to search for and measure, and how.

    Attributes:
        setup: its prompt is the hand-written one that the winner is compared with.
        prompt_search: the search.
        estimate_only: print the estimate and stop.
    """

    setup: Flat[Setup] = field(default_factory=Setup)
    prompt_search: Flat[PromptSearchConfig] = field(default_factory=PromptSearchConfig)
    estimate_only: bool = False


def main(config: Config) -> Result | None:
    """Print the estimate, search, and measure both prompts; None with `estimate_only`."""
    with Session("prompt_search", config.setup, config) as session:
        system, task, run, search = session.system(), session.task, session.run, config.prompt_search
        engine = session.engine(system.model)
        print(plan(system, task, search, engine, session.store), flush=True)
        if config.estimate_only:
            return None
        found = adapt(system, task, search, run, engine, session.store, quiet=config.setup.quiet)
        print(summary(read_json(run.path / "search.json")), flush=True)
        before = session.measure(system, label="hand-written")
        after = session.measure(found, cost_of(run), label="prompt search")
        run.write_result(before, "rung-hand-written")
        run.write_result(after)
        rungs = [Rung("hand-written", before, one_sample(before)), Rung("prompt search", after, one_sample(after))]
        print("\n" + table(rungs, session.store.looks(task.hash, config.setup.split)))
        print(f"system {after.system}, run {run.path}")
        return after


if __name__ == "__main__":
    run_script(main, Config, __file__)
