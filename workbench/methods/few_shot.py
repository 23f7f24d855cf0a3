"""Few-shot prompting: exemplars from the practice split in the prompt slot; model and decode stay as they are.

`random` and `balanced` show the same exemplars to every question; `bm25`, `embedding` and `sentence-transformer`
show each question its nearest neighbours (KATE, Liu et al. 2021, arXiv 2101.06804; the paper's vectors are
those of sentence encoders, which `sentence-transformer` takes).
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
        exemplars: random; balanced (equally many of each label); or nearest neighbours: bm25 (words),
            embedding (the model's own states), sentence-transformer (an encoder's vectors).
        encoder: of sentence-transformer: a folder or a Hub id.
        order: of nearest neighbours, or seeded for any exemplars; random and balanced ones stand as they were
            drawn otherwise.
        order_seed: which shuffle, where the order is seeded: one a question for neighbours, else one for all.
        pool: how many practice examples exemplars are taken from; by default all.
        exemplar_seed: which random or balanced exemplars, in which order.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    shots: int = 4
    exemplars: Literal["random", "balanced", "bm25", "embedding", "sentence-transformer"] = "random"
    encoder: str | None = None
    order: Order = Order.NEAREST_FIRST
    order_seed: int = 0
    pool: int | None = None
    exemplar_seed: int = 0

    def __post_init__(self) -> None:
        check_range("shots", self.shots, 1, 1000)
        if self.pool is not None:
            check_range("pool", self.pool, 1, 10**9)
        check_range("exemplar_seed", self.exemplar_seed, 0, 2**63 - 1)
        check_range("order_seed", self.order_seed, 0, 2**63 - 1)


def adapt(system: System, task: Task, config: Config) -> System:
    """The system with exemplars in its prompt.

    Raises:
        UserError: the practice split has fewer examples than asked for or no labels to balance, or an encoder
            is missing or not used.
    """
    pool = task.practice[: config.pool]
    check_range("shots", config.shots, 1, len(pool))
    if (config.encoder is None) == (config.exemplars == "sentence-transformer"):
        raise UserError(
            "--exemplars sentence-transformer needs --encoder (a folder or a Hub id); other exemplars take none."
        )
    # What is not used stays out of the System, whose hash names it.
    order_seed = config.order_seed if config.order is Order.SEEDED else 0
    if config.exemplars not in ("random", "balanced"):
        selection = Selection(config.exemplars)
        shots = Shots(pool, config.shots, selection, config.order, order_seed, config.encoder)
    else:
        rng = random.Random(config.exemplar_seed)
        picked = (
            rng.sample(pool, config.shots) if config.exemplars == "random" else _balanced(task, pool, config, rng)
        )
        order = config.order if config.order is Order.SEEDED else Order.NEAREST_FIRST
        shots = Shots(tuple(picked), config.shots, order=order, order_seed=order_seed)
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
