"""From a question's samples to its outcome: what each decode makes of graded completions.

A sample that failed is none, and one that was cut off has no answer, whatever it holds.
"""

import math
from collections import Counter
from collections.abc import Sequence

from workbench.decodes import BestOfN, Decode, LabelLikelihood, Majority, WeightedVote
from workbench.decoding.best_of_n import best, weight
from workbench.decoding.labels import most_likely
from workbench.decoding.vote import majority, weighted_majority
from workbench.tasks.base import Task
from workbench.types import Completion, Example, Finish, Outcome, Status

Graded = tuple[Status, str | None]
"""One completion's status and parsed answer."""

Answered = Sequence[tuple[Graded, Completion]]


def graded(task: Task, example: Example, completion: Completion) -> Graded:
    """One completion's status and parsed answer. A cut-off text has no answer."""
    if completion.finish is Finish.ERROR:
        return Status.ERROR, None
    if completion.finish is Finish.LENGTH:
        return Status.TRUNCATED, None
    grade = task.grade(completion.text, example)
    if grade.correct:
        return Status.CORRECT, grade.answer
    return (Status.UNPARSABLE if grade.answer is None else Status.WRONG), grade.answer


def labelled(
    decode: LabelLikelihood,
    labels: Sequence[str],
    example: Example,
    scored: Sequence[Completion],
    content_free: Sequence[Sequence[Completion]],
) -> Outcome:
    """The outcome of the label that is likeliest; an error where a score is missing. Arguments: `most_likely`."""
    best = most_likely(decode, labels, scored, content_free)
    if best is None:
        return _error(example)
    right = best == example.target
    status = Status.CORRECT if right else Status.WRONG
    return Outcome(example.id, status, float(right), best, example.target, text=best)


def chosen(
    decode: Decode,
    example: Example,
    grades: Sequence[Graded],
    found: Sequence[Completion],
    scores: Sequence[float] = (),
) -> Outcome:
    """The outcome that a decode which generates makes of a question's samples.

    Args:
        decode: how one answer comes out of several.
        example: the question.
        grades: of the samples.
        found: the samples.
        scores: of the samples, where the decode names a scorer; −∞ of one that cannot be chosen, NaN of one that
            could not be scored, which makes the outcome an error.
    """
    answered = [(g, c) for g, c in zip(grades, found, strict=True) if g[0] is not Status.ERROR]
    if not answered:
        return _error(example)
    if isinstance(decode, Majority):
        return _voted(example, answered)
    if isinstance(decode, BestOfN):
        if any(math.isnan(score) for score in scores):
            return _error(example)
        if isinstance(decode, WeightedVote):
            weights = [weight(decode.scorer, score) for score in scores]
            answers = [answer for _, answer in grades]
            return _of_answer(example, answered, weighted_majority(example.id, answers, weights))
        return _best(example, answered, grades, found, scores)
    return _mean(example, answered)


def _mean(example: Example, answered: Answered) -> Outcome:
    """Each sample for itself: the mean of their scores, and the status of most of them."""
    scores = [status is Status.CORRECT for (status, _), _ in answered]
    (status, answer), first = answered[0]
    if len(answered) > 1:
        status = Counter(s for (s, _), _ in answered).most_common(1)[0][0]
    return Outcome(
        example.id, status, sum(scores) / len(scores), answer, example.target, len(answered), first.text
    )


def _voted(example: Example, answered: Answered) -> Outcome:
    return _of_answer(example, answered, majority(example.id, [answer for (_, answer), _ in answered]))


def _best(
    example: Example,
    answered: Answered,
    grades: Sequence[Graded],
    found: Sequence[Completion],
    scores: Sequence[float],
) -> Outcome:
    """The outcome of the sample with the highest score."""
    place = best(scores)
    if place is None:
        return _nobody(example, answered)
    (status, answer), text = grades[place], found[place].text
    score = float(status is Status.CORRECT)
    return Outcome(example.id, status, score, answer, example.target, len(answered), text)


def _of_answer(example: Example, answered: Answered, winner: str | None) -> Outcome:
    """The outcome of the answer that won a vote, with the first sample that gave it."""
    if winner is None:
        return _nobody(example, answered)
    status, text = next((s, c.text) for (s, answer), c in answered if answer == winner)
    score = float(status is Status.CORRECT)
    return Outcome(example.id, status, score, winner, example.target, len(answered), text)


def _nobody(example: Example, answered: Answered) -> Outcome:
    """The outcome where no sample can be the answer: the status of most of them tells why."""
    status = Counter(s for (s, _), _ in answered).most_common(1)[0][0]
    score = float(status is Status.CORRECT)
    return Outcome(example.id, status, score, None, example.target, len(answered), answered[0][1].text)


def _error(example: Example) -> Outcome:
    return Outcome(example.id, Status.ERROR, None, None, example.target, samples=0)
