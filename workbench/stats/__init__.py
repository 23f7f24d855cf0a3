"""Statistics of sampled answers: estimators, intervals, tests and fits; pure functions of numbers.

Everything random takes a seed and gives the same numbers for it. An empty input answers with what nothing
says: an interval of [0, 1], a p-value of 1.
"""

from workbench.stats.best_of_n import best_of_n_at_k, best_of_n_curve
from workbench.stats.calibration import (
    Bin,
    calibration_gap,
    correlation,
    entropy,
    expected_calibration_error,
    reliability,
)
from workbench.stats.intervals import bootstrap_interval, wilson_interval
from workbench.stats.kl import kl_estimates
from workbench.stats.labels import calibrated, label_probabilities, macro_f1, macro_f1_interval
from workbench.stats.majority import majority_at_k, majority_curve
from workbench.stats.paired import (
    PairedDifference,
    holm,
    mcnemar_exact,
    minimum_detectable_effect,
    paired_bootstrap,
)
from workbench.stats.ratios import mean_interval, ratio_interval
from workbench.stats.samples import CoverageFit, best_of_n_kl_bound, fit_coverage, pass_at_k
from workbench.stats.spread import Spread, paired_spread_test, spread

__all__ = [
    "Bin",
    "CoverageFit",
    "PairedDifference",
    "Spread",
    "best_of_n_at_k",
    "best_of_n_curve",
    "best_of_n_kl_bound",
    "bootstrap_interval",
    "calibrated",
    "calibration_gap",
    "correlation",
    "entropy",
    "expected_calibration_error",
    "fit_coverage",
    "holm",
    "kl_estimates",
    "label_probabilities",
    "macro_f1",
    "macro_f1_interval",
    "majority_at_k",
    "majority_curve",
    "mcnemar_exact",
    "mean_interval",
    "minimum_detectable_effect",
    "paired_bootstrap",
    "paired_spread_test",
    "pass_at_k",
    "ratio_interval",
    "reliability",
    "spread",
    "wilson_interval",
]
