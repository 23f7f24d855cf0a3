"""Majority vote (self-consistency, Wang et al. 2022, arXiv 2203.11171): the most frequent answer wins.

Only whole, parsed answers vote: a failed, cut-off or unparsable sample has no voice. A tie is broken by a hash
of the question and the answer: it is the same every time, does not depend on the order in which the samples
came, and favours no answer over many questions.
"""

from collections import Counter
from collections.abc import Sequence

from workbench.types import text_hash


def majority(question_id: str, answers: Sequence[str | None]) -> str | None:
    """The winning answer; None where nobody votes.

    Args:
        question_id: decides ties.
        answers: one parsed answer a sample, None for a sample without a voice.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return None
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return min(tied, key=lambda answer: text_hash(f"{question_id}:{answer}"))
