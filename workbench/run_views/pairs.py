"""Two results on the questions that they share: which of them changed, and the table of outcomes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.compare import shared
from workbench.types import Outcome, Result

Kind = Literal["mended", "broken", "other"]


@dataclass(frozen=True)
class Changed:
    """A question that two results have another outcome or answer for.

    Attributes:
        before, after: what became of it.
        kind: `mended` where the second one's score is higher, `broken` where it is lower, `other` where only the
            answer or the way of failing is another.
    """

    before: Outcome
    after: Outcome
    kind: Kind


def changes(first: Result, second: Result) -> list[Changed]:
    """The questions that changed between two results, in the first one's order; failed requests are left out.

    Raises:
        UserError: they were measured on different tasks or splits.
    """
    before, after = ({o.id: o for o in result.outcomes} for result in (first, second))
    found = []
    for id, a, b in shared(first, second):
        kind: Kind = "mended" if a < b else "broken" if a > b else "other"
        one, other = before[id], after[id]
        if kind != "other" or (one.status, one.answer) != (other.status, other.answer):
            found.append(Changed(one, other, kind))
    return found


def of_kind(found: Sequence[Changed], kind: str) -> list[Changed]:
    """Those of one kind, or `all`."""
    return [change for change in found if kind in ("all", change.kind)]


def crossed(first: Result, second: Result) -> dict[tuple[bool, bool], int] | None:
    """How many shared questions (the first, the second) got right; None where a score is neither 0 nor 1.

    Raises:
        UserError: they were measured on different tasks or splits.
    """
    pairs = shared(first, second)
    if not {score for _, *scores in pairs for score in scores} <= {0, 1}:
        return None
    found = Counter((bool(a), bool(b)) for _, a, b in pairs)
    return {(a, b): found[a, b] for a in (True, False) for b in (True, False)}
