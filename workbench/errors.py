"""The one error that a person can mend.

`UserError` is raised for whatever its reader can put right: a misspelt name, a file with a bad row, a
value out of range, a missing package. Command lines print it without a traceback and exit with status 2.
Any other exception is a bug of ours and shows its traceback.
"""

import math
from collections.abc import Iterable
from difflib import get_close_matches

_MOST_BITS = 1000  # of a whole number that a float holds


class UserError(Exception):
    """What was wrong, what exists, what to type instead: in that order, in whole sentences."""


class OutOfRange(UserError):
    """A number that is not in its field's range: `field` is its name, `span` the range in words."""

    field = ""
    span = ""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """A `UserError` for a name that does not exist: it lists what does, and the nearest match first.

    Args:
        kind: what was looked for, in the singular: "task", "prompt", "recipe".
        name: what was asked for.
        known: every name that exists.
        hint: one more sentence, usually the command that lists them.
    """
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
    listing = ", ".join(names) if names else "none"
    return UserError(f"There is no {kind} named {name!r}.{guess} There are: {listing}. {hint}".rstrip())


def check_range(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    """Refuse a number that is NaN, infinite or out of [low, high] (or (low, high] with `open_low`).

    Raises:
        OutOfRange: the message names the field, the value and the range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    huge = isinstance(value, int) and value.bit_length() > _MOST_BITS
    finite = is_number and not huge and math.isfinite(value)
    if not (finite and low <= value <= high and not (open_low and value == low)):
        told = "a whole number of hundreds of digits" if huge else repr(value)
        bracket = "(" if open_low else "["
        error = OutOfRange(f"{name} is {told}; it must be a number in {bracket}{low:g}, {high:g}].")
        error.field = name
        error.span = f"{f'more than {low:,.10g}, at most' if open_low else f'from {low:,.10g} to'} {high:,.10g}"
        raise error
