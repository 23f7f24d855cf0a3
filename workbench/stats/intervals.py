"""Intervals of one accuracy: Wilson's and the bootstrap, and the parts that the paired tests share."""

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range
from workbench.types import Interval

Floats = NDArray[np.float64]


def wilson_interval(successes: float, total: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; recommended by Brown, Cai & DasGupta 2001).

    Nothing seen gives the value 0 and the interval [0, 1].

    Raises:
        UserError: `successes` is not in 0 … `total`, or `confidence` not between 0 and 1.
    """
    check_range("total", total, 0, 10**15)
    check_range("successes", successes, 0, total)
    z = two_sided_z(confidence)
    if total == 0:
        return Interval(0.0, 0.0, 1.0, confidence, "wilson")
    share = successes / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / scale
    # At 0 and at 1 the bound is the estimate itself, which rounding would miss by a hair.
    low = 0.0 if successes == 0 else min(share, centre - half)
    high = 1.0 if successes == total else max(share, centre + half)
    return Interval(share, low, high, confidence, "wilson")


def bootstrap_interval(
    scores: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean over questions (Efron & Tibshirani 1993, §13.3).

    Scores that are all the same would give an interval of no width. They get Wilson's instead, which is wide
    enough: a score in [0, 1] of mean p varies no more than p(1 − p).

    Args:
        scores: one in [0, 1] a question, its samples' mean; shape [questions].
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: fixes them.
    """
    scores = check_scores("scores", scores)
    if len(np.unique(scores)) < 2:
        return wilson_interval(float(scores.sum()), len(scores), confidence)
    low, high = percentile_bounds(scores, confidence, resamples, seed)
    return Interval(float(scores.mean()), low, high, confidence, "bootstrap")


def percentile_bounds(values: Floats, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """The bounds that hold the middle `confidence` of the resampled means."""
    check_range("resamples", resamples, 1, 10**9)
    tail = (1 - check_probability("confidence", confidence)) / 2
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1)
            for rows in chunks(resamples, len(values))
        ]
    )
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def chunks(resamples: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to `resamples`, each chunk of at most a million numbers."""
    rows = max(1, 10**6 // max(1, width))
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def check_scores(name: str, values: ArrayLike) -> Floats:
    """Scores as an array of shape [questions], refused where one is not in [0, 1]."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not np.all((scores >= 0) & (scores <= 1)):
        raise UserError(f"{name} must be one number in [0, 1] a question.")
    return scores


def check_probability(name: str, value: float) -> float:
    """The value itself, refused where it does not lie strictly between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"{name} is {value!r}; it must lie between 0 and 1, as 0.95 does.")
    return value


def two_sided_z(confidence: float) -> float:
    """How many standard deviations hold the middle `confidence` of a normal distribution."""
    return NormalDist().inv_cdf((1 + check_probability("confidence", confidence)) / 2)
