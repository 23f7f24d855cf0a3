"""The tasks by name. To add one: a file with a frozen `Config` and `load(config)`, and a line here."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

from workbench.errors import unknown_name
from workbench.tasks.base import Task
from workbench.tasks.settings import build, read_yaml

TASKS = {
    "arithmetic": "workbench.tasks.arithmetic",
    "gsm8k": "workbench.tasks.gsm8k",
    "phrasebank": "workbench.tasks.phrasebank",
    "following": "workbench.tasks.following",
    "file": "workbench.tasks.file",
    "gym": "workbench.tasks.gym",
}


def task_names() -> tuple[str, ...]:
    """The names of all tasks, in the order of a listing."""
    return tuple(TASKS)


def _module(name: str) -> Any:
    if name not in TASKS:
        raise unknown_name("task", name, TASKS, "A name ending in .yaml is a file that describes your own task.")
    return import_module(TASKS[name])


def load_task(name: str, arguments: Mapping[str, str] | None = None) -> Task:
    """A task by its name, with the given arguments in place of its defaults.

    Args:
        name: one of `task_names()`, or the path of a .yaml file that describes a `file` task.
        arguments: the task's `Config` fields as text, as on a command line.

    Raises:
        UserError: no such task or argument, an argument of the wrong type or out of range, bad data.
    """
    values: dict[str, Any] = dict(arguments or {})
    if name.endswith((".yaml", ".yml")):
        name, values = "file", read_yaml(name) | values
    module = _module(name)
    task: Task = module.load(build(name, module.Config, values))
    return task


def describe(name: str) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """A task's one-line summary, and its arguments as (name, type, default); a required one's default is "".

    Raises:
        UserError: there is no such task.
    """
    module = _module(name)
    hints = get_type_hints(module.Config)
    arguments = tuple(
        (f.name, _spelled(hints[f.name]), "" if f.default is MISSING else _default(f.default))
        for f in fields(module.Config)
        if f.name != "options"
    )
    return (module.__doc__ or "").partition("\n")[0], arguments


def _default(value: object) -> str:
    """A default as it would be typed."""
    return ",".join(value) or "()" if isinstance(value, tuple) else str(value)


def _spelled(hint: Any) -> str:
    """A type as a listing shows it."""
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    if get_origin(hint) is tuple:
        return "a,b,…"
    return hint.__name__ if isinstance(hint, type) else str(hint)
