"""The fields of a form that a Config dataclass comes to: their names, kinds, defaults, ranges and help.

A field is named as its flag is, `sft.learning-rate`. What a field's text may be is what tyro takes it for on a
command line, so that form and command line agree.
"""

import dataclasses
import inspect
import math
import re
import types
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from workbench.errors import OutOfRange, UserError
from workbench.inert import is_utf8

Kind = Literal["switch", "choice", "number", "text", "list"]

LONGEST = 20_000
"""Characters of one field's text."""

_NONE = type(None)
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "\\\\": "\\"}
_OUTSIDE = ("setup", "model", "forgetting", "labels", "beside", "paths")  # groups that are not the method's own
_WHERE = ("runs", "name", "overwrite", "quiet", "estimate-only")
_KNOWN = ("task", "model", "questions", "engine", "learning-rate", "epochs")
_SHORT = 6  # fields of a method that are shown before it is unfolded


@dataclass(frozen=True)
class Field:
    """One field of a form.

    Attributes:
        name: its flag without the dashes; a positional argument has its plain name.
        path: attributes from the Config down to it.
        kind: how it is filled in; a list has one value a line.
        parts: what a value may be, in the order in which tyro tries: types, or the values of a Literal or an Enum.
        optional: whether nothing (None) is a value.
        positional: whether its command line has no flag.
        default: its value in an untouched form; `dataclasses.MISSING` where it must be given.
        help: what the docstring says of it.
        group: what the docstring says of the dataclass that it is in.
        essential: whether a newcomer should see it.
        span: the range of a number, in words; empty where none is known.
    """

    name: str
    path: tuple[str, ...]
    kind: Kind
    parts: tuple[Any, ...]
    optional: bool
    positional: bool
    default: Any
    help: str
    group: str
    essential: bool
    span: str

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that stand for a value; for the kind `choice` there are no others."""
        return tuple(plain(part) for part in self.parts if not isinstance(part, type))

    def text(self, value: Any) -> str:
        """What the form shows for a value."""
        if value is dataclasses.MISSING or value is None:
            return ""
        return "\n".join(map(_escaped, value)) if self.kind == "list" else plain(value)

    def value(self, text: str) -> Any:
        """What a text stands for.

        Raises:
            UserError: nothing; the message says what is expected.
        """
        if len(text) > LONGEST:
            raise UserError(f"It has {len(text):,} characters; {LONGEST:,} can be taken.")
        if not is_utf8(text) or re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text.replace("\r\n", "\n")):
            raise UserError("It holds a control character or half a character, which no command line can take.")
        if self.kind == "list":
            lines = text.replace("\r\n", "\n").split("\n")
            return tuple(self._one(_unescaped(line)) for line in lines if line)
        if self.kind == "switch":
            if text not in ("true", "false"):
                raise UserError("It is true or false.")
            return text == "true"
        if self.optional and text in ("", "None"):
            return None
        if not text and (self.required or self.parts != (str,)):
            raise UserError("It must be given.")
        return self._one(text)

    def _one(self, text: str) -> Any:
        if text.startswith("-") and (self.positional or self.kind == "list") and not _is_number(text):
            raise UserError(f"{text!r} would be read as a flag: a value here cannot begin with -.")
        for part in self.parts:
            if not isinstance(part, type):
                if text == plain(part):
                    return part
            elif part in (str, Path):
                return part(text)
            elif (number := _number(part, text)) is not None:
                return number
        what = {int: "a whole number", float: "a number"}
        wanted = [*self.choices, *(what[part] for part in self.parts if part in what)]
        raise UserError(f"{text!r} is not {'one of: ' if len(wanted) > 1 else ''}{', '.join(wanted)}.")


# --- from a Config to its fields --------------------------------------------------------------------


def form_fields(config: type[Any]) -> tuple[Field, ...]:
    """All fields of a Config and of the Configs in it, in their order."""
    key: Any = config  # type[Any] is not Hashable to mypy
    return _all_fields(key)


@cache
def _all_fields(config: type[Any]) -> tuple[Field, ...]:
    return tuple(_fields(config, dataclasses.MISSING, (), "", ""))


def _fields(config: type[Any], instance: Any, path: tuple[str, ...], prefix: str, group: str) -> list[Field]:
    hints, helps = get_type_hints(config, include_extras=True), _attributes(config)
    group = group or (inspect.getdoc(config) or "").split("\n\n", maxsplit=1)[0]
    shown = 0
    found: list[Field] = []
    for field in fields(config):
        if not field.init:
            continue
        default = default_of(field) if instance is dataclasses.MISSING else getattr(instance, field.name)
        hint: Any = hints[field.name]
        marks: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        if is_dataclass(hint):
            flat = any(getattr(mark, "name", None) == "" for mark in marks)
            inner = prefix if flat else f"{prefix}{hyphens(field.name)}."
            kind: Any = type(default) if is_dataclass(default) else hint
            found += _fields(kind, default, (*path, field.name), inner, helps.get(field.name, ""))
            continue
        hint, optional = _without_none(hint)
        several = get_origin(hint) is tuple
        parts = _parts(get_args(hint)[0] if several else hint)
        name = prefix + hyphens(field.name)
        own = len(path) < 2 and not prefix and not (path and path[0] in _OUTSIDE) and name not in _WHERE
        shown += own
        found.append(
            Field(
                name=name,
                path=(*path, field.name),
                kind=_kind(parts, several),
                parts=parts,
                optional=optional,
                positional=any(mark is get_args(Positional[int])[1] for mark in marks),
                default=default,
                help=helps.get(field.name, ""),
                group=group,
                essential=(own and shown <= _SHORT) or name in _KNOWN or default is dataclasses.MISSING,
                span=_span(config, instance, field.name) if parts in ((int,), (float,)) and not several else "",
            )
        )
    return found


def default_of(field: Any) -> Any:
    """The default of a dataclass's field, `dataclasses.MISSING` where there is none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType) or _NONE not in get_args(hint):
        return hint, False
    rest = tuple(part for part in get_args(hint) if part is not _NONE)
    return (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007


def _parts(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(part for one in get_args(hint) for part in _parts(one))
    if get_origin(hint) is Literal:
        return get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(hint)
    if hint in (bool, int, float, str, Path):
        return (hint,)
    raise TypeError(f"A form has no field for {hint}.")


def _kind(parts: tuple[Any, ...], several: bool) -> Kind:
    if several:
        return "list"
    if parts == (bool,):
        return "switch"
    if not any(isinstance(part, type) for part in parts):
        return "choice"
    return "number" if parts in ((int,), (float,)) else "text"


def _span(config: type[Any], instance: Any, name: str) -> str:
    """The range that a Config tells when it refuses NaN."""
    try:
        if instance is dataclasses.MISSING:
            instance = config()
        dataclasses.replace(instance, **{name: math.nan})
    except OutOfRange as error:
        return error.span if error.field == name else ""
    except (UserError, TypeError, ValueError):  # it has no default, or its check is another
        pass
    return ""


def _attributes(config: type[Any]) -> dict[str, str]:
    """What docstrings say under `Attributes:`, a class's own words before those of its bases."""
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        _, _, rest = (inspect.cleandoc(kind.__doc__ or "")).partition("Attributes:\n")
        told = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
        for names, words in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {5,}.*)*)", told, re.MULTILINE):
            found |= {name.strip(): " ".join(words.split()) for name in names.split(",")}
    return found


def plain(value: Any) -> str:
    """A value as a form and a command line write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    return repr(value) if isinstance(value, float) else str(value)


def _number(kind: type[Any], text: str) -> Any:
    try:
        number = kind(text.strip())
        return number if math.isfinite(number) else None
    except (ValueError, OverflowError):  # a whole number may be too great for a float
        return None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text) is not None


def hyphens(name: str) -> str:
    """A field's name as it is in flags."""
    return name.replace("_", "-")


def _escaped(value: Any) -> str:
    text = plain(value)
    for written, meant in reversed(_ESCAPES.items()):
        text = text.replace(meant, written)
    return text


def _unescaped(line: str) -> str:
    return re.sub(r"\\[ntr\\]", lambda match: _ESCAPES[match[0]], line)
