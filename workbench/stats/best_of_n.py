"""Best of n: the expected score of the answer that a scorer likes best among k of a question's samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError

Floats = NDArray[np.float64]


def best_of_n_at_k(scores: Sequence[float], correct: ArrayLike, k: int) -> float:
    """Expected correctness of the best-scored one among k of a question's samples, over all its k-subsets.

    With the samples in the order of their scores, the best first, the i-th (from 0) is the best of C(n−1−i, k−1)
    of the C(n, k) subsets. Of equal scores the earlier sample counts as the better one, as the decode chooses, so
    that k = n is what the decode itself scores.

    Args:
        scores: one a sample; −∞ for one that cannot be chosen, which loses against every other.
        correct: 0 or 1 a sample; of one that cannot be chosen it does not count.
        k: samples among which is chosen, 1 to n.

    Raises:
        UserError: as `best_of_n_curve`.
    """
    return float(best_of_n_curve(np.asarray(scores)[None], np.asarray(correct)[None], [k])[0, 0])


def best_of_n_curve(scores: ArrayLike, correct: ArrayLike, ks: Sequence[int]) -> Floats:
    """`best_of_n_at_k` of a whole table: shape [questions, len(ks)]; its mean over axis 0 is the curve.

    Args:
        scores: shape [questions, samples].
        correct: shape [questions, samples].
        ks: numbers of samples, each 1 … samples.

    Raises:
        UserError: the shapes differ, a score is NaN or ∞, a correctness not in [0, 1], or a k not in 1 … samples.
    """
    scores_QN, correct_QN = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if scores_QN.ndim != 2 or scores_QN.shape != correct_QN.shape:
        raise UserError(
            f"scores has shape {scores_QN.shape} and correct {correct_QN.shape}; both must be "
            "[questions, samples]."
        )
    if np.any(np.isnan(scores_QN) | (scores_QN == np.inf)):
        raise UserError("scores must be numbers, or −∞ for a sample that cannot be chosen.")
    if not np.all((correct_QN >= 0) & (correct_QN <= 1)):
        raise UserError("correct must be in [0, 1] for each sample.")
    n = scores_QN.shape[1]
    for k in ks:
        if not 1 <= k <= n:
            raise UserError(f"k is {k}; with {n} samples a question it must be in 1 … {n}.")
    order_QN = np.argsort(-scores_QN, axis=1, kind="stable")  # equal scores stay in the samples' order
    chosen_QN = np.where(np.isneginf(scores_QN), 0.0, correct_QN)
    ranked_QN = np.take_along_axis(chosen_QN, order_QN, axis=1)
    return np.asarray(np.clip(ranked_QN @ subset_weights(n, ks), 0.0, 1.0))  # rounding may go a hair above


def subset_weights(n: int, ks: Sequence[int]) -> Floats:
    """C(n−1−i, k−1)/C(n, k): the chance that the sample of rank i is the best of k; shape [n, len(ks)].

    Each is made from the one before, so that no binomial overflows.
    """
    weights_NK = np.empty((n, len(ks)))
    row_K, ks_K = np.asarray(ks, dtype=np.float64) / n, np.asarray(ks, dtype=np.int64)
    for i in range(n):
        weights_NK[i] = row_K
        row_K = row_K * np.maximum(0, n - ks_K - i) / max(1, n - 1 - i)
    return weights_NK
