"""Few-shot prompting: exemplars from the practice split in the prompt slot; model and decode stay as they are.

`random` and `balanced` show the same exemplars to every question; `bm25` and `embedding` show each question its
nearest neighbours (KATE, Liu et al. 2021, arXiv 2101.06804).
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from workbench.errors import UserError, check_range
from workbench.tasks.base import Task
from workbench.types import Example, Order, Selection, Shots, System


@dataclass(frozen=True)
class Config:
    """Which exemplars.

    Attributes:
        shots: exemplars a question.
        exemplars: random; balanced (equally many of each label); bm25 or embedding (nearest neighbours).
        order: of nearest neighbours; random and balanced ones are shuffled by the seed.
        pool: how many practice examples neighbours are sought among; by default all.
        exemplar_seed: which random or balanced exemplars, in which order.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    shots: int = 4
    exemplars: Literal["random", "balanced", "bm25", "embedding"] = "random"
    order: Order = Order.NEAREST_FIRST
    pool: int | None = None
    exemplar_seed: int = 0

    def __post_init__(self) -> None:
        check_range("shots", self.shots, 1, 1000)
        if self.pool is not None:
            check_range("pool", self.pool, 1, 10**9)
        check_range("exemplar_seed", self.exemplar_seed, 0, 2**63 - 1)


def adapt(system: System, task: Task, config: Config) -> System:
    """The system with exemplars in its prompt.

    Raises:
        UserError: the practice split has fewer examples than asked for, or no labels to balance.
    """
    pool = task.practice[: config.pool]
    check_range("shots", config.shots, 1, len(pool))
    if config.exemplars in ("bm25", "embedding"):
        selection = Selection(config.exemplars)
        shots = Shots(pool, config.shots, selection, config.order)
    else:
        rng = random.Random(config.exemplar_seed)
        picked = (
            rng.sample(pool, config.shots) if config.exemplars == "random" else _balanced(task, pool, config, rng)
        )
        shots = Shots(tuple(picked), config.shots)
    return replace(system, prompt=replace(system.prompt, shots=shots))


def _balanced(task: Task, pool: tuple[Example, ...], config: Config, rng: random.Random) -> list[Example]:
    """Equally many of each label; where the shots do not divide evenly, the seed says who gets one more."""
    if not task.labels:
        raise UserError(f"The task {task.name!r} has no labels to balance; use --exemplars random.")
    labels = list(task.labels)
    rng.shuffle(labels)
    picked: list[Example] = []
    for place, label in enumerate(labels):
        count = config.shots // len(labels) + (place < config.shots % len(labels))
        of_label = [example for example in pool if example.target == label]
        if len(of_label) < count:
            raise UserError(
                f"The practice split has only {len(of_label)} examples of {label!r}; {count} are needed."
            )
        picked += rng.sample(of_label, count)
    rng.shuffle(picked)
    return picked
