"""Classification: F1 over the classes."""

from collections import Counter
from collections.abc import Sequence

from workbench.errors import UserError


def macro_f1(targets: Sequence[str], answers: Sequence[str | None], labels: Sequence[str]) -> float:
    """Mean over the labels of F1 = 2·hits/(targets + answers of that label), each label weighing the same.

    An answer of None, or one that is no label, misses its target's class and counts for no other. A label
    that is neither a target nor an answer is left out; no question at all gives 0.
    """
    if len(targets) != len(answers):
        raise UserError(f"There are {len(targets)} targets and {len(answers)} answers: one each is needed.")
    wanted, given = Counter(targets), Counter(answers)
    hits = Counter(target for target, answer in zip(targets, answers, strict=True) if target == answer)
    seen = [label for label in dict.fromkeys(labels) if wanted[label] + given[label]]
    return sum(2 * hits[label] / (wanted[label] + given[label]) for label in seen) / max(1, len(seen))
