"""Proxy tuning (Liu et al. 2024, arXiv 2401.08565): a base steered as it decodes by how tuning changed another.

The logits of an expert, less those of what it was tuned from (the antiexpert), times α, are added to the base's.
Tokens pass through the base, and none of its weights changes. It departs from the paper in α, which is 1 there but
where steering itself is studied: here several are tried on dev and the best is used.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cost import EnergyMeter
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.hub import EMBEDDED_ID
from workbench.identity import system_hash, to_json
from workbench.models import EMBEDDED, check_adapter, model_folder
from workbench.progress import Bar
from workbench.proxy import LARGEST, steer
from workbench.run_folder import RunFolder
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import base_of, cost_of
from workbench.types import CostToMake, Model, Result, System

if TYPE_CHECKING:  # torch
    from workbench.drawing import Drawer


@dataclass(frozen=True)
class Config:
    """How strongly the base is steered.

    Attributes:
        alphas: strengths that are tried on dev; the one with the most right answers is used, of equals the one
            nearest to 1. 1 is the paper's, 0 would be the base alone.
        alpha_questions: dev questions that each is tried on, from the split's beginning; by default all.

    Raises:
        UserError: there is none, or one is no number from −100 to 100.
    """

    alphas: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    alpha_questions: int | None = None

    def __post_init__(self) -> None:
        if not self.alphas:
            raise UserError("alphas is empty; give one or more, as --alphas 0.5 1 1.5.")
        for alpha in self.alphas:
            check_range("alphas", alpha, -LARGEST, LARGEST)
        if self.alpha_questions is not None:
            check_range("alpha_questions", self.alpha_questions, 1, 10**9)

    def check_split(self, split: str) -> None:
        """See that what is chosen here is not measured on the questions that it is chosen on.

        Raises:
            UserError: the split to measure on is dev, and there are several strengths to choose from.
        """
        if split == "dev" and len(set(self.alphas)) > 1:
            raise UserError(
                "α is chosen on dev, which cannot measure it: leave --split dev out, or give one of alphas."
            )


def shown(alpha: float) -> str:
    """A strength as people write it, with all its digits: no two have one name."""
    return repr(float(alpha)).removesuffix(".0")


def adapt(
    system: System,
    task: Task,
    config: Config,
    run: Run,
    drawer: "Drawer",
    expert: Model,
    antiexpert: Model,
    *,
    quiet: bool = False,
) -> System:
    """The system with its model steered; prompt and decode stay.

    Args:
        system: its model is the base.
        task: α is chosen on its dev split.
        config: what is tried.
        run: alpha-….json (a `Result` on dev), alphas.json and cost.json go there. What is done is not done again.
        drawer: its engine's settings, and the store.
        expert, antiexpert: see `parts`.
        quiet: no progress bars.

    Raises:
        UserError: the engine is not hf, the vocabularies differ, or a model cannot be loaded.
    """
    if config.alpha_questions is not None:
        check_range("alpha_questions", config.alpha_questions, 1, len(task.dev))
    file = run.path / "alphas.json"
    tried = {alpha: _steered(system, expert, antiexpert, alpha) for alpha in dict.fromkeys(config.alphas)}
    hashes = {shown(alpha): system_hash(one) for alpha, one in tried.items()}
    if not file.exists() or read_json(file)["systems"] != hashes:
        with EnergyMeter() as meter:
            results = _on_dev(tried, task, config.alpha_questions, run, drawer, quiet)
        best = max(results, key=lambda alpha: (results[alpha].score.value, -abs(alpha - 1)))
        cost = _cost(list(results.values()), meter)
        write_json(run.path / "cost.json", to_json(cost))
        write_json(file, {"best": best, "systems": hashes})  # last: where it is, the choice is made
    chosen = tried[float(read_json(file)["best"])]
    run.write_system(chosen)
    return chosen


def _steered(system: System, expert: Model, antiexpert: Model, alpha: float) -> System:
    return replace(system, model=steer(system.model, expert, antiexpert, alpha))


def _on_dev(
    tried: dict[float, System], task: Task, questions: int | None, run: Run, drawer: "Drawer", quiet: bool
) -> dict[float, Result]:
    """Each strength on dev, through one engine: the weights are loaded once for all."""
    from workbench.engines import open_engine
    from workbench.engines.proxy import ProxyEngine
    from workbench.harness import evaluate

    done = {alpha: run.read_result(f"alpha-{shown(alpha)}") for alpha in tried}
    found = {
        alpha: result for alpha, result in done.items() if result and result.system == system_hash(tried[alpha])
    }
    left = {alpha: system for alpha, system in tried.items() if alpha not in found}
    engine = None
    for alpha, system in left.items():
        if engine is None:
            drawer.close()
            opened = open_engine(system.model, drawer.config)
            assert isinstance(opened, ProxyEngine)
            engine = opened
        with Bar(f"α = {shown(alpha)} on dev", quiet=quiet) as bar:
            result = evaluate(
                system, task, engine.at(alpha), drawer.store, split="dev", questions=questions, progress=bar.show
            )
        run.write_result(result, f"alpha-{shown(alpha)}")  # a prompt that is too long is so for every strength
        found[alpha] = result
    if engine is not None:
        engine.close()
    return {alpha: found[alpha] for alpha in tried}


def _cost(results: list[Result], meter: EnergyMeter) -> CostToMake:
    """What trying them cost, what an earlier run had done of it too."""

    def total(of: Callable[[Result], float]) -> float:
        return sum(of(result) * result.total for result in results)

    seconds = total(lambda result: result.cost_to_use.seconds)
    return CostToMake(
        tokens=round(total(lambda r: r.cost_to_use.prompt_tokens + r.cost_to_use.completion_tokens)),
        flops=total(lambda result: result.cost_to_use.flops or 0.0),
        seconds=seconds,
        peak_memory_bytes=meter.peak_memory_bytes,
        watt_hours=meter.watt_hours * (seconds / meter.seconds if meter.seconds else 1.0),
        energy_source=meter.source,
    )


# --- who steers -------------------------------------------------------------------------------------


def parts(expert: str, antiexpert: str | None, base: Model) -> tuple[Model, Model, CostToMake | None]:
    """The expert, the antiexpert, and what the expert cost to make, where that is known.

    Args:
        expert: a folder with an adapter or a model, or the name of a model.
        antiexpert: likewise; None is what the expert was tuned from, as its run or its adapter tells.
        base: an adapter that does not tell its base is taken to be this model's.

    Raises:
        UserError: there is no such folder or model, or what the expert was tuned from is not known.
    """
    one, run, cost = named_model("expert", expert, base), _run_of(expert), made_by(expert)
    if antiexpert is not None:
        return one, named_model("antiexpert", antiexpert, base), cost
    before = replace(one, adapter=None) if one.adapter else base_of(one, run) if run else None
    if before is None or before == one:
        raise UserError(
            f"What {expert!r} was tuned from is not written beside it. Say it: --antiexpert NAME (a folder with a "
            "model, smollm2-135m-instruct, or a Hub id)."
        )
    return one, before, cost


def named_model(flag: str, name: str, base: Model) -> Model:
    """A model by a folder with an adapter or a model, or by its name; errors as `parts`, naming the flag."""
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        told = check_adapter(folder).get("base_model_name_or_path")
        run = _run_of(name)
        if run is not None:
            on = run.read_system().model
        elif told:
            on = Model(EMBEDDED if told == EMBEDDED_ID else told)
        else:
            on = base
        return replace(on, adapter=name)
    if not folder.is_dir() and name != EMBEDDED and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise UserError(
            f"{flag} is {name!r}, and there is no such folder. It is a folder with an adapter or a model (as RUN/"
            f"adapter), {EMBEDDED!r}, or a Hub id."
        )
    model_folder(name)
    return Model(name)


def made_by(name: str) -> CostToMake | None:
    """What the run that made a folder cost; None where no run tells."""
    run = _run_of(name)
    return cost_of(run) if run is not None and (run.path / "cost.json").is_file() else None


def _run_of(name: str) -> RunFolder | None:
    """The run that made a folder, if it lies in one that says so."""
    folder = Path(name).resolve()
    if not (folder.parent / "config.json").is_file() or not (folder.parent / "system.json").is_file():
        return None
    run = RunFolder(folder.parent)
    model = run.read_system().model
    made = {Path(place).resolve() for place in (model.base, model.adapter) if place}
    return run if folder in made else None
