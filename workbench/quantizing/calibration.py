"""What a scheme is calibrated on: a task's practice questions with their right answers, as tuning reads them."""

from dataclasses import dataclass
from typing import Any

from workbench.engines.encode import Encoder
from workbench.errors import UserError, check_range
from workbench.identity import short_hash
from workbench.models import load_tokenizer
from workbench.tasks.base import Task
from workbench.training.data import encode_example
from workbench.types import Model, Prompt

FEWEST = 16  # examples; the statistics of fewer say nothing of a layer's inputs


@dataclass(frozen=True)
class Calibration:
    """Token ids of each example, and what the result's record tells of them."""

    rows: tuple[tuple[int, ...], ...]
    record: dict[str, Any]


def calibration(model: Model, task: Task, prompt: Prompt, samples: int) -> Calibration:
    """The first examples of a task's practice split, each under the prompt and with its right answer.

    Args:
        model: whose tokenizer and chat template are used.
        task: of which dev and test are not looked at.
        prompt: which asks the questions and shows how an answer looks.
        samples: how many examples.

    Raises:
        UserError: the split has fewer examples, or the prompt shows no answer or does not fit the model.
    """
    check_range("samples", samples, FEWEST, 10**6)
    if len(task.practice) < samples:
        raise UserError(
            f"The practice split of {task.name} has {len(task.practice)} examples, and samples is {samples}. "
            + (
                f"Calibrate on them all: --samples {len(task.practice)}."
                if len(task.practice) >= FEWEST
                else f"Calibration takes {FEWEST} at least: name another --task."
            )
        )
    encoder = Encoder(load_tokenizer(model))
    rows = tuple(tuple(encode_example(encoder, prompt, example).ids) for example in task.practice[:samples])
    record = {
        "task": task.name,
        "settings": dict(task.settings),
        "task_hash": task.hash,
        "split": "practice",
        "prompt": prompt.name,
        "prompt_hash": prompt.file_hash,
        "samples": samples,
        "tokens": sum(map(len, rows)),
        "hash": short_hash(rows),
    }
    return Calibration(rows, record)
