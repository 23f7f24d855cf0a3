"""What a ladder will cost at most, before it starts."""

import tempfile
import time
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
from workbench.report import duration, quantity
from workbench.rungs import RUNGS, Config
from workbench.session import Session
from workbench.store import Store
from workbench.training.config import Training

_PROBED = 16  # practice questions that the estimate is measured on


@dataclass(frozen=True)
class Work:
    """What a way of tuning does at most: questions sampled, samples of each, examples learned."""

    questions: int
    samples: int
    learned: int


def work(settings: object, practice: int) -> Work:
    """What a method's settings come to, on a practice split of so many examples."""
    if isinstance(settings, SelfImproveConfig):
        asked = min(practice, settings.practice_questions or practice)
        learned = settings.rounds * _passes(settings.lora.training, asked * settings.paths.n)
        return Work(settings.rounds * asked, settings.paths.n, learned)
    if isinstance(settings, GrpoConfig):
        asked = _passes(settings.lora.training, practice)
        return Work(asked, settings.num_generations, asked * settings.num_generations)
    if isinstance(settings, (DpoConfig, RewardConfig)):
        training, pairs = settings.lora.training, settings.pairs
        asked = min(practice, training.examples or practice)
        # Both answers of each pair, and as often again for the reference.
        learned = (_passes(training, asked) + asked) * 2 * pairs.pairs_per_question
        return Work(asked if pairs.pairs is None else 0, pairs.samples, learned)
    training = settings.training  # type: ignore[attr-defined]
    return Work(0, 0, _passes(training, practice))


def _passes(training: Training, examples: int) -> int:
    """Examples that a training passes over, of so many there are."""
    if training.steps:
        return training.steps * training.batch_size
    return training.epochs * min(examples, training.examples or examples)


def estimate(session: Session, names: Sequence[str], config: Config) -> str:
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
        n = config.vote.n if slots.vote or slots.scored else 1
        read = prompt * (1 + (config.few_shot.shots if slots.exemplars else 0))
        written = LONGEST if slots.steps else completion
        tokens += questions * (read + n * written)
        if engine.shape:
            flops += questions * inference_flops(engine.shape, read, written, samples=n)
    tuned = {how for name in names if (how := RUNGS[name].tuned)}
    settings = [(how, config.tuning(how)) for how in sorted(tuned)]
    if any(RUNGS[name].scored for name in names):
        settings.append(("lora", config.best_of_n))
    for how, setting in settings:
        todo = work(setting, len(task.practice))
        tokens += todo.questions * (prompt + todo.samples * completion) + todo.learned * (prompt + completion)
        if engine.shape:
            flops += todo.questions * inference_flops(engine.shape, prompt, completion, samples=todo.samples)
            learned = todo.learned * (prompt + completion)
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
