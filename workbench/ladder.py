"""The ladder: several ways of adapting one model to one task, on the same questions, in one table.

A rung fills the three slots of a System, each with one method's product, so rungs compose: `lora-majority-vote`
is the LoRA model of `lora` under the decode of `majority-vote`, trained once. A rung that is done is in the
run's folder and is not done again, so a ladder that was killed goes on where it stopped.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from workbench.command import command_typed
from workbench.compare import changed
from workbench.decodes import LONGEST, Greedy
from workbench.forgetting import Probe, open_probe
from workbench.harness import questions_of
from workbench.ladder_estimate import estimate
from workbench.launch import check_single
from workbench.methods import (
    adapters,
    dpo,
    few_shot,
    grpo,
    head,
    label_scoring,
    lora,
    prompt_search,
    proxy_tuning,
    qlora,
    reward_model,
    self_improve,
    sft,
    soft_prompt,
)
from workbench.methods.label_scoring import Config as LabelConfig
from workbench.methods.prompt_search import Config as SearchConfig
from workbench.methods.reward_model import Config as RewardConfig
from workbench.prompts import load_prompt
from workbench.report import Rung, advice, duration, percent, span, table
from workbench.report_html import ChangedExample, write_html
from workbench.rungs import DEFAULT, DEFAULTS, RUNGS, Config, Tuned
from workbench.runs import Run, RunFolder
from workbench.session import Session, content_of, one_sample
from workbench.training.card import cost_of, together
from workbench.tuning import Adapt, tune, with_forgetting, with_weights
from workbench.types import CostToMake, Result, System

_STEPS = "question-steps"  # the prompt of the rungs with a chain of thought
_SHOWN = 4  # changed examples of each kind and rung in the report

TUNING: dict[Tuned, Adapt] = {
    "prompt-tuning": soft_prompt.adapt,
    "prefix-tuning": soft_prompt.adapt,
    "adapters": adapters.adapt,
    "head": head.adapt,
    "lora": lora.adapt,
    "qlora": qlora.adapt,
    "sft": sft.adapt,
    "grpo": grpo.adapt,
}

# These draw samples to learn from.
DRAWING: dict[Tuned, Any] = {"self-improve": self_improve.adapt, "dpo": dpo.adapt}


def climb(session: Session, config: Config) -> list[Rung]:
    """Measure every rung, print the table as it grows, write `report.html`, and end with the advice.

    Args:
        session: task, engine, store and the ladder's run.
        config: rungs and methods.

    Raises:
        UserError: a rung's method cannot work here, or would be measured on what its setting was chosen on.
    """
    check_single("a ladder")
    probe = open_probe(config.forgetting, session.task)
    names = config.rungs or DEFAULTS.get(session.task.name, DEFAULT)
    if any(RUNGS[name].steered for name in names):
        config.proxy_tuning.check_split(session.setup.split)
    print(estimate(session, names, config), flush=True)
    if config.estimate_only:
        return []
    rungs: list[Rung] = []
    for name in names:
        started = time.monotonic()
        result = _rung(session, name, config, probe)
        rungs.append(Rung(name, result, one_sample(result)))
        score = result.score
        print(
            f"{name:<24} {percent(score.value):>7}  ({span(score)})  "
            f"{result.total} questions, {duration(time.monotonic() - started)}",
            flush=True,
        )
    looks = session.store.looks(session.task.hash, session.setup.split)
    print("\n" + table(rungs, looks))
    report = session.run.path / "report.html"
    write_html(
        report,
        f"{session.task.name}: prompt it, tune it or sample from it?",
        rungs,
        looks=looks,
        examples=_changed_examples(session, rungs),
        model=session.setup.model,
        command=command_typed(),
        versions=session.run.info["packages"],
    )
    print(f"Report: {report}\n")
    print(advice(rungs), flush=True)
    return rungs


def _rung(session: Session, name: str, config: Config, probe: Probe | None) -> Result:
    """The rung's result, from the run's folder where it is done; what was forgotten is added where it is not."""
    slots, task = RUNGS[name], session.task
    done = session.run.read_result(f"rung-{name}")
    if done is not None and (probe is None or not slots.tuned):
        return done
    system, cost = session.system(), CostToMake()
    if slots.steps:
        system = replace(system, prompt=load_prompt(_STEPS), decode=Greedy(LONGEST))
    if slots.searched:
        system, cost = _searched(session, system, config.prompt_search)
    folder: RunFolder | None = None
    if slots.tuned:
        drawing = DRAWING.get(slots.tuned)
        adapt = partial(drawing, drawer=session.drawer) if drawing else TUNING[slots.tuned]
        system, folder = tune(session, adapt, slots.tuned, config.tuning(slots.tuned))
        cost = cost_of(folder)
    if slots.steered:
        system, cost = _steered(session, system, config)
    if slots.exemplars:
        encoder = config.few_shot.encoder if slots.exemplars == "sentence-transformer" else None
        settings = replace(config.few_shot, exemplars=slots.exemplars, encoder=encoder)
        system = few_shot.adapt(system, task, settings)
    if slots.calibrated:
        system = label_scoring.adapt(system, task, LabelConfig(calibrate=True))
    if (decode := config.decode(slots)) is not None:
        system = replace(system, decode=session.with_length(decode))
    if slots.scorer == "reward-model":
        system, cost = _scored(session, system, config.best_of_n)
    result = done or session.measure(system, cost, label=name)
    if folder is not None:
        result = with_weights(result, folder)
        result = with_forgetting(session, result, system.model, probe) if probe else result
    if not any(outcome.score is None for outcome in result.outcomes):  # failed requests are asked for again
        session.run.write_result(result, f"rung-{name}")
    return result


def _searched(session: Session, system: System, config: SearchConfig) -> tuple[System, CostToMake]:
    """The system with the best instruction found, searched for in a run of its own inside the ladder's."""
    content = {"recipe": "prompt_search", **content_of(config), "task_hash": session.task.hash}
    with Run.open(session.run.path, "prompt_search", content, name="prompt-search") as run:
        engine = session.engine(system.model)
        found = prompt_search.adapt(
            system, session.task, config, run, engine, session.store, quiet=session.setup.quiet
        )
        return found, cost_of(run)


def _steered(session: Session, system: System, config: Config) -> tuple[System, CostToMake]:
    """The system steered by the adapter of the rungs lora; α is chosen in a run of its own inside the ladder's."""
    tuned, folder = tune(session, lora.adapt, "lora", config.lora)
    content = {"recipe": "proxy_tuning", **content_of(config.proxy_tuning), "task_hash": session.task.hash}
    with Run.open(session.run.path, "proxy_tuning", content, name="proxy-tuning") as run:
        steered = proxy_tuning.adapt(
            system, session.task, config.proxy_tuning, run, session.drawer, tuned.model, system.model,
            quiet=session.setup.quiet,
        )  # fmt: skip
        return steered, together([cost_of(run), cost_of(folder)])


def _scored(session: Session, system: System, config: RewardConfig) -> tuple[System, CostToMake]:
    """The system under best of n, with a reward model that is made in a run of its own inside the ladder's."""
    content = {"recipe": "reward_model", **content_of(config), "task_hash": session.task.hash}
    with Run.open(session.run.path, "reward_model", content, name="reward-model") as run:
        quiet = session.setup.quiet
        return reward_model.adapt(system, session.task, config, run, session.drawer, quiet=quiet), cost_of(run)


def _changed_examples(session: Session, rungs: Sequence[Rung]) -> list[ChangedExample]:
    """Some questions that each rung mended or broke against the first one."""
    questions = {q.id: q for q in questions_of(session.task, session.setup.split, session.setup.questions)}
    before = {outcome.id: outcome for outcome in rungs[0].result.outcomes}
    examples = []
    for rung in rungs[1:]:
        after = {outcome.id: outcome for outcome in rung.result.outcomes}
        for kind, ids in zip(("mended", "broken"), changed(rungs[0].result, rung.result), strict=True):
            for id in ids[:_SHOWN]:
                examples.append(
                    ChangedExample(
                        questions[id].input,
                        questions[id].target,
                        rung.name,
                        before[id].text,
                        after[id].text,
                        cast(Literal["mended", "broken"], kind),
                    )
                )
    return examples
