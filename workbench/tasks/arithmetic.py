"""Arithmetic: a seeded, endless generator of small sums, with worked rationales. The default task.

It needs no data set, and its difficulty can be set so that a model of any size answers some questions right
and some wrong. Which split a question belongs to is fixed by the hash of its content, whatever the seed, so a
question that was practised is in no test.
"""

import operator
import random
from dataclasses import asdict, dataclass
from typing import Literal

from workbench.errors import UserError, check_range
from workbench.tasks.base import Task, make_task, split_of
from workbench.tasks.graders import grade_number
from workbench.types import Example

SIGNS = {"+": "+", "-": "-", "*": "×"}
WORDS = {"+": "plus", "-": "minus", "*": "times"}
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}

PATIENCE = 20_000  # draws in a row that bring nothing new, after which the settings count as used up


@dataclass(frozen=True)
class Config:
    """What is asked, and how much of it.

    Attributes:
        operations: one or more of + - * (the last is shown as ×); each is drawn equally often.
        terms: numbers in a question. × goes before + and -, as usual.
        largest_added, largest_subtracted, largest_factor: the largest operand of +, of - and of ×; a
            question's first number is bounded as the operation that follows it is. The smallest is 1.
        form: `expression` asks "What is 7 + 8?", `words` asks "What is 7 plus 8?".
        practice, dev, test: questions in each split.
        seed: another seed draws other questions; the first ones of a split do not depend on its size.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    operations: str = "+-*"
    terms: int = 2
    largest_added: int = 20
    largest_subtracted: int = 20
    largest_factor: int = 9
    form: Literal["expression", "words"] = "expression"
    practice: int = 400
    dev: int = 100
    test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.operations or not set(self.operations) <= set(SIGNS):
            raise UserError(f"operations is {self.operations!r}; it must be one or more of + - *, as in +-*.")
        check_range("terms", self.terms, 2, 20)
        for name in ("largest_added", "largest_subtracted", "largest_factor"):
            check_range(name, getattr(self, name), 1, 10**9)
        for name in ("practice", "dev", "test"):
            check_range(name, getattr(self, name), 1, 10**6)
        check_range("seed", self.seed, 0, 2**63 - 1)


def solve(numbers: list[int], operations: list[str]) -> tuple[int, list[str]]:
    """The value of an expression, and the steps to it: products first, then from left to right."""
    numbers, operations, steps = list(numbers), list(operations), list[str]()
    while operations:
        at = operations.index("*") if "*" in operations else 0
        sign, left, right = operations.pop(at), numbers[at], numbers.pop(at + 1)
        numbers[at] = APPLY[sign](left, right)
        steps.append(f"{left} {SIGNS[sign]} {right} = {numbers[at]}")
    return numbers[0], steps


def _draw(rng: random.Random, config: Config) -> Example:
    largest = {"+": config.largest_added, "-": config.largest_subtracted, "*": config.largest_factor}
    operations = [rng.choice(config.operations) for _ in range(config.terms - 1)]
    numbers = [rng.randint(1, largest[sign]) for sign in [operations[0], *operations]]
    value, steps = solve(numbers, operations)
    spelled = WORDS if config.form == "words" else SIGNS
    rest = "".join(f" {spelled[sign]} {n}" for sign, n in zip(operations, numbers[1:], strict=True))
    return Example.make(f"What is {numbers[0]}{rest}?", str(value), rationale=". ".join(steps))


def load(config: Config) -> Task:
    """Draw questions until every split has its size.

    Raises:
        UserError: the settings do not give that many different questions.
    """
    sizes = {"practice": config.practice, "dev": config.dev, "test": config.test}
    splits: dict[str, list[Example]] = {name: [] for name in sizes}
    rng = random.Random(config.seed)
    seen: set[str] = set()
    fruitless = 0
    while any(len(splits[name]) < size for name, size in sizes.items()):
        example = _draw(rng, config)
        split = split_of(example)
        if example.id in seen or len(splits[split]) == sizes[split]:
            fruitless += 1
            if fruitless > PATIENCE:
                short = next(name for name, size in sizes.items() if len(splits[name]) < size)
                raise UserError(
                    f"These settings give only {len(splits[short])} different questions for {short}, not "
                    f"{sizes[short]}. Ask for fewer, or raise largest_added, largest_subtracted, "
                    "largest_factor or terms."
                )
            continue
        fruitless = 0
        seen.add(example.id)
        splits[split].append(example)
    done = {name: tuple(examples) for name, examples in splits.items()}
    return make_task(
        "arithmetic",
        settings=asdict(config),
        splits=done,
        grade=grade_number,
        prompt="arithmetic",
        max_tokens=32,
    )
