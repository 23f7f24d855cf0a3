"""What a ladder will cost at most, before it starts."""

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.cost import inference_flops, training_flops
from workbench.decodes import LONGEST, BestOfN, EarlyMajority
from workbench.decoding.early import first_round
from workbench.decoding.scorers import JUDGE_PROMPT
from workbench.engines.base import Engine
from workbench.harness import evaluate, questions_of
from workbench.methods import prompt_search
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.reward_model import Config as RewardConfig
from workbench.methods.self_improve import Config as SelfImproveConfig
from workbench.preferring.losses import LOSSES
from workbench.preferring.pairs import read_pairs
from workbench.prompts import load_prompt, render
from workbench.report import duration, quantity
from workbench.rungs import RUNGS, Config, Drawing
from workbench.session import Session
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision
from workbench.store import Store
from workbench.training.config import Training
from workbench.types import Example, Request, System

_PROBED = 16  # practice questions that the estimate is measured on
_STEP = 16  # tokens of a step of a search, whose steps end where the model ends them


@dataclass(frozen=True)
class Work:
    """What a way of tuning does at most.

    Attributes:
        questions: that are sampled.
        samples: of each.
        learned: examples that are learned, each pass counted.
        read: examples that a model only reads: a reference's passes, and pairs that are held out.
    """

    questions: int
    samples: int
    learned: int
    read: int = 0


def work(settings: object, practice: int, dev: int) -> Work:
    """What a method's settings come to, on practice and dev splits of so many examples.

    Raises:
        UserError: a file of pairs cannot be read.
    """
    if isinstance(settings, SelfImproveConfig):
        asked = min(practice, settings.practice_questions or practice)
        learned = settings.rounds * _passes(settings.lora.training, asked * settings.paths.n)
        return Work(settings.rounds * asked, settings.paths.n, learned)
    if isinstance(settings, GrpoConfig):
        asked = _passes(settings.lora.training, practice)
        answers = asked * settings.num_generations
        return Work(asked, settings.num_generations, answers, answers)
    if isinstance(settings, (DpoConfig, RewardConfig)):
        return _work_on_pairs(settings, practice, dev)
    training = settings.training  # type: ignore[attr-defined]
    return Work(0, 0, _passes(training, practice))


def _work_on_pairs(settings: DpoConfig | RewardConfig, practice: int, dev: int) -> Work:
    training, given = settings.lora.training, settings.pairs
    questions = held = 0
    if given.pairs is None:
        questions = min(practice, training.examples or practice)
        sizes = [given.pairs_per_question] * questions
        if isinstance(settings, RewardConfig):
            questions, held = questions + dev, dev * given.pairs_per_question
    else:
        sizes = list(Counter(pair.group for pair in read_pairs(given.pairs)).values())
        held = sum(sizes) if isinstance(settings, RewardConfig) else 0
        sizes = sizes[: training.examples]
    pairs = training.steps * training.batch_size * max(sizes) if training.steps else training.epochs * sum(sizes)
    if isinstance(settings, RewardConfig):
        return Work(questions, given.samples, 2 * pairs, 2 * held)
    rows = 4 if LOSSES[settings.loss].mismatched else 2  # both answers of a pair, and as many of another prompt
    return Work(questions, given.samples, rows * pairs, rows * sum(sizes))


def _passes(training: Training, examples: int) -> int:
    """Examples that a training passes over, of so many there are."""
    if training.steps:
        return training.steps * training.batch_size
    return training.epochs * min(examples, training.examples or examples)


@dataclass(frozen=True)
class Pass:
    """What a question is read and written for, so many times.

    Attributes:
        read: tokens of the prompt.
        written: tokens of each sample.
        samples: that share the prompt.
        times: how often.
    """

    read: float
    written: float
    samples: int = 1
    times: float = 1


def passes(decode: Drawing | None, read: float, written: float, judging: float) -> list[Pass]:
    """What a decode does for one question, at most; a search's steps are taken to have `_STEP` tokens.

    Args:
        decode: how answers come about; None is one answer.
        read: tokens of the question's prompt.
        written: tokens of an answer.
        judging: tokens of a judge's prompt beside the question and the answer.
    """
    if isinstance(decode, BeamSearch):
        steps = math.ceil(written / min(_STEP, decode.step_tokens))
        found = [Pass(read, written / steps, decode.beams)]
        width = decode.beams // decode.keep
        for step in range(1, steps):
            found.append(Pass(read + written * step / steps, written / steps, width, decode.keep))
        if decode.scorer != "logprob":
            found.append(Pass(judging + read + written / 2, 0, times=decode.beams * steps))
        return found
    if isinstance(decode, Revision):
        said = decode.critique_tokens
        return [
            Pass(read, written),
            Pass(judging + read + written, said, times=decode.rounds),
            Pass(judging + read + written + said, written, times=decode.rounds),
        ]
    if isinstance(decode, BudgetForcing):
        return [Pass(read, decode.at_most + written), Pass(read + decode.at_most, 0, times=1 + decode.waits)]
    if decode is None:
        return [Pass(read, written)]
    found = [Pass(read, written, decode.n)]
    if isinstance(decode, EarlyMajority):
        again = math.ceil((decode.n - first_round(decode)) / decode.block)
        found.append(Pass(read, 0, times=again))
    if isinstance(decode, BestOfN) and decode.scorer == "judge":
        found.append(Pass(judging + read + written, 0, times=decode.n))
    elif isinstance(decode, BestOfN) and decode.scorer != "logprob":
        found.append(Pass(read, written, decode.n))
    return found


def _judge_tokens(engine: Engine, system: System) -> int:
    """Tokens of a judge's prompt about nothing."""
    nothing = Example.make("", "", variables={"answer": ""})
    messages = render(load_prompt(JUDGE_PROMPT), nothing)
    return engine.count_tokens([Request("", messages, style=system.prompt.style)])[0]


def estimate(session: Session, names: Sequence[str], config: Config) -> str:
    """What the ladder will cost at most: FLOPs from token counts, seconds at a speed measured here.

    The speed, and the length of prompts and answers, are those of the plain System on a few practice questions;
    larger batches are faster.
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
        read = prompt * (1 + (config.few_shot.shots if slots.exemplars else 0))
        written = LONGEST if slots.steps else completion
        models = 2 if slots.steered else 1  # with the adapter and without it
        for one in passes(config.decode(slots), read, written, _judge_tokens(engine, system)):
            tokens += questions * one.times * (one.read + one.samples * one.written)
            if engine.shape:
                asking = inference_flops(engine.shape, one.read, one.written, samples=one.samples)
                flops += models * questions * one.times * asking
    tuned = {how for name in names if (how := "lora" if RUNGS[name].steered else RUNGS[name].tuned)}
    settings = [(how, config.tuning(how)) for how in sorted(tuned)]
    if any(RUNGS[name].scorer == "reward-model" for name in names):
        settings.append(("lora", config.best_of_n))
    for how, setting in settings:
        todo = work(setting, len(task.practice), len(task.dev))
        tokens += todo.questions * (prompt + todo.samples * completion)
        tokens += (todo.learned + todo.read) * (prompt + completion)
        if engine.shape:
            flops += todo.questions * inference_flops(engine.shape, prompt, completion, samples=todo.samples)
            flops += todo.read * inference_flops(engine.shape, prompt + completion, 0)
            learned = todo.learned * (prompt + completion)
            frozen = how not in ("sft", "head") and getattr(setting, "weights", "lora") != "all"
            flops += training_flops(engine.shape, learned, frozen_weights=frozen)
    if any(RUNGS[name].steered for name in names):
        steering = config.proxy_tuning
        tried = len(set(steering.alphas)) * min(len(task.dev), steering.alpha_questions or len(task.dev))
        tokens += tried * (prompt + completion)
        if engine.shape:
            flops += 2 * tried * inference_flops(engine.shape, prompt, completion)
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
