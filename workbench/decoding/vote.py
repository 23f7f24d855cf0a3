"""Majority vote (self-consistency, Wang et al. 2022, arXiv 2203.11171): the most frequent answer wins.

A weighted vote (Cobbe et al. 2021; Snell et al. 2024) adds up weights in place of ones. Only whole, parsed answers
vote: a failed, cut-off or unparsable sample has no voice. A tie is broken by a hash of the question and the
answer: it is the same every time, does not depend on the order in which the samples came, and favours no answer
over many questions.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from workbench.types import text_hash


def majority(question_id: str, answers: Sequence[str | None]) -> str | None:
    """The winning answer; None where nobody votes.

    Args:
        question_id: decides ties.
        answers: one parsed answer a sample, None for a sample without a voice.
    """
    return _most(question_id, Counter(answer for answer in answers if answer is not None))


def weighted_majority(question_id: str, answers: Sequence[str | None], weights: Sequence[float]) -> str | None:
    """The answer whose samples' weights add up to the most; None where nobody votes.

    Where all weights are 0, every answer has as much, and the tie is broken as any other.

    Args:
        question_id: decides ties.
        answers: as in `majority`.
        weights: one a sample, 0 or more.

    Raises:
        ValueError: a weight is no number from 0 up.
    """
    if not all(0 <= weight < math.inf for weight in weights):
        raise ValueError("a weight must be a number from 0 up")
    by_answer: dict[str, list[float]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            by_answer.setdefault(answer, []).append(weight)
    # An exact sum is the same in every order of the samples.
    return _most(question_id, {answer: math.fsum(row) for answer, row in by_answer.items()})


def _most(question_id: str, votes: Mapping[str, float]) -> str | None:
    if not votes:
        return None
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return min(tied, key=lambda answer: text_hash(f"{question_id}:{answer}"))
