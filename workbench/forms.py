"""Forms of Configs: from the texts of a form to the Config, and from the Config to its command line.

A form's values are texts by the fields' names. The Config's own checks decide; what they refuse is told by field.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from workbench.errors import UserError
from workbench.form_fields import Field, default_of, form_fields, hyphens, plain
from workbench.prompts import load_prompt
from workbench.run_folder import checked_name
from workbench.tasks import task_names


def texts(config: Any) -> dict[str, str]:
    """A Config as the texts of its form."""
    return {field.name: field.text(_get(config, field.path)) for field in form_fields(type(config))}


def read_form(config: type[Any], values: Mapping[str, str]) -> tuple[Any | None, dict[str, str]]:
    """The Config that the texts stand for, with defaults where there is none; or None and what is wrong.

    Returns:
        The Config or None, and a sentence for each field that is at fault; the name "" is the whole form.
    """
    known = {field.name: field for field in form_fields(config)}
    problems: dict[str, str] = {}
    if unknown := sorted(values.keys() - known.keys()):
        problems[""] = f"There is no field {unknown[0]!r}."
    found: dict[tuple[str, ...], Any] = {}
    for name, field in known.items():
        text = values.get(name)
        found[field.path] = field.default
        try:
            if field.required and not text:
                raise UserError("It must be given.")
            if text is not None and (field.required or text != field.text(field.default)):
                found[field.path] = field.value(text)
                _check_name(field, found[field.path])
        except UserError as error:
            problems[name] = str(error)
    if problems:
        return None, problems
    return _build(config, (), list(known.values()), found, problems), problems


def _build(
    config: type[Any],
    path: tuple[str, ...],
    known: Sequence[Field],
    found: Mapping[Any, Any],
    problems: dict[str, str],
) -> Any:
    """The dataclass at a path, or None where it or one in it refuses its values."""
    hints, values = get_type_hints(config), {}
    for field in fields(config):
        if not field.init:
            continue
        here = (*path, field.name)
        if here in found:
            values[field.name] = found[here]
        else:
            default = default_of(field)
            kind = type(default) if is_dataclass(default) else hints[field.name]
            values[field.name] = _build(kind, here, known, found, problems)
    if problems:
        return None
    try:
        return config(**values)
    except UserError as error:
        inside = [field for field in known if field.path[: len(path)] == path]
        problems[_at_fault(error, inside, found, len(path))] = str(error)
        return None


def _at_fault(error: UserError, inside: Sequence[Field], found: Mapping[Any, Any], depth: int) -> str:
    """The field that an error speaks of: whose value it quotes, else the nearest of those that it names first."""
    message = str(error)
    for field in inside:
        value = found[field.path]
        if value != field.default and any(repr(plain(one)) in message for one in _several(value)):
            return field.name
    best = (len(message) + 1, 0, "")
    for field in inside:
        name = hyphens(field.path[-1])
        match = re.search(rf"(?<![\w-])(?:--)?{re.escape(name)}(?![\w-])", hyphens(message))
        if match is not None:
            best = min(best, (match.start(), len(field.path) - depth, field.name))
    return best[2]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check_name(field: Field, value: Any) -> None:
    """Refuse names of runs, tasks and prompts that are none."""
    if value is None or field.positional:
        return
    if field.name == "name":
        checked_name(value)
    elif field.path[-1] == "task" and value not in task_names() and not value.endswith((".yaml", ".yml")):
        raise UserError(f"There is no task named {value!r}. There are: {', '.join(task_names())}.")
    elif field.path[-2:] == ("setup", "prompt"):
        load_prompt(value)


# --- from a Config to a command line ----------------------------------------------------------------


def arguments(config: Any) -> list[str]:
    """What a command line says after the recipe's name to give this Config: what differs from the defaults."""
    words: list[str] = []
    known = form_fields(type(config))
    given = [(field, _get(config, field.path)) for field in known if field.positional]
    while given and not given[-1][0].required and given[-1][1] == given[-1][0].default:
        given.pop()
    for field, value in given:
        words += map(plain, value) if field.kind == "list" else [plain(value)]
    for field in known:
        value = _get(config, field.path)
        if field.positional or (not field.required and value == field.default):
            continue
        flag = f"--{field.name}"
        if field.kind == "switch":
            head, dot, last = field.name.rpartition(".")
            words.append(flag if value else f"--{head}{dot}no-{last}")
        elif field.kind == "list":
            words += [flag, *map(plain, value)]
        else:  # with = a value cannot be taken for a flag
            text = plain(value)
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def command_line(recipe: str, config: Any) -> str:
    """The command that does what the form says, as a shell takes it."""
    return shlex.join(["workbench", recipe, *arguments(config)])


def from_arguments(config: type[Any], words: Sequence[str]) -> Any:
    """The Config that a command line gave a recipe.

    Raises:
        UserError: no such Config can be read from it.
    """
    import tyro

    try:
        return tyro.cli(config, args=list(words), config=(tyro.conf.EnumChoicesFromValues,), console_outputs=False)
    except SystemExit as error:
        raise UserError("Its command line cannot be read: it was made by another version.") from error


def _get(config: Any, path: Sequence[str]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config
