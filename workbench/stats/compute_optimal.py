"""Compute-optimal test-time compute (Snell et al. 2024, arXiv 2408.03314, §3): the best strategy by difficulty.

How difficult a question is is predicted from its first few samples, without its answer (the paper's predicted
difficulty, there from a verifier's scores of 2,048 samples): a straight line from what can be seen of them to
pass@1 is fitted on dev questions, whose answers may be known, and cut at the quantiles of dev. What those samples
cost is part of what every strategy costs, which the paper leaves out (§3.2 there). Each fold of the questions is
scored with what was best on the other fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range
from workbench.stats.best_of_n import best_of_n_curve
from workbench.types import text_hash

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Difficulty:
    """A prediction of pass@1, and where it is cut.

    Attributes:
        slopes_F: of each feature, and the constant last.
        edges: predictions at which a harder bin ends and an easier one begins, rising.
    """

    slopes_F: Floats
    edges: Floats

    def predicted(self, features: ArrayLike) -> Floats:
        """Predicted pass@1; shape [questions]. A straight line: it may leave [0, 1]."""
        features_QF = np.asarray(features, dtype=np.float64)
        return np.asarray(features_QF @ self.slopes_F[:-1] + self.slopes_F[-1])

    def bins(self, features: ArrayLike) -> Ints:
        """The bin of each question: 0 the hardest."""
        return np.asarray(np.searchsorted(self.edges, self.predicted(features), side="right"))


def fit_difficulty(features: ArrayLike, pass_rates: ArrayLike, bins: int) -> Difficulty:
    """Fit pass@1 to features of dev questions by least squares, and cut it into bins of equally many of them.

    Args:
        features: shape [questions, features]; from `first_look`.
        pass_rates: share of each dev question's samples that are right.
        bins: how many; fewer are filled where the predictions are few different numbers.

    Raises:
        UserError: there are fewer questions than bins, or the shapes differ.
    """
    features_QF, rates_Q = np.asarray(features, dtype=np.float64), np.asarray(pass_rates, dtype=np.float64)
    if features_QF.ndim != 2 or rates_Q.shape != features_QF.shape[:1]:
        raise UserError(
            f"features has the shape {features_QF.shape} and pass_rates {rates_Q.shape}; they must be "
            "[questions, features] and [questions]."
        )
    check_bins(len(rates_Q), bins)
    rows = np.concatenate([features_QF, np.ones((len(rates_Q), 1))], axis=1)
    slopes_F = np.linalg.lstsq(rows, rates_Q, rcond=None)[0]
    predicted = Difficulty(slopes_F, np.empty(0)).predicted(features_QF)
    # A hair below, so that a question whose first look is the same as that at an edge is in the same bin.
    return Difficulty(slopes_F, np.unique(np.quantile(predicted, np.arange(1, bins) / bins)) - 1e-9)


def check_bins(questions: int, bins: int) -> None:
    """Refuse bins that so many dev questions cannot fill.

    Raises:
        UserError: there are fewer than two questions a bin, or `bins` is no number from 1 to 100.
    """
    check_range("bins", bins, 1, 100)
    if questions < 2 * bins:
        raise UserError(f"{questions} dev questions are too few for {bins} bins: two a bin are the least.")


def first_look(answers: ArrayLike, scores: ArrayLike | None, first: int) -> Floats:
    """What the first samples show without the right answer; shape [questions, 2 or 3].

    The share of them that agree on their commonest answer, the share that have one, and with scores the mean
    score of those that could be chosen (a question without any gets the mean of the other questions').

    Args:
        answers: codes as in `pool_curves`; which of them is the right one is not used.
        scores: as in `best_of_n_curve`, or None.
        first: samples that are looked at.
    """
    codes_QM = np.asarray(answers)[:, :first]
    same_QMM = (codes_QM[:, :, None] == codes_QM[:, None, :]) & (codes_QM >= 0)[:, :, None]
    columns = [same_QMM.sum(axis=2).max(axis=1, initial=0) / first, (codes_QM >= 0).mean(axis=1)]
    if scores is not None:
        given_QM = np.asarray(scores, dtype=np.float64)[:, :first]
        can_QM = np.isfinite(given_QM)
        count_Q = can_QM.sum(axis=1)
        sums_Q = np.where(can_QM, given_QM, 0.0).sum(axis=1)
        overall = sums_Q.sum() / max(1, count_Q.sum())
        columns.append(np.where(count_Q > 0, sums_Q / np.maximum(count_Q, 1), overall))
    return np.stack(columns, axis=1)


def best_of_after(scores: ArrayLike, correct: ArrayLike, first: int, ks: Sequence[int]) -> Floats:
    """Best of k where the first samples are those that were looked at, and the rest a random subset of the others.

    Args:
        scores, correct: as in `best_of_n_curve`.
        first: samples that are in every subset.
        ks: numbers of samples, the first among them: each from `first` up.

    Returns:
        Expected correctness, shape [questions, len(ks)].
    """
    scores_QN, correct_QN = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    questions, n = scores_QN.shape
    for k in ks:
        check_range("k", k, max(1, first), n)
    if not first:
        return best_of_n_curve(scores_QN, correct_QN, ks)
    place_Q = scores_QN[:, :first].argmax(axis=1)
    seen_Q = scores_QN[np.arange(questions), place_Q]
    right_Q = np.where(np.isneginf(seen_Q), 0.0, correct_QN[np.arange(questions), place_Q])
    # A later sample is chosen only where it scores higher; where it does not, the one that was seen stays.
    higher_QR = scores_QN[:, first:] > seen_Q[:, None]
    floor_Q1 = np.where(np.isneginf(seen_Q), 0.0, seen_Q)[:, None]
    lowest_Q1 = np.minimum(scores_QN[:, first:].min(axis=1, initial=np.inf, where=higher_QR)[:, None], floor_Q1)
    rest_QR = np.where(higher_QR, scores_QN[:, first:], lowest_Q1 - 1.0)
    gives_QR = np.where(higher_QR, correct_QN[:, first:], right_Q[:, None])
    later = [k - first for k in ks if k > first]
    found = best_of_n_curve(rest_QR, gives_QR, later) if later else np.zeros((questions, 0))
    columns = iter(found.T)
    return np.stack([right_Q if k == first else next(columns) for k in ks], axis=1)


def folds(ids: Sequence[str]) -> Ints:
    """Two folds of (nearly) equal size by the questions' ids: the same for a question whatever is measured."""
    found = np.zeros(len(ids), dtype=np.int64)
    for rank, place in enumerate(sorted(range(len(ids)), key=lambda i: text_hash(f"fold:{ids[i]}"))):
        found[place] = rank % 2
    return found


@dataclass(frozen=True)
class Chosen:
    """What the choice gave.

    Attributes:
        score_Q: expected score of each question under what was best on the other fold.
        strategy_Q: its place among the strategies.
        picked: strategy by (fold that was scored, bin).
    """

    score_Q: Floats
    strategy_Q: Ints
    picked: dict[tuple[int, int], int]


def choose(scores: ArrayLike, costs: ArrayLike, bins: ArrayLike, fold: ArrayLike, budget: float) -> Chosen:
    """For each bin the strategy with the best mean score on one fold within the budget, scored on the other fold.

    Of equal scores the cheapest wins, then the earlier. A bin that the other fold has no question of takes what
    is best on all of that fold.

    Args:
        scores, costs: expected score and cost of each strategy; shape [questions, strategies].
        bins, fold: of each question; folds are 0 and 1.
        budget: what the mean cost in the bin may be, on the fold that is looked at.

    Raises:
        UserError: no strategy is within the budget, or a fold is empty.
    """
    scores_QS, costs_QS = np.asarray(scores, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    bins_Q, fold_Q = np.asarray(bins), np.asarray(fold)
    strategy_Q = np.zeros(len(scores_QS), dtype=np.int64)
    picked: dict[tuple[int, int], int] = {}
    for scored in (0, 1):
        looked_Q = fold_Q != scored
        if not looked_Q.any() or looked_Q.all():
            raise UserError("Two folds with questions in both are needed: measure on two questions or more.")
        for name in np.unique(bins_Q[~looked_Q]).tolist():
            there_Q = looked_Q & (bins_Q == name)
            rows = there_Q if there_Q.any() else looked_Q
            mean_S, cost_S = scores_QS[rows].mean(axis=0), costs_QS[rows].mean(axis=0)
            within = np.flatnonzero(cost_S <= budget * (1 + 1e-9))
            if not len(within):
                raise UserError(f"budget is {budget:g}; the cheapest strategy costs {cost_S.min():g} a question.")
            best = min(within.tolist(), key=lambda s: (-round(mean_S[s], 12), cost_S[s], s))
            picked[scored, name] = best
            strategy_Q[~looked_Q & (bins_Q == name)] = best
    return Chosen(scores_QS[np.arange(len(scores_QS)), strategy_Q], strategy_Q, picked)
