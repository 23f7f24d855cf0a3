"""A question from a task's dev split; none of the test split, and none of a file that a browser names."""

import random
import re
import shlex
from dataclasses import dataclass
from functools import lru_cache

from workbench.errors import UserError, check_range
from workbench.tasks import describe, load_task, task_names
from workbench.tasks.base import Task
from workbench.types import Example

LARGEST_SPLIT = 5000
_SIZES = ("practice", "dev", "test")
_MAX_SETTINGS = 500  # characters


@dataclass(frozen=True)
class Picked:
    """A question of a task.

    Attributes:
        task: the task.
        name, settings: as they were asked for.
        number: of the question in the dev split, from 1.
    """

    task: Task
    name: str
    settings: str
    number: int

    @property
    def example(self) -> Example:
        """The question, with its target."""
        return self.task.dev[self.number - 1]


def offered() -> list[str]:
    """The tasks whose questions can be picked: all but those that are a file or a data set of one's own."""
    return [name for name in task_names() if name not in ("file", "gym")]


def pick(name: object, settings: object, number: object) -> Picked:
    """A question of the dev split.

    Args:
        name: of the task.
        settings: name=value pairs with blanks between them, as of `--task-args`.
        number: of the question, from 1; None draws one.

    Raises:
        UserError: there is no such task, setting or question, or the task's data cannot be had.
    """
    if name not in offered():
        raise UserError(f"There is no such task here. There are: {', '.join(offered())}.")
    assert isinstance(name, str)
    text = settings if isinstance(settings, str) else ""
    task = _loaded(name, _arguments(name, text))
    if number is None:
        number = random.randrange(len(task.dev)) + 1
    if isinstance(number, float) and number.is_integer():  # a page sends 3.0
        number = int(number)
    check_range("the question's number", number, 1, len(task.dev))  # type: ignore[arg-type]
    if not isinstance(number, int):
        raise UserError(f"the question's number is {number!r}; it must be a whole number.")
    return Picked(task, name, " ".join(text.split()), number)


@lru_cache(maxsize=8)
def _loaded(name: str, arguments: tuple[tuple[str, str], ...]) -> Task:
    return load_task(name, dict(arguments))


def _arguments(name: str, settings: str) -> tuple[tuple[str, str], ...]:
    """The settings as pairs: none is a path, which would let a browser read this machine's files."""
    if len(settings) > _MAX_SETTINGS:
        raise UserError(f"The settings have {len(settings):,} characters; {_MAX_SETTINGS} are read.")
    allowed = [field for field, _, _ in describe(name)[1] if field != "path"]
    found: dict[str, str] = {}
    try:
        words = shlex.split(settings)
    except ValueError as error:
        raise UserError(f"The settings cannot be read: {error}. Write name=value name=value.") from None
    for word in words:
        field, equals, value = word.partition("=")
        if not equals or field not in allowed:
            raise UserError(f"{word!r} is no setting of {name} here. There are: {', '.join(allowed)}.")
        if field in _SIZES and not (re.fullmatch("[1-9][0-9]{0,3}", value) and int(value) <= LARGEST_SPLIT):
            raise UserError(f"{field} is {value!r}; it must be a whole number from 1 to {LARGEST_SPLIT:,} here.")
        found[field] = value
    return tuple(sorted(found.items()))
