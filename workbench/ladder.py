"""The ladder: several ways of adapting one model to one task, on the same questions, in one table.

A rung fills the three slots of a System, each with one method's product, so rungs compose: `lora-majority-vote`
is the LoRA model of `lora` under the decode of `majority-vote`, trained once. A rung that is done is in the
run's folder and is not done again, so a ladder that was killed goes on where it stopped.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from workbench.command import Flat, command_typed
from workbench.compare import changed
from workbench.cost import inference_flops, training_flops
from workbench.errors import unknown_name
from workbench.harness import evaluate, questions_of
from workbench.methods import few_shot, label_scoring, lora, prompt_search, soft_prompt
from workbench.methods.few_shot import Config as FewShotConfig
from workbench.methods.label_scoring import Config as LabelConfig
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.prompt_search import Config as SearchConfig
from workbench.methods.soft_prompt import PrefixTuning, PromptTuning
from workbench.prompts import load_prompt
from workbench.report import Rung, advice, duration, percent, quantity, span, table
from workbench.report_html import ChangedExample, write_html
from workbench.runs import Run
from workbench.session import Session, content_of, one_sample
from workbench.store import Store
from workbench.training.card import cost_of
from workbench.tuning import tune
from workbench.types import LONGEST, CostToMake, Greedy, Majority, Result, System

Exemplars = Literal["random", "balanced", "bm25", "embedding", "sentence-transformer"]
Tuned = Literal["prompt-tuning", "prefix-tuning", "lora"]


@dataclass(frozen=True)
class Slots:
    """What fills a rung's slots; what is not said leaves the setup's own prompt, model or decode.

    Attributes:
        steps: the prompt asks for steps before the answer.
        searched: the prompt's instruction comes from prompt search.
        exemplars: the prompt shows some.
        tuned: the model is tuned in this way.
        calibrated: labels are scored with contextual calibration.
        vote: the answer is a majority's.
    """

    steps: bool = False
    searched: bool = False
    exemplars: Exemplars | None = None
    tuned: Tuned | None = None
    calibrated: bool = False
    vote: bool = False


RUNGS = {
    "zero-shot": Slots(),
    "zero-shot-calibrated": Slots(calibrated=True),
    "chain-of-thought": Slots(steps=True),
    "chain-of-thought-majority-vote": Slots(steps=True, vote=True),
    "few-shot-random": Slots(exemplars="random"),
    "few-shot-random-calibrated": Slots(exemplars="random", calibrated=True),
    "few-shot-balanced": Slots(exemplars="balanced"),
    "few-shot-balanced-calibrated": Slots(exemplars="balanced", calibrated=True),
    "few-shot-knn": Slots(exemplars="bm25"),
    "few-shot-knn-calibrated": Slots(exemplars="bm25", calibrated=True),
    "few-shot-embedding": Slots(exemplars="embedding"),
    "few-shot-sentence-transformer": Slots(exemplars="sentence-transformer"),
    "majority-vote": Slots(vote=True),
    "few-shot-majority-vote": Slots(exemplars="random", vote=True),
    "prompt-search": Slots(searched=True),
    "prompt-search-majority-vote": Slots(searched=True, vote=True),
    "prompt-tuning": Slots(tuned="prompt-tuning"),
    "prompt-tuning-majority-vote": Slots(tuned="prompt-tuning", vote=True),
    "prefix-tuning": Slots(tuned="prefix-tuning"),
    "prefix-tuning-majority-vote": Slots(tuned="prefix-tuning", vote=True),
    "lora": Slots(tuned="lora"),
    "lora-majority-vote": Slots(tuned="lora", vote=True),
}

_DEFAULT = ("zero-shot", "few-shot-random", "few-shot-knn", "majority-vote", "lora", "lora-majority-vote")
_DEFAULTS = {
    "phrasebank": ("zero-shot", "few-shot-knn", "lora"),
    "gsm8k": ("zero-shot", "few-shot-random", "majority-vote"),
}

_STEPS = "question-steps"  # the prompt of the rungs with a chain of thought
_PROBED = 16  # practice questions that the estimate is measured on
_SHOWN = 4  # changed examples of each kind and rung in the report


@dataclass(frozen=True)
class Config:
    """Which rungs, and the settings of the methods that they use.

    Attributes:
        rungs: of zero-shot, chain-of-thought, few-shot-random, few-shot-balanced, few-shot-knn,
            few-shot-embedding, few-shot-sentence-transformer, prompt-search, prompt-tuning, prefix-tuning, lora;
            with labels zero-shot-calibrated, few-shot-random-calibrated, few-shot-balanced-calibrated,
            few-shot-knn-calibrated; voting: majority-vote, chain-of-thought-majority-vote,
            few-shot-majority-vote, prompt-search-majority-vote, prompt-tuning-majority-vote,
            prefix-tuning-majority-vote, lora-majority-vote. The first is the baseline; by default a set that
            suits the task.
        estimate_only: print the estimate and stop.
        few_shot: exemplars; which ones is said by the rung.
        prompt_search: the rung prompt-search.
        prompt_tuning: the rung prompt-tuning.
        prefix_tuning: the rung prefix-tuning.
        lora: the rungs lora.
        vote: the voting rungs.

    Raises:
        UserError: a rung does not exist.
    """

    rungs: tuple[str, ...] = ()
    estimate_only: bool = False
    few_shot: Flat[FewShotConfig] = field(default_factory=FewShotConfig)
    prompt_search: SearchConfig = field(default_factory=SearchConfig)
    prompt_tuning: PromptTuning = field(default_factory=PromptTuning)
    prefix_tuning: PrefixTuning = field(default_factory=PrefixTuning)
    lora: Flat[LoraConfig] = field(default_factory=LoraConfig)
    vote: Flat[Majority] = field(default_factory=Majority)

    def __post_init__(self) -> None:
        for name in self.rungs:
            if name not in RUNGS:
                raise unknown_name("rung", name, RUNGS)


def climb(session: Session, config: Config) -> list[Rung]:
    """Measure every rung, print the table as it grows, write `report.html`, and end with the advice.

    Args:
        session: task, engine, store and the ladder's run.
        config: rungs and methods.

    Raises:
        UserError: a rung's method cannot work here.
    """
    names = config.rungs or _DEFAULTS.get(session.task.name, _DEFAULT)
    print(_estimate(session, names, config), flush=True)
    if config.estimate_only:
        return []
    rungs: list[Rung] = []
    for name in names:
        started = time.monotonic()
        result = _rung(session, name, config)
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


def _rung(session: Session, name: str, config: Config) -> Result:
    """The rung's result, from the run's folder where it is done."""
    if (done := session.run.read_result(f"rung-{name}")) is not None:
        return done
    slots, task = RUNGS[name], session.task
    system, cost = session.system(), CostToMake()
    if slots.steps:
        system = replace(system, prompt=load_prompt(_STEPS), decode=Greedy(LONGEST))
    if slots.searched:
        system, cost = _searched(session, system, config.prompt_search)
    if slots.tuned:
        system, cost = _tuned(session, slots.tuned, config)
    if slots.exemplars:
        encoder = config.few_shot.encoder if slots.exemplars == "sentence-transformer" else None
        settings = replace(config.few_shot, exemplars=slots.exemplars, encoder=encoder)
        system = few_shot.adapt(system, task, settings)
    if slots.calibrated:
        system = label_scoring.adapt(system, task, LabelConfig(calibrate=True))
    if slots.vote:
        decode = replace(config.vote, max_tokens=config.vote.max_tokens or (LONGEST if slots.steps else None))
        system = replace(system, decode=session.with_length(decode))
    result = session.measure(system, cost, label=name)
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


def _tuned(session: Session, how: Tuned, config: Config) -> tuple[System, CostToMake]:
    """The system with its tuned model, trained once for all rungs that use it."""
    if how == "lora":
        system, run = tune(session, lora.adapt, how, config.lora)
    else:
        settings = config.prompt_tuning if how == "prompt-tuning" else config.prefix_tuning
        system, run = tune(session, soft_prompt.adapt, how, settings)
    return system, cost_of(run)


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
    trainings = {
        "prompt-tuning": config.prompt_tuning.training,
        "prefix-tuning": config.prefix_tuning.training,
        "lora": config.lora.training,
    }
    for how in {tuned for name in names if (tuned := RUNGS[name].tuned)}:
        training = trainings[how]
        learned = training.epochs * len(task.practice[: training.examples]) * (prompt + completion)
        tokens += learned
        if engine.shape:
            flops += training_flops(engine.shape, int(learned), frozen_weights=True)
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
