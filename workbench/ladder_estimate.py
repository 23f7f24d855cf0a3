"""What a ladder will cost at most, before it starts."""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.cost import inference_flops, training_flops
from workbench.decodes import LONGEST
from workbench.harness import evaluate, questions_of
from workbench.methods import prompt_search
from workbench.methods.dpo import Config as DpoConfig
from workbench.methods.grpo import Config as GrpoConfig
from workbench.methods.reward_model import Config as RewardConfig
from workbench.methods.self_improve import Config as SelfImproveConfig
from workbench.preferring.losses import LOSSES
from workbench.preferring.pairs import read_pairs
from workbench.report import duration, quantity
from workbench.rungs import RUNGS, Config
from workbench.session import Session
from workbench.store import Store
from workbench.training.config import Training

_PROBED = 16  # practice questions that the estimate is measured on


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
        n = config.vote.n if slots.vote or slots.scored else 1
        read = prompt * (1 + (config.few_shot.shots if slots.exemplars else 0))
        written = LONGEST if slots.steps else completion
        tokens += questions * (read + n * written)
        if engine.shape:
            passes = 2 if slots.steered else 1  # with the adapter and without it
            flops += passes * questions * inference_flops(engine.shape, read, written, samples=n)
    tuned = {how for name in names if (how := "lora" if RUNGS[name].steered else RUNGS[name].tuned)}
    settings = [(how, config.tuning(how)) for how in sorted(tuned)]
    if any(RUNGS[name].scored for name in names):
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
