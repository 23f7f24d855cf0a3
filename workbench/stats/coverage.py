"""The coverage law with what it does not know: a fit to the curve, and fits to curves of resampled questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError
from workbench.stats.intervals import check_probability, wilson_interval
from workbench.stats.samples import CoverageFit, fit_coverage
from workbench.types import Interval

Floats = NDArray[np.float64]

ALIKE = 1e-9  # shares that differ by rounding alone


@dataclass(frozen=True)
class CoverageLaw:
    """log coverage = a·k^b (Brown et al. 2024, arXiv 2407.21787, §3.1).

    Attributes:
        fit: to the mean curve.
        a, b: its parameters with their intervals; None where one question, or several that are all alike, say
            nothing of how others differ.
        fits: those of the resampled questions; none in that case.
        failed: resamples that no law could be fitted to, as where no question is ever answered; they are in no
            interval.
        residual: largest distance between the law and the mean curve, as a share.
        questions: that the curve is over.
        confidence: of the intervals.
    """

    fit: CoverageFit
    a: Interval | None
    b: Interval | None
    fits: tuple[CoverageFit, ...]
    failed: int
    residual: float
    questions: int
    confidence: float

    def coverage(self, k: float) -> Interval:
        """Coverage at k samples, also beyond those that were drawn, for which the law is an extrapolation.

        The interval is Wilson's where there are no fits, as it is for scores that are all the same.
        """
        value = self.fit.coverage(k)
        if not self.fits:
            return wilson_interval(value * self.questions, self.questions, self.confidence)
        return _interval(value, [fit.coverage(k) for fit in self.fits], self.confidence)


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
    if (np.ptp(passes_QK, axis=0) < ALIKE).all():
        resamples = 0  # each would be the curve itself
    for _ in range(resamples):
        drawn_K = passes_QK[rng.integers(0, questions, questions)].mean(axis=0)
        try:
            fits.append(fit_coverage(ks, np.clip(drawn_K, 0, 1).tolist()))
        except UserError:
            continue
    return CoverageLaw(
        fit,
        _interval(fit.a, [one.a for one in fits], confidence) if fits else None,
        _interval(fit.b, [one.b for one in fits], confidence) if fits else None,
        tuple(fits),
        resamples - len(fits),
        float(max(abs(fit.coverage(k) - value) for k, value in zip(ks, mean_K, strict=True))),
        questions,
        confidence,
    )


def _interval(value: float, values: Sequence[float], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail]).tolist()
    return Interval(value, min(value, low), max(value, high), confidence, "bootstrap")
