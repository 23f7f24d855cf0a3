"""Statistics of sampled answers: estimators, intervals, tests and fits; pure functions of numbers.

Everything random takes a seed and gives the same numbers for it. An empty input answers with what nothing
says: an interval of [0, 1], a p-value of 1.
"""

from workbench.stats.best_of_n import best_of_n_at_k, best_of_n_curve
from workbench.stats.bradley_terry import bradley_terry
from workbench.stats.calibration import (
    Bin,
    calibration_gap,
    correlation,
    entropy,
    expected_calibration_error,
    reliability,
)
from workbench.stats.compute_optimal import (
    Chosen,
    Difficulty,
    best_of_after,
    check_bins,
    choose,
    first_look,
    fit_difficulty,
    folds,
)
from workbench.stats.coverage import CoverageLaw, coverage_law
from workbench.stats.early_stop import EarlyStop, early_stop, leader_confidence, settled
from workbench.stats.intervals import bootstrap_interval, wilson_interval
from workbench.stats.kl import kl_estimates
from workbench.stats.labels import calibrated, label_probabilities, macro_f1, macro_f1_interval
from workbench.stats.majority import majority_at_k, majority_curve
from workbench.stats.over_optimisation import ProxyView, best_of_n_kl, proxy_view
from workbench.stats.paired import (
    PairedDifference,
    holm,
    mcnemar_exact,
    minimum_detectable_effect,
    paired_bootstrap,
)
from workbench.stats.pool import Curve, pass_curve, pool_curves, vote_curve
from workbench.stats.ratios import mean_interval, ratio_interval
from workbench.stats.samples import CoverageFit, best_of_n_kl_bound, fit_coverage, pass_at_k
from workbench.stats.spread import Spread, paired_spread_test, spread

__all__ = [
    "Bin",
    "Chosen",
    "CoverageFit",
    "CoverageLaw",
    "Curve",
    "Difficulty",
    "EarlyStop",
    "PairedDifference",
    "ProxyView",
    "Spread",
    "best_of_after",
    "best_of_n_at_k",
    "best_of_n_curve",
    "best_of_n_kl",
    "best_of_n_kl_bound",
    "bootstrap_interval",
    "bradley_terry",
    "calibrated",
    "calibration_gap",
    "check_bins",
    "choose",
    "correlation",
    "coverage_law",
    "early_stop",
    "entropy",
    "expected_calibration_error",
    "first_look",
    "fit_coverage",
    "fit_difficulty",
    "folds",
    "holm",
    "kl_estimates",
    "label_probabilities",
    "leader_confidence",
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
    "pass_curve",
    "pool_curves",
    "proxy_view",
    "ratio_interval",
    "reliability",
    "settled",
    "spread",
    "vote_curve",
    "wilson_interval",
]
