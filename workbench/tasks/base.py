"""What a task is: examples in three splits, and the grader that decides what a right answer is.

Methods get `practice` and `dev`. The third split, `test`, is behind `open_test`, which only
`workbench/harness.py` may name; a test of the imports holds that.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import UserError, check_range
from workbench.identity import short_hash
from workbench.types import Example


@dataclass(frozen=True)
class Grade:
    """A verdict on one text.

    Attributes:
        answer: found in it; None where there is none.
        correct: whether it is right.
        checked: False where the check had to be killed: the text may be right.
    """

    answer: str | None
    correct: bool
    checked: bool = True


@dataclass(frozen=True)
class Task:
    """A task, loaded.

    Attributes:
        name: its name in the registry.
        settings: what it was loaded with, as JSON data, without paths.
        practice, dev: the examples that methods may use.
        grade: the grader. Equal answers come back as equal strings, so that votes can be counted.
        prompt: name of the prompt used unless another is asked for.
        labels: the classes, where the task is a classification.
        max_tokens: the longest answer that is waited for, unless the user says otherwise.
        kind: the variable of an example that says which kind of question it is, where kinds are told apart.
    """

    name: str
    settings: Mapping[str, Any]
    practice: tuple[Example, ...]
    dev: tuple[Example, ...]
    _test: tuple[Example, ...] = field(repr=False)
    grade: Callable[[str, Example], Grade] = field(repr=False, compare=False)
    prompt: str
    labels: tuple[str, ...] = ()
    max_tokens: int = 256
    kind: str | None = None

    @property
    def hash(self) -> str:
        """Hash of the settings and of every example (inputs and targets) in every split."""
        parts = {
            split: [(e.id, e.target) for e in examples]
            for split, examples in (("practice", self.practice), ("dev", self.dev), ("test", self._test))
        }
        return short_hash({"name": self.name, "settings": self.settings, **parts})


def make_task(
    name: str,
    *,
    settings: Mapping[str, Any],
    splits: Mapping[str, tuple[Example, ...]],
    grade: Callable[[str, Example], Grade],
    prompt: str,
    labels: tuple[str, ...] = (),
    max_tokens: int = 256,
    kind: str | None = None,
) -> Task:
    """A Task from its three splits, so that a task's own file need not name the closed one.

    Raises:
        UserError: a split is empty.
    """
    for split in ("practice", "dev", "test"):
        if not splits[split]:
            raise UserError(f"The task {name!r} has no question in its {split} split; it needs more data.")
    opened = (splits["practice"], splits["dev"], splits["test"])
    return Task(name, settings, *opened, grade, prompt, labels, max_tokens, kind)


def take(
    splits: Mapping[str, tuple[Example, ...]], practice: int | None, dev: int | None, test: int | None
) -> dict[str, tuple[Example, ...]]:
    """The first so many examples of each split; None takes all.

    Raises:
        UserError: a size is out of range, or more than the split holds.
    """
    taken = {}
    for name, size in (("practice", practice), ("dev", dev), ("test", test)):
        if size is not None:
            check_range(name, size, 1, len(splits[name]))
        taken[name] = splits[name][:size]
    return taken


def open_test(task: Task) -> tuple[Example, ...]:
    """The test split. Only the harness calls this: whatever else looked at it would tune on it."""
    return task._test


def split_of(example: Example, practice: float = 0.6, dev: float = 0.15) -> str:
    """The split an example belongs to, by the hash of its content: one split in every variant of the data."""
    position = int.from_bytes(hashlib.sha256(f"split:{example.id}".encode()).digest()[:8], "big") / 2**64
    if position < practice:
        return "practice"
    return "dev" if position < practice + dev else "test"


def split_examples(examples: Iterable[Example]) -> dict[str, tuple[Example, ...]]:
    """Examples by split, each split in the order of the examples' ids, so that its first n are a fair sample.

    Raises:
        UserError: two examples ask the same question; with different answers it says so.
    """
    seen: dict[str, Example] = {}
    for example in examples:
        other = seen.setdefault(example.id, example)
        if other is not example:
            how = "twice" if other.target == example.target else "twice with different answers"
            raise UserError(f"The question {example.input[:80]!r} is in the data {how}.")
    ordered = sorted(seen.values(), key=lambda e: e.id)
    return {name: tuple(e for e in ordered if split_of(e) == name) for name in ("practice", "dev", "test")}
