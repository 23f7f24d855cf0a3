"""Majority votes that stop early: when the leader cannot be caught, or when it is sure enough to stay the leader.

`certain` loses nothing: the answer is that of the whole vote. A confidence is the rule of Adaptive-Consistency
(Aggarwal et al. 2023, arXiv 2305.11860, §3.2, its Beta criterion): the posterior probability, from a uniform
prior and over the leader and the runner-up alone, that the leader is the likelier of the two. Departure: a sample
without an answer is drawn and paid for but does not vote.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError
from workbench.stats.running import compressed, running

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Stop = Literal["certain"] | float


@dataclass(frozen=True)
class EarlyStop:
    """What became of each question's vote; all of shape [questions].

    Attributes:
        drawn_Q: samples that were drawn, those without a voice among them.
        score_Q: the right answer's share of the point then.
        full_Q: its share after all n samples.
    """

    drawn_Q: NDArray[np.int64]
    score_Q: Floats
    full_Q: Floats


def leader_confidence(first: ArrayLike, second: ArrayLike) -> Floats:
    """P(p > ½) for p ~ Beta(first + 1, second + 1): how sure the leader is to be ahead of the runner-up.

    As first and second are whole numbers it is P(Binomial(first + second + 1, ½) ≤ first).

    Args:
        first: the leader's votes.
        second: the runner-up's. Broadcast with `first`.

    Raises:
        UserError: a count is negative.
    """
    first, second = np.asarray(first), np.asarray(second)
    if np.any(first < 0) or np.any(second < 0):
        raise UserError("first and second are votes: whole numbers from 0 up.")
    from scipy.special import betainc

    return np.asarray(betainc(second + 1.0, first + 1.0, 0.5))


def settled(first: ArrayLike, second: ArrayLike, left: ArrayLike, stop: Stop) -> Bools:
    """Whether a vote may stop.

    Args:
        first, second: votes of the leader and of the runner-up.
        left: samples that could still be drawn.
        stop: `certain`, or the confidence that is enough.

    Raises:
        UserError: `stop` is neither `certain` nor a number between ½ and 1.
    """
    if stop != "certain" and not (isinstance(stop, float) and 0.5 < stop < 1):
        raise UserError(f"stop is {stop!r}; it must be certain, or a confidence between 0.5 and 1, as 0.95 is.")
    first, second, left = np.asarray(first), np.asarray(second), np.asarray(left)
    # All that is left for the runner-up, or for an answer that nobody gave so far, and still no tie.
    certain = first > second + left
    if stop == "certain":
        return np.asarray(certain)
    return np.asarray(certain | ((first > second) & (leader_confidence(first, second) >= float(stop))))


def early_stop(answers: ArrayLike, stop: Stop) -> EarlyStop:
    """The vote over each question's samples in their order, stopped by a rule that is asked after every one.

    No vote can stop sooner by the rule: one that draws several samples at once draws as many or more.

    Args:
        answers: whole numbers, shape [questions, samples]; 0 is the right answer, below 0 has no voice.
        stop: as in `settled`.

    Raises:
        UserError: as `settled`.
    """
    codes_NQ = np.ascontiguousarray(compressed(np.asarray(answers, dtype=np.int64)).T)
    n, questions = codes_NQ.shape
    drawn_Q = np.full(questions, n)
    score_Q, full_Q = np.zeros(questions), np.zeros(questions)
    open_Q = np.ones(questions, dtype=bool)
    second_Q = np.zeros(questions, dtype=np.int64)
    for step, standing in enumerate(running(codes_NQ, np.arange(n)[:, None]), start=1):
        # An answer that takes the lead with one more vote was a leader before it: the runner-up stays.
        second_Q = np.where(standing.leads[0], second_Q, np.maximum(second_Q, standing.votes[0]))
        full_Q = standing.share[0]
        ends_Q = open_Q & settled(standing.first[0], second_Q, n - step, stop)
        drawn_Q[ends_Q], score_Q[ends_Q] = step, full_Q[ends_Q]
        open_Q &= ~ends_Q
    score_Q[open_Q] = full_Q[open_Q]
    return EarlyStop(drawn_Q, score_Q, full_Q)
