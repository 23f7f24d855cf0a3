"""The model card of a tuned model, written from its run: data, settings, cost, use and limits."""

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.cost import GRID_KG_PER_KWH, PUE, carbon_kg
from workbench.errors import UserError
from workbench.files import read_json
from workbench.hub import about, base_name, hub_id, join_card, kind_of, licence_of, loading
from workbench.identity import from_json, to_json
from workbench.models import check_adapter
from workbench.runs import Run, RunFolder
from workbench.tasks.base import Task
from workbench.training.trouble import trouble
from workbench.types import CostToMake, Interval, Message, Model, Result, System

# What sets neither what is learned nor how well.
_NOT_SHOWN = {"type", "tensorboard", "save_every"}
_LORA = {"rank", "alpha", "targets", "rslora", "dora"}  # where all weights learn there is none


def finish(method: str, system: System, task: Task, config: Any, run: Run) -> System:
    """Write what a tuning method made into its run: the System and the model card. Gives the System back.

    The checkpoints, several times the size of what was made, have done their work and go.
    """
    run.write_system(system)
    run.write_card(model_card(method, system, task, config, run))
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return system


def model_card(method: str, system: System, task: Task, config: Any, run: RunFolder) -> str:
    """Markdown with the front matter that the Hub reads.

    Args:
        method: its name, as in "tuned by LoRA".
        system: with the tuned model.
        task: whose practice split was learned, or that only gave the prompt where the data are others.
        config: the method's settings.
        run: with data.json, cost.json and metrics.jsonl.
    """
    base = base_of(system.model, run)
    name = "A model" if base is None else hub_id(base) or "A local model"
    data = read_json(run.path / "data.json")
    own = str(data.get("source", f"{task.name}, ")).startswith(f"{task.name}, ")
    use = f"questions like those of `{task.name}`, under the prompt above" if own else "text like that of its data"
    text = f"""
# {name}, {method} on {task.name if own else _public(str(data.get("source")))}

{_made(method, base, run)}

## Data

{_data(data, task)}

## Prompt

{_prompt(system, task, own, str(data.get("format")))}

## Settings

{_table(_settings(system.model, config))}

AdamW without weight decay; the gradient's norm clipped at 1; the learning rate rises over the first tenth of the
updates and then falls linearly to 0. {_course(run, data.get("loss_is", "nats a learned token"))}

## Cost to make

{_cost(cost_of(run))}

{trouble(run)}

{load_section(system.model, run)}## Intended use and limits

For {use}. It keeps the limits of its base, and {_licence(base)}.

Only what the sections below this one tell was measured; where there are none, nothing was. Not tested: other
tasks, prompts and languages; long conversations; bias, safety, and input that is meant to mislead it; whether what
it says is true. Whether the base had seen the questions is not known.
"""
    return join_card(about(system.model, base), text)


def load_section(model: Model, run: RunFolder) -> str:
    """The section on how a run's model is loaded, from the run's folder."""
    home = run.path.resolve()

    def inside(path: str | None) -> str:
        full = Path(path or ".").resolve()
        return full.relative_to(home).as_posix() if full.is_relative_to(home) else ""

    return loading(model, base_of(model, run), inside(model.base), inside(model.adapter))


def with_load_section(card: str, section: str) -> str:
    """A card with another section on how the model is loaded."""
    return re.sub(r"(?ms)^## How to load it\n.*?(?=^## |\Z)", lambda _: section, card)


def cost_of(run: RunFolder) -> CostToMake:
    """What making the run's model cost, as `sft.fit` wrote it down."""
    cost = from_json(read_json(run.path / "cost.json"))
    assert isinstance(cost, CostToMake)
    return cost


def together(costs: Sequence[CostToMake]) -> CostToMake:
    """What several trainings, one after the other, cost; the parameters are those of the last, which is kept."""
    return replace(
        costs[-1],
        tokens=sum(cost.tokens for cost in costs),
        flops=sum(cost.flops for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        watt_hours=sum(cost.watt_hours for cost in costs),
    )


def base_of(model: Model, run: RunFolder) -> Model | None:
    """What a run's model was tuned from: its base, or the model that the run was given, where it made a whole one.

    None where neither the run nor one that it lies in was given one.
    """
    home = run.path.resolve()
    folder = Path(model.base)
    if not folder.is_dir() or not folder.resolve().is_relative_to(home):
        return Model(model.base, model.revision)
    for folder in (home, *home.parents):
        try:
            setup = RunFolder(folder).config.get("setup")
        except UserError:  # no run, so nothing above it is one
            return None
        if isinstance(setup, Mapping) and isinstance(setup.get("model"), str):
            return Model(setup["model"], setup.get("revision"))
    return None


def result_section(result: Result, dev: Mapping[str, Interval] | None = None) -> str:
    """A section on how the model did, for the end of its card.

    Args:
        result: as measured.
        dev: where one of several settings was chosen on dev, the scores there, by the settings' names.
    """
    metrics, counts = dict(result.metrics), dict(result.counts)
    asked = f"on {result.total} questions of the {result.split} split of `{result.task}`"
    lines = [
        f"{_percent(result.score)} {asked} (task hash `{result.task_hash}`; interval: {result.score.method})."
    ]
    if "macro_f1" in metrics:
        low, high = metrics.get("macro_f1_low", math.nan), metrics.get("macro_f1_high", math.nan)
        lines.append(f"Macro F1 {metrics['macro_f1']:.3f} (95 % interval {low:.3f} – {high:.3f}).")
    if "majority_class" in metrics:
        lines.append(f"The most frequent label alone would score {100 * metrics['majority_class']:.1f} %.")
    lines.append(f"Of all answers: {', '.join(f'{count} {name}' for name, count in counts.items())}.")
    lines += [note if note.endswith(".") else f"{note}." for note in result.notes]
    if dev:
        scores = "; ".join(f"{name} {_percent(score)}" for name, score in dev.items())
        cost = result.cost_to_make
        lines.append(
            f"Chosen among {len(dev)} settings on the dev split: {scores}. All of them together took "
            f"{cost.tokens:,} tokens, {cost.flops:.3g} FLOPs, {cost.seconds:,.1f} s and {cost.watt_hours:.3g} Wh."
        )
    return "\n## Result\n\n" + "\n".join(lines) + "\n"


# --- the parts --------------------------------------------------------------------------------------


def _made(method: str, base: Model | None, run: RunFolder) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in run.info.get("packages", {}).items())
    return (
        f"Tuned by {method} with the LLM workbench on {str(run.info['created'])[:10]} ({packages}). Its base is "
        f"{'not recorded in its run' if base is None else base_name(base)}."
    )


def _data(data: Mapping[str, Any], task: Task) -> str:
    practice = data.get("source") in (None, f"{task.name}, practice split")
    settings = ", ".join(f"{name} {_cell(value)}" for name, value in task.settings.items() if value is not None)
    source = f"`{task.name}`, practice split" if practice else _public(str(data["source"]))
    of_what = f" of the task with {settings}" if practice and settings else ""
    kind = _FORMATS.get(str(data.get("format", "practice")), str(data.get("format")))
    left = [f"{data[key]:,} {words}" for key, words in _LEFT.items() if data.get(key)]
    tokens = ""
    if "tokens" in data:
        tokens = f", {data['tokens']:,} tokens an epoch, of which {data['learned_tokens']:,} are learned"
    return (
        f"{source}{of_what} (data hash `{data.get('hash', task.hash)}`): {kind}. It learned on "
        f"{data['learned']:,} examples{tokens}; {', '.join(left) or 'none were too long'}."
    )


_LEFT = {"too_long": "left out as too long", "truncated": "cut off at the end"}
_FORMATS = {
    "practice": "the prompt below with its answers",
    "labels": "the prompt below with its labels",
    "chat": "conversations",
    "prompt-completion": "prompts with completions",
    "text": "plain text",
    "pairs": "pairs of a better and a worse answer",
    "graded": "questions under the prompt below, whose answers were drawn from the model and graded",
}
_LEARNED = {
    "pairs": "It learned which answers to it are better",
    "graded": "It learned from the grades of its own answers to it",
}


def _prompt(system: System, task: Task, own: bool, form: str) -> str:
    prompt, decode = system.prompt, type(system.decode).__name__
    style = "through the model's chat template" if prompt.style == "chat" else "as plain text"
    learned = "It did not learn it, and was measured under it"
    if own:
        learned = _LEARNED.get(form, "It learned the answers to it")
    answer = {"Greedy": "generated greedily", "LabelLikelihood": "the likeliest of the labels"}
    told = f" ({', '.join(task.labels)})" if task.labels else ""
    return (
        f"`{prompt.name}` (file hash `{prompt.file_hash}`), {style}. {learned}. "
        f"The answer is {answer.get(decode, f'found by {decode}')}{told}.\n\n{_messages(prompt.messages)}"
    )


def _messages(messages: tuple[Message, ...]) -> str:
    """The prompt's templates, indented, so that nothing in them is Markdown."""
    said = [f"{message.role}: {message.content}" for message in messages]
    return "\n".join(f"    {line}".rstrip() for text in said for line in text.splitlines())


def _settings(model: Model, config: Any) -> dict[str, Any]:
    """The settings as one level, with what unset ones came to; those without a say are left out."""
    settings = _flat(to_json(config))
    if settings.get("weights") == "all":
        settings = {name: value for name, value in settings.items() if name not in _LORA}
    if kind_of(model) == "LORA":
        adapter = check_adapter(str(model.adapter))
        settings["alpha"] = f"{adapter['lora_alpha']:g}"
    if settings.get("steps") is not None:
        settings.pop("epochs", None)
    return {name: value for name, value in settings.items() if value is not None}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if settings.get("type") == "Data" and settings.get("data") is None:
        return {"too_long": settings["too_long"]}  # the rest is about data of one's own
    if settings.get("type") == "Pairs" and settings.get("pairs") is not None:
        return {"pairs": settings["pairs"]}  # the rest is about pairs that are made
    for name, value in settings.items():
        if isinstance(value, dict):
            out |= _flat(value)
        elif name not in _NOT_SHOWN:
            out[name] = value
    return out


def _table(settings: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in settings.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(_public(text).replace("|", "\\|").split())


def _course(run: RunFolder, unit: str) -> str:
    lines = [line for line in run.metrics() if line.get("loss") is not None]
    if not lines:
        return ""
    first, last = lines[0], lines[-1]
    return (
        f"The loss was {first['loss']:.3g} {unit} at update {first['step']} and "
        f"{last['loss']:.3g} at update {last['step']}, the last."
    )


def _cost(cost: CostToMake) -> str:
    return (
        f"{cost.parameters:,} trained parameters, {cost.tokens:,} tokens, {cost.flops:.3g} FLOPs, "
        f"{cost.seconds:,.1f} s, peak memory {cost.peak_memory_bytes / 2**30:.2f} GiB, {cost.watt_hours:.3g} Wh "
        f"({cost.energy_source}). That is about {1000 * carbon_kg(cost.watt_hours):.2g} g of CO₂e, if the grid's "
        f"intensity is {GRID_KG_PER_KWH:g} kg/kWh (Patterson et al. 2021, table 4) and the building adds nothing "
        f"(PUE {PUE:g}); neither was measured."
    )


def _licence(base: Model | None) -> str:
    licence = None if base is None else licence_of(base)
    return "of its base's licence, which is not known here" if licence is None else f"of its licence, {licence}"


def _public(text: str) -> str:
    """A setting or a source without the folders of this machine."""
    path = Path(text)
    return path.name if "/" in text and (path.is_absolute() or path.exists()) else text


def _percent(score: Interval) -> str:
    return f"{100 * score.value:.1f} % (95 % interval {100 * score.low:.1f} – {100 * score.high:.1f} %)"
