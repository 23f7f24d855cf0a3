"""Whether a confidence can be believed: accuracy by confidence, how far they are apart, and entropy of votes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range
from workbench.stats.intervals import check_probability, check_scores, chunks, wilson_interval
from workbench.types import Interval

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Bin:
    """The questions whose confidence is in (low, high]; the first bin holds 0 too.

    `accuracy` has Wilson's interval; `confidence` is the mean one. Of an empty bin the confidence is its middle,
    and the accuracy's interval is [0, 1].
    """

    low: float
    high: float
    total: int
    right: int
    confidence: float
    accuracy: Interval


def reliability(confidences: ArrayLike, right: ArrayLike, bins: int = 10) -> list[Bin]:
    """A reliability diagram's bins, of equal width, from 0 to 1 (Guo et al. 2017, arXiv 1706.04599, §2).

    Args:
        confidences: in [0, 1], shape [questions].
        right: whether the answer was, 0 or 1, shape [questions].
        bins: how many.

    Raises:
        UserError: the lengths differ, or a value is out of range.
    """
    check_range("bins", bins, 1, 1000)
    confidences, right = _pairs(confidences, right)
    # A confidence on an edge, as 6/10, is in the bin below, whichever way a float of it was rounded.
    places = np.clip(np.ceil(confidences * bins - 1e-9).astype(int) - 1, 0, bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        total, hits = int(inside.sum()), int(right[inside].sum())
        low, high = place / bins, (place + 1) / bins
        mean = float(confidences[inside].mean()) if total else (low + high) / 2
        found.append(Bin(low, high, total, hits, mean, wilson_interval(hits, total)))
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Σ (questions of the bin / all) · |accuracy − mean confidence| (Guo et al. 2017, equation 3).

    Few questions make it larger than it is: an accuracy that is off by chance counts, in whichever direction. It
    depends on the bins, and has no honest interval; `calibration_gap` has one.

    Raises:
        UserError: there is no question.
    """
    total = sum(b.total for b in bins)
    if not total:
        raise UserError("There is no question whose confidence could be compared.")
    return sum(b.total * abs(b.accuracy.value - b.confidence) for b in bins) / total


def calibration_gap(confidences: ArrayLike, right: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean confidence minus accuracy, in [−1, 1]; above 0 is too sure. Percentile bootstrap over questions.

    Raises:
        UserError: as `reliability`, or there is no question.
    """
    confidences, right = _pairs(confidences, right)
    return _bootstrapped(confidences, right, lambda c, r: (c - r).mean(axis=1), confidence)


def correlation(confidences: ArrayLike, right: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Pearson's correlation of confidence with being right (point-biserial), bootstrapped over questions.

    None where it is not defined: every confidence is the same, or all are right, or none is. Resamples in which it
    is not defined are left out of the interval.

    Raises:
        UserError: as `reliability`, or there is no question.
    """
    confidences, right = _pairs(confidences, right)
    if len(confidences) and (np.ptp(confidences) == 0 or np.ptp(right) == 0):
        return None

    def pearson(c: Floats, r: Floats) -> Floats:
        c, r = c - c.mean(axis=1, keepdims=True), r - r.mean(axis=1, keepdims=True)
        spread = np.sqrt((c**2).sum(axis=1) * (r**2).sum(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(spread > 1e-12, (c * r).sum(axis=1) / spread, np.nan))

    return _bootstrapped(confidences, right, pearson, confidence)


def entropy(counts: Sequence[float]) -> float:
    """−Σ p log p in nats, where p is each count's share of their sum; 0 log 0 is 0.

    Raises:
        UserError: a count is negative or not finite, or their sum is 0.
    """
    for count in counts:
        check_range("a count", count, 0, 1e15)
    total = sum(counts)
    if not total:
        raise UserError("The counts are all 0, so that there is no distribution whose entropy could be told.")
    return max(0.0, -math.fsum(n / total * math.log(n / total) for n in counts if n))


def _pairs(confidences: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    c, r = check_scores("confidences", confidences), check_scores("right", right)
    if len(c) != len(r):
        raise UserError(f"There are {len(c)} confidences and {len(r)} answers: one each is needed.")
    if not set(np.unique(r)) <= {0.0, 1.0}:
        raise UserError("right must be 0 or 1 for each question.")
    return c, r


def _bootstrapped(c: Floats, r: Floats, statistic: Statistic, confidence: float) -> Interval:
    """The statistic of rows of resampled questions; shape [resamples, questions] → [resamples]."""
    if not len(c):
        raise UserError("There is no question whose confidence could be compared.")
    tail = (1 - check_probability("confidence", confidence)) / 2
    rng = np.random.default_rng(0)
    drawn = []
    for rows in chunks(10_000, len(c)):
        places = rng.integers(0, len(c), (rows, len(c)))
        drawn.append(statistic(c[places], r[places]))
    low, high = np.nanquantile(np.concatenate(drawn), [tail, 1 - tail])
    return Interval(float(statistic(c[None], r[None])[0]), float(low), float(high), confidence, "bootstrap")
