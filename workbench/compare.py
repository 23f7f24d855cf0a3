"""Two measured Systems on the questions that both answered: the difference, and whether it is real.

A failed request is no answer, so a question counts only where both Systems have a score. One answer a
question is tested with exact McNemar, several graded samples a question with a paired bootstrap, and the
comparisons of one table share Holm's correction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from workbench.errors import UserError
from workbench.stats import holm, mcnemar_exact, minimum_detectable_effect, paired_bootstrap
from workbench.types import Interval, Result

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """How far the second System is above the first.

    Attributes:
        first, second: the Systems' hashes.
        shared: questions that both have a score for.
        difference: mean score of the second minus the first's on those, with its interval.
        only_first, only_second: questions that the one did better on than the other.
        p: two-sided p-value of no difference.
        adjusted_p: p after Holm's correction over the comparisons made together; p where there is one.
        test: which test gave p.
        detectable: smallest difference that this many questions find four times in five at p < .05, given
            how often these two Systems disagree.
    """

    first: str
    second: str
    shared: int
    difference: Interval
    only_first: int
    only_second: int
    p: float
    adjusted_p: float
    test: str
    detectable: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below .05."""
        return self.adjusted_p < ALPHA


def shared(first: Result, second: Result) -> list[tuple[str, float, float]]:
    """(id, first's score, second's score) of each question that both have a score for; may be empty.

    Raises:
        UserError: they were measured on different tasks or splits.
    """
    for field in ("task", "split", "task_hash"):
        one, other = getattr(first, field), getattr(second, field)
        if one != other:
            raise UserError(
                f"These results cannot be compared: {field} is {one!r} for system {first.system} and "
                f"{other!r} for {second.system}. Measure both on the same task, settings and split."
            )
    scores = {o.id: o.score for o in second.outcomes}
    return [
        (o.id, o.score, score)
        for o in first.outcomes
        if o.score is not None and (score := scores.get(o.id)) is not None
    ]


@lru_cache(maxsize=256)  # a table, its page and its advice ask for the same pairs
def compare(first: Result, second: Result) -> Comparison:
    """How far `second` is above `first` on their shared questions.

    Raises:
        UserError: they were measured on different tasks or splits, or share no answered question.
    """
    pairs = shared(first, second)
    if not pairs:
        raise UserError(f"Systems {first.system} and {second.system} share no question that both answered.")
    a, b = [score for _, score, _ in pairs], [score for _, _, score in pairs]
    only_first = sum(x > y for x, y in zip(a, b, strict=True))
    only_second = sum(x < y for x, y in zip(a, b, strict=True))
    paired = paired_bootstrap(b, a)
    if {*a, *b} <= {0, 1}:
        p, test = mcnemar_exact(only_first, only_second), "exact McNemar"
    else:
        p, test = paired.p_value, "paired bootstrap"
    detectable = minimum_detectable_effect(len(a), discordance=(only_first + only_second) / len(a))
    return Comparison(
        first.system,
        second.system,
        len(a),
        paired.difference,
        only_first,
        only_second,
        p,
        p,
        test,
        detectable,
    )


def compare_to_baseline(baseline: Result, others: Sequence[Result]) -> list[Comparison]:
    """Each of `others` against the baseline, in their order, with Holm's correction over all of them."""
    found = [compare(baseline, other) for other in others]
    adjusted = holm([comparison.p for comparison in found])
    return [replace(c, adjusted_p=p) for c, p in zip(found, adjusted, strict=True)]


def changed(first: Result, second: Result) -> tuple[list[str], list[str]]:
    """Ids of the shared questions that the second System mended, and of those that it broke.

    Mended means a higher score than the first System's, broken a lower one.

    Raises:
        UserError: they were measured on different tasks or splits.
    """
    pairs = shared(first, second)
    return [id for id, a, b in pairs if a < b], [id for id, a, b in pairs if a > b]
