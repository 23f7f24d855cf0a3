"""Sixteen samples a question: `generate(num_return_sequences=16)` of transformers, and the workbench's engine.

Both draw from the same bfloat16 weights at the same temperature without top-k or top-p. Their random numbers
differ, so what is compared is whether the answers are alike as a whole: mean length and accuracy.
"""

import math
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.benchmarks.table import DATA, Row, Skip
from workbench.decodes import Sampling
from workbench.engines.encode import Encoder
from workbench.engines.hf import HfEngine
from workbench.models import EMBEDDED, load_tokenizer, model_folder
from workbench.prompts import load_prompt, render
from workbench.tasks import load_task
from workbench.tasks.base import Task
from workbench.types import Example, Model, Request

FLOOR = 1.5
SAMPLES = 16
TEMPERATURE = 0.7
QUESTIONS_PER_BATCH = (1, 4, 8)
PROBE_TOKENS = 24  # enough to tell which of them is fastest
STANDARD_ERRORS = 4.0  # a difference above this happens by chance once in 16,000 comparisons


@dataclass
class Side:
    """What one side drew: seconds, and each sample's length and correctness by question id."""

    seconds: float = 0.0
    lengths: dict[str, list[int]] = field(default_factory=dict)
    correct: dict[str, list[bool]] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        """Generated tokens a second; padding after the end is not counted."""
        return sum(map(sum, self.lengths.values())) / self.seconds


def gsm8k(quick: bool = False) -> list[Row]:
    """Tokens a second of both where answers are long."""
    folder = DATA / "gsm8k"
    if not folder.is_dir():
        raise Skip(f"the data set is not at {folder}")
    task = load_task("gsm8k", {"path": str(folder)})
    return [_compare(task, 4 if quick else 8, 48 if quick else 128)]


def arithmetic(quick: bool = False) -> list[Row]:
    """Tokens a second of both where answers are short."""
    task = load_task("arithmetic")
    return [_compare(task, 8 if quick else 48, task.max_tokens)]


def _compare(task: Task, questions: int, max_tokens: int) -> Row:
    model = AutoModelForCausalLM.from_pretrained(model_folder(EMBEDDED), dtype=torch.bfloat16).eval()
    engine = HfEngine(Model(EMBEDDED), dtype="bfloat16", device="cpu")
    sampling = Sampling(temperature=TEMPERATURE, max_tokens=max_tokens)
    examples = task.dev[:questions]
    probe = replace(sampling, max_tokens=min(max_tokens, PROBE_TOKENS))
    _by_generate(model, task, examples[:1], probe, 1)  # the first call of anything is slower
    _by_engine(engine, task, examples[:1], probe)
    per_batch = max(
        QUESTIONS_PER_BATCH, key=lambda count: _by_generate(model, task, examples[:8], probe, count).speed
    )
    # In turns over halves of the questions, so that a change of the machine's speed meets both sides.
    theirs, ours = Side(), Side()
    half = (questions + 1) // 2
    for part in (examples[:half], examples[half:]):
        _add(theirs, _by_generate(model, task, part, sampling, per_batch))
        _add(ours, _by_engine(engine, task, part, sampling))
    engine.close()
    ratio = ours.speed / theirs.speed
    length = _difference(ours.lengths, theirs.lengths)
    accuracy = _difference(ours.correct, theirs.correct)
    return Row(
        what=f"{SAMPLES} samples of {questions} {task.name} questions, at most {max_tokens} tokens, bfloat16",
        baseline=f"transformers `generate` ({per_batch} questions a batch): {theirs.speed:.0f} tokens/s",
        workbench=f"{ours.speed:.0f} tokens/s",
        result=f"{ratio:.1f}×",
        floor=f"≥ {FLOOR:g}×",
        checked=(
            f"mean length {_mean(ours.lengths):.1f} against {_mean(theirs.lengths):.1f} tokens "
            f"(z = {length:.1f}), accuracy {_mean(ours.correct):.1%} against {_mean(theirs.correct):.1%} "
            f"(z = {accuracy:.1f})"
        ),
        passed=ratio >= FLOOR and max(abs(length), abs(accuracy)) <= STANDARD_ERRORS,
    )


def _request(task: Task, example: Example) -> Request:
    return Request(example.id, render(load_prompt(task.prompt), example), tuple(range(SAMPLES)))


def _by_generate(model: Any, task: Task, examples: tuple[Example, ...], sampling: Sampling, count: int) -> Side:
    """Plain transformers: `count` questions a batch, in the order they come, padded on the left."""
    side = Side()
    torch.manual_seed(0)
    encoder = Encoder(load_tokenizer(Model(EMBEDDED)))
    end = model.generation_config.eos_token_id
    started = time.perf_counter()
    drawn = []
    for start in range(0, len(examples), count):
        chosen = examples[start : start + count]
        prompts = [encoder.encode(_request(task, example)) for example in chosen]
        width = max(map(len, prompts))
        ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=sampling.temperature, top_k=0,
            top_p=1.0, num_return_sequences=SAMPLES, max_new_tokens=sampling.max_tokens, pad_token_id=end,
        )[:, width:].tolist()  # fmt: skip
        for i, tokens in enumerate(out):
            kept = tokens[: tokens.index(end) + 1] if end in tokens else tokens
            drawn.append((chosen[i // SAMPLES], encoder.decode(kept), len(kept)))
    side.seconds = time.perf_counter() - started
    for example, text, length in drawn:
        side.lengths.setdefault(example.id, []).append(length)
        side.correct.setdefault(example.id, []).append(task.grade(text, example).correct)
    print(f"  generate, {count} questions a batch: {side.speed:.0f} tokens/s", file=sys.stderr, flush=True)
    return side


def _by_engine(engine: HfEngine, task: Task, examples: tuple[Example, ...], sampling: Sampling) -> Side:
    side = Side()
    started = time.perf_counter()
    requests = [_request(task, example) for example in examples]
    drawn = [item for batch in engine.sample(requests, sampling) for item in batch]
    side.seconds = time.perf_counter() - started
    by_id = {example.id: example for example in examples}
    for id, completion in drawn:
        side.lengths.setdefault(id, []).append(completion.completion_tokens)
        side.correct.setdefault(id, []).append(task.grade(completion.text, by_id[id]).correct)
    print(f"  workbench: {side.speed:.0f} tokens/s", file=sys.stderr, flush=True)
    return side


def _add(total: Side, part: Side) -> None:
    total.seconds += part.seconds
    total.lengths |= part.lengths
    total.correct |= part.correct


def _mean(values: dict[str, list[Any]]) -> float:
    return float(np.mean([np.mean(v) for v in values.values()]))


def _difference(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> float:
    """Difference of the two means in standard errors. Samples of one question are independent given it."""
    assert first.keys() == second.keys(), "the two sides answered different questions"
    assert all(len(v) == SAMPLES for v in [*first.values(), *second.values()])
    variance = sum(np.var(v, ddof=1) / len(v) for side in (first, second) for v in side.values()) / len(first) ** 2
    apart = _mean(first) - _mean(second)
    return 0.0 if apart == 0 else apart / math.sqrt(variance) if variance else math.inf
