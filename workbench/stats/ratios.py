"""The ratio of two sums over units, as a loss a token over texts, with its bootstrap interval."""

import numpy as np
from numpy.typing import ArrayLike

from workbench.errors import UserError
from workbench.stats.intervals import check_probability, chunks
from workbench.types import Interval


def ratio_interval(
    sums: ArrayLike, weights: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Σ sums / Σ weights with the percentile bootstrap over units (Efron & Tibshirani 1993, §13.3).

    A unit is drawn with its sum and its weight together. For a paired difference give the differences of the
    sums: units that all differ by nothing give 0 with an interval of no width, for every resample is 0.

    Args:
        sums: what each unit adds, as the loss of a text's tokens together; any finite number; shape [units].
        weights: what it is shared out over, as its number of tokens; positive; shape [units].
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: fixes them.

    Raises:
        UserError: there is no unit, the lengths differ, or a number is out of range.
    """
    sums, weights = np.asarray(sums, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if sums.ndim != 1 or sums.shape != weights.shape or not len(sums):
        raise UserError(
            f"sums has the shape {sums.shape} and weights {weights.shape}: one of each a unit is needed."
        )
    if not (np.all(np.isfinite(sums)) and np.all(np.isfinite(weights) & (weights > 0))):
        raise UserError("sums must be finite numbers, and weights finite and above 0.")
    tail = (1 - check_probability("confidence", confidence)) / 2
    rng = np.random.default_rng(seed)
    ratios = []
    for rows in chunks(resamples, len(sums)):
        drawn = rng.integers(0, len(sums), (rows, len(sums)))
        ratios.append(sums[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(float(sums.sum() / weights.sum()), float(low), float(high), confidence, "bootstrap")


def mean_interval(values: ArrayLike) -> Interval:
    """The mean of any finite numbers, one a unit, with the percentile bootstrap over units as in `ratio_interval`.

    Raises:
        UserError: there is no unit, or a number is not finite.
    """
    return ratio_interval(values, np.ones(np.shape(values)))
