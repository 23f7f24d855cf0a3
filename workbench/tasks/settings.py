"""A task's `Config` from text: command-line arguments, or the values of a small YAML file."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from workbench.errors import UserError

T = TypeVar("T")


def build(task: str, config: type[T], values: Mapping[str, Any]) -> T:
    """A `Config` of a task from its arguments; what is not given keeps its default.

    A Config with the field `options` takes every argument that it has no field for in there, as (name, text)
    pairs, and checks them itself.

    Raises:
        UserError: an argument that does not exist, has the wrong type, is out of range or is missing.
    """
    hints = get_type_hints(config)
    known = [f for f in fields(config) if f.name != "options"]  # type: ignore[arg-type]
    names = [f.name for f in known]
    given = {name: convert(task, name, values[name], hints[name]) for name in names if name in values}
    others = {name: str(value) for name, value in values.items() if name not in names}
    if "options" in hints:
        given["options"] = tuple(sorted(others.items()))
    elif others:
        raise unknown_argument(task, min(others), names)
    missing = [f.name for f in known if f.default is MISSING and f.name not in given]
    if missing:
        raise UserError(f"The task {task!r} needs the argument {missing[0]!r}: {missing[0]}=…")
    return config(**given)


def unknown_argument(task: str, name: str, known: list[str]) -> UserError:
    """The error for an argument that a task does not have: the nearest one that it has, then all of them."""
    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"The task {task!r} has no argument {name!r}.{guess} It has: {', '.join(known)}.")


def convert(task: str, name: str, value: Any, hint: Any) -> Any:
    """One argument as its field's type; text is parsed, a value from YAML must already be of the type.

    Raises:
        UserError: the value is not of the type.
    """
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # `X | None`
        return convert(task, name, value, next(c for c in choices if c is not type(None)))
    if origin is Literal:
        if value in choices:
            return value
        raise UserError(f"{task}: {name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")
    if origin is tuple:  # tuple[str, ...]
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return tuple(item.strip() for item in items)
        raise UserError(f"{task}: {name} is {value!r}; it must be texts, separated by commas.")
    if hint is bool and value in ("true", "false"):
        return value == "true"
    try:
        if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
            return value
        if hint in (int, float) and isinstance(value, (str, int)) and not isinstance(value, bool):
            number = hint(value)
            if math.isfinite(number):
                return number
    except (ValueError, OverflowError):
        pass
    kind = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[hint]
    raise UserError(f"{task}: {name} is {value!r}; it must be {kind}.")


def read_yaml(path: str) -> dict[str, Any]:
    """The arguments in a task's YAML file; its `path` and `function` are relative to that file's folder.

    Raises:
        UserError: the file does not exist, is not UTF-8 YAML, or is no mapping of names to values.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"There is no task file {path!r}.")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML in UTF-8: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path} must hold lines of the form `name: value`.")
    for name in ("path", "function"):
        if isinstance(values.get(name), str):
            values[name] = str(file.parent / values[name])
    return values
