"""The ladder: several ways of adapting one model to one task, on the same questions, in one table.

A rung fills the three slots of a System, each with one method's product, so rungs compose: `lora-majority-vote`
is the LoRA model of `lora` under the decode of `majority-vote`, trained once. A rung that is done is in the
run's folder and is not done again, so a ladder that was killed goes on where it stopped.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from workbench.command import command_typed
from workbench.compare import changed
from workbench.cost import inference_flops, training_flops
from workbench.decodes import LONGEST, Greedy
from workbench.forgetting import Probe, open_probe
from workbench.harness import evaluate, questions_of
from workbench.launch import check_single
from workbench.methods import adapters, few_shot, head, label_scoring, lora, prompt_search, qlora, sft, soft_prompt
from workbench.methods.label_scoring import Config as LabelConfig
from workbench.methods.prompt_search import Config as SearchConfig
from workbench.prompts import load_prompt
from workbench.report import Rung, advice, duration, percent, quantity, span, table
from workbench.report_html import ChangedExample, write_html
from workbench.rungs import DEFAULT, DEFAULTS, RUNGS, Config, Tuned
from workbench.runs import Run, RunFolder
from workbench.session import Session, content_of, one_sample
from workbench.store import Store
from workbench.training.card import cost_of
from workbench.tuning import Adapt, tune, with_forgetting, with_weights
from workbench.types import CostToMake, Result, System

_STEPS = "question-steps"  # the prompt of the rungs with a chain of thought
_PROBED = 16  # practice questions that the estimate is measured on
_SHOWN = 4  # changed examples of each kind and rung in the report

TUNING: dict[Tuned, Adapt] = {
    "prompt-tuning": soft_prompt.adapt,
    "prefix-tuning": soft_prompt.adapt,
    "adapters": adapters.adapt,
    "head": head.adapt,
    "lora": lora.adapt,
    "qlora": qlora.adapt,
    "sft": sft.adapt,
}


def climb(session: Session, config: Config) -> list[Rung]:
    """Measure every rung, print the table as it grows, write `report.html`, and end with the advice.

    Args:
        session: task, engine, store and the ladder's run.
        config: rungs and methods.

    Raises:
        UserError: a rung's method cannot work here.
    """
    check_single("a ladder")
    probe = open_probe(config.forgetting, session.task)
    names = config.rungs or DEFAULTS.get(session.task.name, DEFAULT)
    print(_estimate(session, names, config), flush=True)
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
        system, folder = tune(session, TUNING[slots.tuned], slots.tuned, config.tuning(slots.tuned))
        cost = cost_of(folder)
    if slots.exemplars:
        encoder = config.few_shot.encoder if slots.exemplars == "sentence-transformer" else None
        settings = replace(config.few_shot, exemplars=slots.exemplars, encoder=encoder)
        system = few_shot.adapt(system, task, settings)
    if slots.calibrated:
        system = label_scoring.adapt(system, task, LabelConfig(calibrate=True))
    if slots.vote:
        decode = replace(config.vote, max_tokens=config.vote.max_tokens or (LONGEST if slots.steps else None))
        system = replace(system, decode=session.with_length(decode))
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


# --- the estimate -----------------------------------------------------------------------------------


def _estimate(session: Session, names: Sequence[str], config: Config) -> str:
    """What the ladder will cost at most: FLOPs from token counts, seconds at a speed measured here.

    The speed is that of the plain System on a few practice questions; larger batches are faster.
    """
    task, system = session.task, session.system()
    engine = session.engine(system.model)
    asked = min(_PROBED, len(task.practice))
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "probe.sqlite") as store:
        started = time.perf_counter()
        probe = evaluate(system, task, engine, store, split="practice", questions=asked)
        seconds = time.perf_counter() - started
    questions = len(questions_of(task, session.setup.split, session.setup.questions))
    prompt, completion = probe.cost_to_use.prompt_tokens, probe.cost_to_use.completion_tokens
    tokens = flops = 0.0
    for name in names:
        slots = RUNGS[name]
        n = config.vote.n if slots.vote else 1
        read = prompt * (1 + (config.few_shot.shots if slots.exemplars else 0))
        written = LONGEST if slots.steps else completion
        tokens += questions * (read + n * written)
        if engine.shape:
            flops += questions * inference_flops(engine.shape, read, written, samples=n)
    for how in {tuned for name in names if (tuned := RUNGS[name].tuned)}:
        training = config.tuning(how).training
        examples = training.epochs * len(task.practice[: training.examples])
        if training.steps:
            examples = training.steps * training.batch_size
        learned = examples * (prompt + completion)
        tokens += learned
        if engine.shape:
            flops += training_flops(engine.shape, learned, frozen_weights=how not in ("sft", "head"))
    if any(RUNGS[name].searched for name in names):
        planned = prompt_search.plan(system, task, config.prompt_search, engine, session.store)
        searching = min(planned.budget, planned.proposing + planned.scoring + planned.comparing)
        tokens += searching
        if engine.shape:  # many short prompts, not a long one
            flops += searching / prompt * inference_flops(engine.shape, prompt, 0)
    text = f"{len(names)} rungs, {questions} questions each: about {quantity(tokens)} tokens"
    if probe.cost_to_use.flops and seconds:
        speed = asked * probe.cost_to_use.flops / seconds
        text += f", {quantity(flops)}FLOPs, at most about {duration(flops / speed)} on this machine"
    return text + "."
