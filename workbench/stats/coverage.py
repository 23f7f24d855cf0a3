"""The coverage law with what it does not know: a fit to the curve, and fits to curves of resampled questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError
from workbench.stats.intervals import check_probability
from workbench.stats.samples import CoverageFit, fit_coverage
from workbench.types import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CoverageLaw:
    """log coverage = a·k^b (Brown et al. 2024, arXiv 2407.21787, §3.1).

    Attributes:
        fit: to the mean curve.
        a, b: its parameters with their intervals.
        fits: those of the resampled questions.
        failed: resamples that no law could be fitted to, as where no question is ever answered; they are in no
            interval.
        residual: largest distance between the law and the mean curve, as a share.
    """

    fit: CoverageFit
    a: Interval
    b: Interval
    fits: tuple[CoverageFit, ...]
    failed: int
    residual: float

    def coverage(self, k: float) -> Interval:
        """Coverage at k samples, also beyond those that were drawn, for which the law is an extrapolation."""
        return _interval(self.fit.coverage(k), [fit.coverage(k) for fit in self.fits], self.a.confidence)


def coverage_law(
    passes: ArrayLike, ks: Sequence[int], *, confidence: float = 0.95, resamples: int = 300, seed: int = 0
) -> CoverageLaw:
    """Fit the law to the mean of pass@k, and again to each of `resamples` bootstrap samples of the questions.

    The points of one curve share their samples, so that the fit's own standard errors mean little; questions are
    what was drawn at random, and the percentile bootstrap is over them.

    Args:
        passes: pass@k of each question, shape [questions, len(ks)].
        ks: numbers of samples; powers of two weigh every part of the curve alike.
        confidence: of the intervals.
        resamples, seed: of the questions.

    Raises:
        UserError: as `fit_coverage`, for the curve itself.
    """
    passes_QK = np.asarray(passes, dtype=np.float64)
    check_probability("confidence", confidence)
    if passes_QK.ndim != 2 or not len(passes_QK):
        raise UserError("passes must be numbers of the shape [questions, len(ks)], of one question or more.")
    mean_K = passes_QK.mean(axis=0)
    fit = fit_coverage(ks, mean_K.tolist())
    rng, questions = np.random.default_rng(seed), len(passes_QK)
    fits = []
    for _ in range(resamples):
        drawn_K = passes_QK[rng.integers(0, questions, questions)].mean(axis=0)
        try:
            fits.append(fit_coverage(ks, np.clip(drawn_K, 0, 1).tolist()))
        except UserError:
            continue
    return CoverageLaw(
        fit,
        _interval(fit.a, [one.a for one in fits], confidence),
        _interval(fit.b, [one.b for one in fits], confidence),
        tuple(fits),
        resamples - len(fits),
        float(max(abs(fit.coverage(k) - value) for k, value in zip(ks, mean_K, strict=True))),
    )


def _interval(value: float, values: Sequence[float], confidence: float) -> Interval:
    if not values:
        return Interval(value, value, value, confidence, "none")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value, float(low), float(high), confidence, "bootstrap")
