"""Several samples a question: pass@k, coverage as samples grow, and what best-of-n may change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range

Floats = NDArray[np.float64]


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """Chance that k of n samples, c of them right, hold a right one: 1 − C(n−c, k)/C(n, k).

    The unbiased estimator of Chen et al. 2021 (equation 1), unlike 1 − (1 − c/n)^k. n, c and k broadcast.

    Raises:
        UserError: a count is negative or no whole number, or c or k is above n.
    """
    n, c, k = np.broadcast_arrays(_counts("n", n), _counts("c", c), _counts("k", k))
    for name, values in (("c", c), ("k", k)):
        if np.any(values > n):
            raise UserError(f"{name} is {values[values > n][0]:g}, more than n = {n[values > n][0]:g}.")
    # The ratio is the same with c and k exchanged: a product of min(c, k) factors, each taken as a logarithm,
    # so that neither a binomial overflows nor a small probability drowns in rounding.
    fewer, more = np.minimum(c, k), np.maximum(c, k)
    log_miss = np.zeros(n.shape)
    with np.errstate(divide="ignore"):  # log1p(-1): no way to miss
        for i in range(int(fewer.max(initial=0))):
            left = np.where(i < fewer, n - i, np.inf)  # a finished product gets factors of 1
            log_miss += np.log1p(-np.minimum(more / left, 1.0))
            if np.all((log_miss < -40) | (i + 1 >= fewer)):  # 1 − e^−40 is 1 in double precision
                break
    return np.asarray(0.0 - np.expm1(log_miss))  # not −expm1, whose 0 is −0


def _counts(name: str, values: ArrayLike) -> Floats:
    counts = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts))):
        raise UserError(f"{name} must be whole numbers from 0 up; it is {values!r}.")
    return counts


def best_of_n_kl_bound(n: int) -> float:
    """Upper bound in nats on KL(best-of-n ‖ base): log n − (n − 1)/n.

    Stiennon et al. 2020, appendix G.3; a bound, not an equality (Beirami et al. 2024).
    """
    check_range("n", n, 1, 10**15)
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True)
class CoverageFit:
    """log coverage = a·k^b; the standard errors are None for two points, which leave no residual."""

    a: float
    b: float
    a_error: float | None
    b_error: float | None

    def coverage(self, k: float) -> float:
        """Coverage (pass@k) that the law gives for k samples."""
        return math.exp(self.a * k**self.b)


def fit_coverage(ks: Sequence[float], coverage: Sequence[float]) -> CoverageFit:
    """The exponentiated power law of repeated sampling, log coverage = a·k^b (Brown et al. 2024, §3.1).

    Least squares on coverage, started from the straight line of log(−log coverage) on log k, which it is for
    two points. The points of one curve share their samples, so the standard errors are on the small side.

    Args:
        ks: numbers of samples, from 1 up.
        coverage: pass@k at each, in [0, 1]. At least two different ks need one strictly between 0 and 1.

    Raises:
        UserError: there are too few points, one is out of range, or no law fits them.
    """
    if len(ks) != len(coverage):
        raise UserError(f"There are {len(ks)} ks and {len(coverage)} coverages: one is needed for each k.")
    for k, share in zip(ks, coverage, strict=True):
        check_range("k", float(k), 1, 1e15)
        check_range("coverage", float(share), 0, 1)
    log_k, shares = np.log(np.asarray(ks, dtype=np.float64)), np.asarray(coverage, dtype=np.float64)
    inside = (shares > 0) & (shares < 1)
    if len(np.unique(log_k[inside])) < 2:
        raise UserError("A coverage law needs two different ks whose coverage lies between 0 and 1.")
    slope, offset = np.polyfit(log_k[inside], np.log(-np.log(shares[inside])), 1)
    if len(shares) == 2:
        return CoverageFit(-math.exp(offset), float(slope), None, None)
    from scipy.optimize import curve_fit

    def law(x: Floats, log_a: float, b: float) -> Floats:
        return np.asarray(np.exp(-np.exp(log_a + b * x)))

    with np.errstate(over="ignore"):  # a far-off trial step: the law is then 0
        try:
            (log_a, b), covariance = curve_fit(law, log_k, shares, p0=(offset, slope))
        except RuntimeError as error:
            raise UserError("No coverage law fits these points: least squares does not settle.") from error
    a = -math.exp(log_a)
    log_a_error, b_error = np.sqrt(np.diag(covariance))
    return CoverageFit(a, float(b), abs(a) * float(log_a_error), float(b_error))
