"""How far scores scatter over variants of one thing, and whether they scatter less after a change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import UserError

EXACT = 13  # pairs up to which every exchange is tried: 2^13 = 8,192


@dataclass(frozen=True)
class Spread:
    """Scores over variants. `deviation` is the sample standard deviation (n − 1); 0 for one variant."""

    worst: float
    median: float
    mean: float
    best: float
    deviation: float


def spread(scores: Sequence[float]) -> Spread:
    """The spread of one score a variant.

    Raises:
        UserError: there is no score.
    """
    if not scores:
        raise UserError("There is no variant whose scores could spread.")
    x = np.asarray(scores, dtype=np.float64)
    deviation = float(x.std(ddof=1)) if len(x) > 1 else 0.0
    return Spread(float(x.min()), float(np.median(x)), float(x.mean()), float(x.max()), deviation)


def paired_spread_test(
    first: Sequence[float], second: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of equal spread: the variances of two scores of the same variants.

    The test of Pitman (1939) and Morgan (1939) by exchange in place of the normal distribution: with each
    score taken from its mean, the difference of the variances is the sum of x² − y² over the variants, and
    where both spread alike, exchanging a variant's x and y only flips the sign of its term. All exchanges up to
    13 variants, `resamples` random ones beyond. n variants give no p-value below 2/2^n: five cannot reach .05.

    Raises:
        UserError: the lengths differ.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(x) != len(y):
        raise UserError(f"first has {len(x)} variants and second {len(y)}: they must be the same.")
    if not len(x):
        return 1.0
    terms = (x - x.mean()) ** 2 - (y - y.mean()) ** 2
    n = len(terms)
    observed = abs(float(terms.sum())) - 1e-12  # sums of the same terms in another order are equal
    if n <= EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ terms) >= observed))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (resamples, n))
    return (int((np.abs(signs @ terms) >= observed).sum()) + 1) / (resamples + 1)
