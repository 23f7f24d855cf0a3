"""Which examples an update learns from: the same ones however often a training is interrupted."""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol

from workbench.training.config import Training
from workbench.training.objective import Item


class Source(Protocol):
    """Batches in an order that the seed fixes.

    Attributes:
        updates: how many batches there are in all.
    """

    updates: int

    def batches(self, position: int = 0) -> Iterator[tuple[list[Item], int]]:
        """Batches of `batch_size` examples from a position on, each with the position behind it.

        A position is a number that only the source understands; 0 is the beginning.
        """


class Examples:
    """Examples that are in memory, shuffled anew for every epoch; a position counts examples.

    An epoch's last batch may be smaller.
    """

    def __init__(self, examples: Sequence[Item], training: Training) -> None:
        self._examples = examples
        self._size = training.batch_size
        self._seed = training.training_seed
        self.updates = training.steps or training.epochs * -(-len(examples) // training.batch_size)

    def batches(self, position: int = 0) -> Iterator[tuple[list[Item], int]]:
        """As in `Source`; it never ends."""
        count = len(self._examples)
        while True:
            epoch, within = divmod(position, count)
            order = list(range(count))
            random.Random(f"{self._seed}:{epoch}").shuffle(order)
            for start in range(within, count, self._size):
                chosen = order[start : start + self._size]
                position += len(chosen)
                yield [self._examples[i] for i in chosen], position
