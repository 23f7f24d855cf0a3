"""One pool of n samples a question, every curve: pass@k, majority@k, best-of@k and weighted@k for all k up to n.

pass@k and best-of@k are exact expectations over all k-subsets. Votes have no such closed form that is quick: they
are means over random orders of the samples, each of which gives every k at once (`vote_curve`). The bands are
over questions, which are what was drawn at random; the samples of one question are one question.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range
from workbench.stats.best_of_n import best_of_n_curve
from workbench.stats.intervals import check_probability, wilson_interval
from workbench.stats.running import compressed, running, whole_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TURNS = 16  # starting points of one shuffled pool, far apart, so that short subsets of one order do not overlap
WORK = 2e7  # sample-steps for one curve of votes: about half a second
ROUNDS = 400  # shuffles, at most
CELLS = 4_000_000  # counters that are kept at once
SAME = 1e-3  # scores that are not told apart


@dataclass(frozen=True)
class Curve:
    """One way of choosing, for k = 1 … n.

    Attributes:
        scores_QK: expected score of each question.
        value_K: their mean.
        low_K, high_K: its band, over questions.
    """

    scores_QK: Floats
    value_K: Floats
    low_K: Floats
    high_K: Floats


def pool_curves(
    answers: ArrayLike,
    scores: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Curve]:
    """`pass`, `majority`, and with scores `best_of`, with weights `weighted`: each for all k up to n.

    Args:
        answers: whole numbers, shape [questions, samples]; 0 is the right answer, below 0 has no voice.
        scores: as in `best_of_n_curve`.
        weights: as in `vote_curve`.
        resamples: of the questions, for the bands.
        seed: fixes the orders and the resamples.

    Raises:
        UserError: the shapes differ or a number is out of range.
    """
    answers_QN = _table("answers", answers)
    found = {"pass": pass_curve(answers_QN == 0), "majority": vote_curve(answers_QN, seed=seed)}
    if scores is not None:
        ks = range(1, answers_QN.shape[1] + 1)
        found["best_of"] = best_of_n_curve(scores, answers_QN == 0, ks)
    if weights is not None:
        found["weighted"] = vote_curve(answers_QN, weights, seed=seed)
    return bands(found, resamples=resamples, seed=seed)


def pass_curve(correct: ArrayLike) -> Floats:
    """`pass_at_k` of each question for k = 1 … n, shape [questions, samples]; all k in one running product.

    Args:
        correct: 0 or 1, shape [questions, samples].
    """
    correct_QN = np.asarray(correct, dtype=bool)
    n = correct_QN.shape[1]
    wrong_Q1 = n - correct_QN.sum(axis=1, keepdims=True)
    drawn = np.arange(n)
    return np.asarray(1.0 - np.cumprod(np.maximum(wrong_Q1 - drawn, 0) / (n - drawn), axis=1))


def vote_curve(
    answers: ArrayLike, weights: ArrayLike | None = None, *, first: int = 0, seed: int = 0, work: float = WORK
) -> Floats:
    """Expected score of a vote among k of a question's samples, for k = 1 … n; shape [questions, samples].

    Self-consistency (Wang et al. 2022) for equal weights; else each answer has the sum of its samples' weights
    (Cobbe et al. 2021; Snell et al. 2024). Ties share the point equally, and where nobody votes the score is 0.

    The mean over random orders of each question's samples, of which every start is a random subset: 16 orders
    for a million samples, up to 400 shuffles of fewer ones. k = 1 and k = n are exact; between them the error
    of a curve's mean is at most 0.5/√(orders · questions), .004 for a million samples, and in practice a fraction
    of it, because the orders are turns of one shuffled pool and their starts do not overlap.

    Args:
        answers: as in `pool_curves`.
        weights: 0 or more, shape [questions, samples]; 0 has no voice. Those of a question are compared to 12
            digits of its largest.
        first: samples that stand at the beginning of every order as they are: a procedure that has seen them.
        seed: fixes the orders.
        work: sample-steps that are spent: so many orders as that allows.

    Raises:
        UserError: the shapes differ or a number is out of range.
    """
    codes_QN = compressed(_table("answers", answers))
    questions, n = codes_QN.shape
    check_range("first", first, 0, n)
    if not codes_QN.size:
        return np.zeros(codes_QN.shape)
    weights_QN = None
    if weights is not None:
        given = np.asarray(weights, dtype=np.float64)
        if given.shape != codes_QN.shape or not np.all(np.isfinite(given) & (given >= 0)):
            raise UserError(f"weights must be numbers from 0 up, of the answers' shape {codes_QN.shape}.")
        weights_QN = whole_weights(given)
        codes_QN = np.where(weights_QN == 0, -1, codes_QN)
    rest = n - first
    turns = max(1, min(rest, TURNS, CELLS // (questions * (int(codes_QN.max()) + 2))))
    rounds = int(np.clip(work / (questions * n * turns), 1, ROUNDS))
    orders_NR = np.tile(np.arange(n)[:, None], (1, turns))
    if rest:
        starts = np.arange(turns) * rest // turns
        orders_NR[first:] = first + (np.arange(rest)[:, None] + starts) % rest
    rng = np.random.default_rng(seed)
    total_NQ = np.zeros((n, questions))
    places_QN = np.tile(np.arange(n), (questions, 1))
    for _ in range(rounds):
        places_QN[:, first:] = rng.permuted(places_QN[:, first:], axis=1)
        codes_NQ = np.ascontiguousarray(np.take_along_axis(codes_QN, places_QN, axis=1).T)
        weights_NQ = None
        if weights_QN is not None:
            weights_NQ = np.ascontiguousarray(np.take_along_axis(weights_QN, places_QN, axis=1).T)
        for step, standing in enumerate(running(codes_NQ, orders_NR, weights_NQ)):
            total_NQ[step] += standing.share.sum(axis=0)
    scores_QN = total_NQ.T / (rounds * turns)
    if not first:
        scores_QN[:, 0] = (codes_QN == 0).mean(axis=1)
    return np.asarray(scores_QN)


def bands(
    found: Mapping[str, Floats], *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Curve]:
    """Each curve with its band: the percentile bootstrap of the mean over questions, point by point.

    Every curve and k sees the same resamples. Where each question scores 0 or 1, or all score the same, the
    band is Wilson's, as it is for the score of one answer a question.

    Args:
        found: scores by name, shape [questions, k]; in [0, 1].
        confidence: of each point; a whole curve lies inside its band less often.
        resamples: of the questions.
        seed: fixes them.
    """
    tail = (1 - check_probability("confidence", confidence)) / 2
    check_range("resamples", resamples, 1, 10**6)
    widths = [scores.shape[1] for scores in found.values()]
    table_QK = np.concatenate(list(found.values()), axis=1)
    questions = len(table_QK)
    mean_K = table_QK.mean(axis=0) if questions else np.zeros(table_QK.shape[1])
    low_K, high_K = np.zeros_like(mean_K), np.ones_like(mean_K)
    if questions:
        rng = np.random.default_rng([seed, 2])
        drawn_BQ = rng.multinomial(questions, np.full(questions, 1 / questions), resamples)
        # Single precision: seven digits are more than a thousand resamples know, at half the time.
        means_BK = (drawn_BQ.astype(np.float32) / questions) @ table_QK.astype(np.float32)
        low_K, high_K = np.quantile(means_BK, [tail, 1 - tail], axis=0).astype(np.float64)
        whole_K = (np.minimum(table_QK, 1 - table_QK) < SAME).all(axis=0) | (np.ptp(table_QK, axis=0) < SAME)
        for place in np.flatnonzero(whole_K):
            flat = wilson_interval(float(np.clip(mean_K[place], 0, 1)) * questions, questions, confidence)
            low_K[place], high_K[place] = flat.low, flat.high
    low_K, high_K = np.minimum(low_K, mean_K), np.maximum(high_K, mean_K)
    edges = np.cumsum(widths)[:-1]
    parts = [np.split(row, edges) for row in (mean_K, low_K, high_K)]
    return {
        name: Curve(scores, *row)
        for (name, scores), row in zip(found.items(), zip(*parts, strict=True), strict=True)
    }


def _table(name: str, values: ArrayLike) -> Ints:
    table = np.asarray(values)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise UserError(f"{name} must be whole numbers of the shape [questions, samples].")
    return table.astype(np.int64, copy=False)
