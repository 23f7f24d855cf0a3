"""From a tuning method to a measured System: tune with one or several settings, measure the best on dev."""

from collections.abc import Mapping
from typing import Any, Protocol

from workbench.files import write_json
from workbench.harness import evaluate
from workbench.identity import to_json
from workbench.progress import Bar
from workbench.report import percent, span
from workbench.runs import Run, RunFolder
from workbench.session import Session, content_of
from workbench.tasks.base import Task
from workbench.training.card import cost_of, result_section
from workbench.types import CostToMake, Result, System


class Adapt(Protocol):
    """A tuning method's `adapt`."""

    def __call__(self, system: System, task: Task, config: Any, run: Run, *, quiet: bool) -> System:
        """The system with a tuned model."""


def tune(session: Session, adapt: Adapt, name: str, config: Any) -> tuple[System, RunFolder]:
    """Tune in a run of its own inside the session's run, where it has not been done."""
    session.close_engine()
    content = {"recipe": name, **content_of(config), "task_hash": session.task.hash}
    with Run.open(session.run.path, name, content, name=name) as run:
        return adapt(session.system(), session.task, config, run, quiet=session.setup.quiet), run


def tune_and_measure(session: Session, adapt: Adapt, variants: Mapping[str, Any]) -> Result:
    """Tune, measure on the setup's split, and add the result to the model card.

    Of several variants each is tuned in a run of its own inside the session's; the one with the most right
    answers on dev (the first of equals) is measured. What all of them cost is what making it cost.

    Args:
        session: the task, the model, the run.
        adapt: the tuning method.
        variants: its settings, by name.
    """
    if len(variants) == 1:
        [config] = variants.values()
        folder: RunFolder = session.run
        system = adapt(session.system(), session.task, config, session.run, quiet=session.setup.quiet)
        cost = cost_of(folder)
    else:
        tuned = {name: tune(session, adapt, name, config) for name, config in variants.items()}
        best = _best_on_dev(session, {name: system for name, (system, _) in tuned.items()})
        system, folder = tuned[best]
        cost = _together([cost_of(run) for _, run in tuned.values()], cost_of(folder).parameters)
    result = session.report(system, cost)
    weights = folder.path / "adapter" / "adapter_model.safetensors"
    print(f"{cost.parameters:,} trained parameters in an adapter of {weights.stat().st_size:,} bytes")
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    session.run.write_card(card + result_section(result))
    return result


def _best_on_dev(session: Session, systems: Mapping[str, System]) -> str:
    """The name of the System with the most right answers on dev; all are told and written into the run."""
    results = {}
    for name, system in systems.items():
        with Bar(f"{name} on dev", quiet=session.setup.quiet) as bar:
            engine = session.engine(system.model)
            found = evaluate(system, session.task, engine, session.store, split="dev", progress=bar.show)
        results[name] = found
        print(f"{name:<12} {percent(found.score.value):>7}  ({span(found.score)})  {found.total} dev questions")
    best = max(results, key=lambda name: results[name].score.value)
    scores = {name: result.score for name, result in results.items()}
    write_json(session.run.path / "dev.json", {"best": best, "scores": to_json(scores)})
    return best


def _together(costs: list[CostToMake], parameters: int) -> CostToMake:
    """What several trainings, one after the other, cost; one of them is kept."""
    return CostToMake(
        parameters=parameters,
        tokens=sum(cost.tokens for cost in costs),
        flops=sum(cost.flops for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        watt_hours=sum(cost.watt_hours for cost in costs),
        energy_source=costs[0].energy_source,
    )
