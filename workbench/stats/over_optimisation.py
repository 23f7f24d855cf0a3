"""Best of n against its scorer: how far it leaves the model (KL), and the scorer's view beside the true one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range
from workbench.stats.best_of_n import best_of_n_curve, subset_weights
from workbench.stats.paired import PairedDifference, paired_bootstrap

Floats = NDArray[np.float64]


def best_of_n_kl(scores: ArrayLike, n: int) -> Floats:
    """KL(best-of-n ‖ base) of each question, nats, measured on its pool; shape [questions].

    What is estimated: the divergence between the distribution of the sample that best of n gives and that of a
    single sample. How: the pool's own N samples stand for the model's distribution (a plug-in estimate). Best of
    n draws from them with replacement and takes equals in score by chance, so that the ratio of both
    probabilities depends on the score alone: with F(s) the share of the pool up to a score s and f(s) the share
    at it, best of n has F(s)^n − (F(s) − f(s))^n there (Beirami et al. 2024, arXiv 2401.01879, §3), and
    KL = Σ_s best(s) · log(best(s) / f(s)). It never exceeds `best_of_n_kl_bound`, which it reaches where no two
    answers score alike; equal scores (the same short answer again) keep it below.

    A pool of N samples sees the tail of the best scores coarsely, so that the estimate is a little low where n is
    no longer small beside N: where scores are all different, by .0002 nats for n = N/16, .003 for n = N/4 and .04
    for n = N.

    Args:
        scores: shape [questions, samples]; −∞ for a sample that cannot be chosen.
        n: samples among which is chosen; at most those of the pool.

    Raises:
        UserError: `n` is above the pool's samples, or a score is NaN or ∞.
    """
    ordered_QN = np.sort(_checked(scores), axis=1)
    samples = ordered_QN.shape[1]
    check_range("n", n, 1, samples)
    ends_QN = np.ones(ordered_QN.shape, dtype=bool)  # the last of equal scores
    ends_QN[:, :-1] = ordered_QN[:, 1:] != ordered_QN[:, :-1]
    upto_QN = np.where(ends_QN, np.arange(1, samples + 1) / samples, 0.0)
    below_QN = np.zeros_like(upto_QN)
    below_QN[:, 1:] = np.maximum.accumulate(upto_QN, axis=1)[:, :-1]
    share_QN = np.where(ends_QN, upto_QN - below_QN, 1.0)
    best_QN = np.where(ends_QN, upto_QN**n - below_QN**n, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms_QN = np.where(best_QN > 0, best_QN * np.log(best_QN / share_QN), 0.0)
    return np.asarray(np.maximum(terms_QN.sum(axis=1), 0.0))  # rounding may go a hair below


@dataclass(frozen=True)
class ProxyView:
    """The scorer's own view of best of k beside the truth.

    Attributes:
        proxy_QK: expected score of the chosen sample, over the subsets in which one can be chosen; NaN for a
            question of which none can. One column a number of samples.
        peak: the number of samples at which the chosen sample is most often right, the smallest of equal ones.
        fall: how often it is right at the largest k, less that at `peak`, paired over questions. The peak was
            found on the same questions, so that the fall looks somewhat larger than it is.
    """

    proxy_QK: Floats
    peak: int
    fall: PairedDifference


def proxy_view(scores: ArrayLike, correct: ArrayLike, ks: Sequence[int]) -> ProxyView:
    """How the scorer's score and the true one go apart as k grows (Gao et al. 2023, arXiv 2210.10760).

    Args:
        scores, correct, ks: as in `best_of_n_curve`.

    Raises:
        UserError: as `best_of_n_curve`.
    """
    true_QK = best_of_n_curve(scores, correct, ks)
    ranked_QN = -np.sort(-_checked(scores), axis=1)
    can_QN = np.isfinite(ranked_QN)
    weights_NK = subset_weights(ranked_QN.shape[1], ks)
    some_QK = can_QN @ weights_NK
    proxy_QK = np.full(some_QK.shape, np.nan)
    np.divide(np.where(can_QN, ranked_QN, 0.0) @ weights_NK, some_QK, out=proxy_QK, where=some_QK > 0)
    place = int(true_QK.mean(axis=0).argmax()) if len(true_QK) else 0
    fall = paired_bootstrap(true_QK[:, -1], true_QK[:, place])
    return ProxyView(proxy_QK, ks[place], fall)


def _checked(scores: ArrayLike) -> Floats:
    scores_QN = np.asarray(scores, dtype=np.float64)
    if scores_QN.ndim != 2 or np.any(np.isnan(scores_QN) | (scores_QN == np.inf)):
        raise UserError("scores must be numbers of the shape [questions, samples], or −∞ for one that loses.")
    return scores_QN
