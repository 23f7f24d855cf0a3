"""How much of the way from one System to a better one a third one goes, with its bootstrap interval."""

import numpy as np
from numpy.typing import ArrayLike

from workbench.errors import UserError
from workbench.stats.intervals import check_probability, check_scores, chunks
from workbench.types import Interval


def share_of_gap(
    low: ArrayLike,
    reached: ArrayLike,
    high: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """(reached − low) / (high − low), mean scores over shared questions, by percentile bootstrap over questions.

    The share of the gap that Liu et al. 2024 (arXiv 2401.08565) report, paired: a question is drawn with its
    three scores. Below 0 it went the other way, above 1 further than `high`.

    Args:
        low, reached, high: scores in [0, 1], one a question, in the same order; shape [questions].
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: fixes them.

    Returns:
        None where `high` is not above `low` in all but (1 − confidence)/2 of the resamples: there is no gap that
        these questions can show, and the ratio would be one of noise.

    Raises:
        UserError: the lengths differ, or a score is not in [0, 1].
    """
    scores_SQ = [check_scores(name, s) for name, s in (("low", low), ("reached", reached), ("high", high))]
    if len({len(scores) for scores in scores_SQ}) > 1:
        raise UserError("low, reached and high must be scores of the same questions.")
    first, second, third = scores_SQ
    if not len(first):
        return None
    tail = (1 - check_probability("confidence", confidence)) / 2
    rng = np.random.default_rng(seed)
    gaps, ways = [], []
    for rows in chunks(resamples, len(first)):
        drawn = rng.integers(0, len(first), (rows, len(first)))
        gaps.append((third - first)[drawn].sum(axis=1))
        ways.append((second - first)[drawn].sum(axis=1))
    gap, way = np.concatenate(gaps), np.concatenate(ways)
    none = gap <= 1e-9  # sums of multiples of 1/n
    if none.mean() >= tail:
        return None
    # A gap of nothing is passed by any step: beyond all numbers, in the direction of the step.
    shares = np.where(none, np.copysign(np.inf, way), way / np.where(none, 1.0, gap))
    bounds = (
        float(np.quantile(shares, tail, method="higher")),
        float(np.quantile(shares, 1 - tail, method="lower")),
    )
    value = float((second - first).sum() / (third - first).sum())
    return Interval(value, min(value, bounds[0]), max(value, bounds[1]), confidence, "bootstrap")
