"""Majority votes: the expected score of a vote among k of a question's samples.

Exact where the sum over subsets is within reach, else the mean over random subsets.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXACT_WORK = 3e7
"""Multiply-adds up to which a majority vote's expectation is computed exactly: some 50 ms."""


def majority_at_k(
    answers: Sequence[Hashable | None],
    target: Hashable | None,
    k: int,
    subsets: int = 10_000,
    seed: int = 0,
) -> float:
    """Expected score of a majority vote among k of a question's samples, over all its k-subsets.

    Self-consistency (Wang et al. 2022). Ties share the point equally. None (no answer found) never votes and
    equals nothing, and a subset where nobody votes scores 0.

    Args:
        answers: the n samples' parsed answers.
        target: the right answer.
        k: votes, 1 to n.
        subsets, seed: as in `majority_curve`; used where the exact sum is out of reach (n of about 300 up).

    Raises:
        UserError: k is not in 1 … n.
    """
    codes: dict[Hashable, int] = {}
    row = [-1 if answer is None else codes.setdefault(answer, len(codes)) for answer in answers]
    right = -1 if target is None else codes.setdefault(target, len(codes))
    table = np.array([row], dtype=np.int64)
    return float(majority_curve(table, np.array([right]), [k], subsets, seed)[0, 0])


def majority_curve(
    answers: ArrayLike, targets: ArrayLike, ks: Sequence[int], subsets: int = 64, seed: int = 0
) -> Floats:
    """`majority_at_k` of a whole table: shape [questions, len(ks)]; its mean over axis 0 is the curve.

    Exact where `EXACT_WORK` allows. Elsewhere the mean over random subsets, the same draws for every k: its
    standard error is at most 0.5/√subsets for one question and 0.5/√(subsets · questions) for the curve
    (.002 for 64 subsets and 1,000 questions), since each question draws its own subsets.

    Args:
        answers: whole numbers, shape [questions, samples]; −1 does not vote. They need not be small.
        targets: whole numbers, shape [questions]; −1 is never right.
        ks: numbers of votes, each 1 … samples.
        subsets: random subsets a question.
        seed: fixes them.

    Raises:
        UserError: shapes do not match, or a k is not in 1 … samples.
    """
    answers_QN, targets_Q = np.asarray(answers, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    if answers_QN.ndim != 2 or targets_Q.shape != answers_QN.shape[:1]:
        raise UserError(
            f"answers has shape {answers_QN.shape} and targets {targets_Q.shape}; "
            "they must be [questions, samples] and [questions]."
        )
    questions, samples = answers_QN.shape
    check_range("subsets", subsets, 1, 10**9)
    for k in ks:
        if not 1 <= k <= samples:
            raise UserError(f"k is {k}; with {samples} samples a question it must be in 1 … {samples}.")
    scores = np.zeros((questions, len(ks)))
    if not questions or not len(ks):
        return scores
    codes_QN, target_Q, classes = _compress(answers_QN, targets_Q)
    rows = np.arange(questions)
    cells = codes_QN + rows[:, None] * (classes + 1)
    votes_QC = np.bincount(cells.ravel(), minlength=questions * (classes + 1)).reshape(questions, -1)[:, :-1]
    right_Q = votes_QC[rows, target_Q]
    others_QC = votes_QC.copy()
    others_QC[rows, target_Q] = 0
    others_QC = -np.sort(-others_QC, axis=1)
    others_QC = others_QC[:, others_QC.any(axis=0)]
    exact = [_exact_work(right_Q, others_QC, samples, k) <= EXACT_WORK for k in ks]
    for column, k in enumerate(ks):
        if exact[column]:
            scores[:, column] = _majority_exact(right_Q, others_QC, samples, k)
    drawn = [column for column in range(len(ks)) if not exact[column]]
    if drawn:
        wanted = [ks[column] for column in drawn]
        scores[:, drawn] = _majority_drawn(cells, target_Q, classes, wanted, subsets=subsets, seed=seed)
    return scores


def _compress(answers_QN: Ints, targets_Q: Ints) -> tuple[Ints, Ints, int]:
    """Renumber each row's answers and target 0 … classes−1; what does not vote becomes `classes`.

    A target of −1 gets a class that no vote is for, so it is never right.
    """
    table = np.concatenate([targets_Q[:, None], answers_QN], axis=1)
    order = np.argsort(table, axis=1)
    ordered = np.take_along_axis(table, order, axis=1)
    ranks = np.zeros_like(table)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=ranks[:, 1:])
    codes = np.empty_like(table)
    np.put_along_axis(codes, order, ranks, axis=1)
    classes = int(codes.max()) + 1
    return np.where(answers_QN < 0, classes, codes[:, 1:]), codes[:, 0], classes


def _exact_work(right_Q: Ints, others_QC: Ints, samples: int, k: int) -> float:
    """Multiply-adds of `_majority_exact`; infinite where C(samples, k) does not fit a double."""
    if math.lgamma(samples + 1) - math.lgamma(k + 1) - math.lgamma(samples - k + 1) > 700:
        return math.inf
    tallest = others_QC.max(axis=0, initial=0)
    wins = np.arange(1, min(int(right_Q.max()), k) + 1)
    terms = np.minimum(tallest[None, :], wins[:, None]).sum(axis=1) + len(tallest)
    return float((terms * (k // wins) * (k + 1)).sum()) * len(right_Q)


def _majority_exact(right_Q: Ints, others_QC: Ints, samples: int, k: int) -> Floats:
    """Sum over the k-subsets by generating polynomials, for all questions at once; shape [questions].

    For each number of votes v that the right answer may win with, `ways[q, t, j]` counts the ways to take j
    samples among the other classes so that t of them tie with v votes and the rest have fewer.
    """
    choose = _binomials(samples, k)
    questions = len(right_Q)
    silent_Q = samples - right_Q - others_QC.sum(axis=1)
    total = np.zeros(questions)
    for v in range(1, min(int(right_Q.max()), k) + 1):
        rest = k - v
        ways = np.zeros((questions, rest // v + 1, rest + 1))
        ways[:, 0, : rest + 1] = choose[silent_Q, : rest + 1]
        for votes_Q in others_QC.T:
            grown = ways.copy()  # none of this class is taken
            for i in range(1, min(int(votes_Q.max()), v - 1, rest) + 1):
                grown[:, :, i:] += choose[votes_Q, i, None, None] * ways[:, :, :-i]
            if v <= rest:
                grown[:, 1:, v:] += choose[votes_Q, v, None, None] * ways[:, :-1, :-v]
            ways = grown
        shares = 1 / np.arange(1, ways.shape[1] + 1)
        total += choose[right_Q, v] * (ways[:, :, rest] @ shares)
    return np.asarray(np.minimum(total / choose[samples, k], 1.0))  # rounding may go a hair above


def _binomials(samples: int, k: int) -> Floats:
    """C(m, i) for m = 0 … samples and i = 0 … k, shape [samples + 1, k + 1]."""
    m = np.arange(samples + 1.0)
    table = np.ones((samples + 1, k + 1))
    for i in range(k):
        table[:, i + 1] = table[:, i] * np.maximum(m - i, 0) / (i + 1)
    return table


def _majority_drawn(
    cells: Ints, target_Q: Ints, classes: int, ks: Sequence[int], *, subsets: int, seed: int
) -> Floats:
    """Mean score over random subsets, shape [questions, len(ks)]: each k takes the start of one permutation.

    Every row is shuffled on its own once; after that one permutation serves all rows, and a row's subsets
    are still uniform and independent of the other rows'.
    """
    rng = np.random.default_rng(seed)
    questions = len(cells)
    cells_NQ = np.ascontiguousarray(rng.permuted(cells, axis=1).T)
    order = sorted(range(len(ks)), key=lambda column: ks[column])
    rows = np.arange(questions)
    scores = np.zeros((questions, len(ks)))
    for _ in range(subsets):
        permutation = rng.permutation(len(cells_NQ))
        votes = np.zeros((questions, classes + 1), dtype=np.int32)
        taken = 0
        for column in order:
            fresh = cells_NQ[permutation[taken : ks[column]]].ravel()
            votes += np.bincount(fresh, minlength=votes.size).reshape(votes.shape)
            taken = ks[column]
            cast = votes[:, :-1]
            most = cast.max(axis=1)
            won = (cast[rows, target_Q] == most) & (most > 0)
            scores[:, column] += won / np.count_nonzero(cast == most[:, None], axis=1)
    return scores / subsets
