"""The model card of a tuned model, written from its run: data, settings, cost, use and limits."""

from typing import Any

from workbench.cost import carbon_kg
from workbench.files import read_json
from workbench.identity import from_json, to_json
from workbench.runs import Run, RunFolder
from workbench.tasks.base import Task
from workbench.types import CostToMake, Result, System


def finish(method: str, system: System, task: Task, config: Any, run: Run) -> System:
    """Write what a tuning method made into its run: the System and the model card. Gives the System back."""
    run.write_system(system)
    run.write_card(model_card(method, system, task, config, run))
    return system


def model_card(method: str, system: System, task: Task, config: Any, run: RunFolder) -> str:
    """Markdown with the front matter that the Hub reads (`base_model`, `library_name`)."""
    cost, learned = cost_of(run), read_json(run.path / "data.json")["learned"]
    settings = _flat(to_json(config))
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    return f"""---
base_model: {system.model.base}
library_name: peft
pipeline_tag: text-generation
---

# {system.model.base}, {method} on {task.name}

Tuned with the workbench by {method} on {learned} examples of the practice split of the task `{task.name}`
(data hash `{task.hash}`). It learned to answer the prompt `{system.prompt.name}`
(file hash `{system.prompt.file_hash}`).

## Settings

| setting | value |
| --- | --- |
{rows}

## Cost to make

{cost.parameters:,} trained parameters, {cost.tokens:,} tokens, {cost.flops:.3g} FLOPs, {cost.seconds:.0f} s,
peak memory {cost.peak_memory_bytes / 2**30:.2f} GiB, {cost.watt_hours:.3g} Wh ({cost.energy_source}), about
{1000 * carbon_kg(cost.watt_hours):.2g} g of CO₂ at a world-average grid.

## Intended use and limits

For answering questions like those of the task, under the prompt that it was tuned on. It was measured on that
task's test split only (`result.json`, if it was measured): what it lost elsewhere was not. The base model's
licence and limits hold.
"""


def cost_of(run: RunFolder) -> CostToMake:
    """What making the run's model cost, as `sft.fit` wrote it down."""
    cost = from_json(read_json(run.path / "cost.json"))
    assert isinstance(cost, CostToMake)
    return cost


def result_section(result: Result) -> str:
    """A section on how the model did, for the end of its card."""
    score = result.score
    return f"""
## Result

{100 * score.value:.1f} % on {result.total} questions of the {result.split} split (95 % interval
{100 * score.low:.1f} – {100 * score.high:.1f} %, {score.method}).
"""


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings as one level, without type names."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            out |= _flat(value)
        elif name != "type":
            out[name] = "default" if value is None else value
    return out
