"""The ratio of two sums: its value, its interval, and what it refuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.stats import bootstrap_interval, mean_interval, ratio_interval

UNITS = st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 200)), min_size=1, max_size=20)


def test_worked_numbers() -> None:
    found = ratio_interval([2.0, 4.0, 0.0], [1, 3, 4])
    assert found.value == 6 / 8
    assert found.low == 0.0 and found.high == 2.0, "the worst and the best unit drawn three times"
    assert found.method == "bootstrap"


def test_with_equal_weights_it_is_the_bootstrap_of_the_mean() -> None:
    scores = np.random.default_rng(1).random(30)
    assert ratio_interval(scores, np.ones(30)) == bootstrap_interval(scores) == mean_interval(scores)


def test_a_mean_is_of_any_finite_numbers() -> None:
    found = mean_interval([-3.0, 1.0, 5.0])
    assert (found.value, found.low, found.high) == (1.0, -3.0, 5.0)
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(UserError):
            mean_interval(bad)


@given(UNITS)
def test_the_interval_lies_within_the_units(units: list[tuple[float, int]]) -> None:
    sums, weights = zip(*units, strict=True)
    found = ratio_interval(sums, weights, resamples=200)
    ratios = [s / w for s, w in units]
    assert min(ratios) - 1e-9 <= found.low <= found.high <= max(ratios) + 1e-9
    assert math.isclose(found.value, math.fsum(sums) / sum(weights), abs_tol=1e-9)


def test_no_difference_is_zero_without_width() -> None:
    found = ratio_interval([0.0] * 9, range(1, 10))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_longer_units_weigh_more() -> None:
    assert ratio_interval([10.0, 0.0], [1, 9]).value == 1.0


@pytest.mark.parametrize(
    "sums, weights",
    [([], []), ([1.0], [1, 2]), ([1.0], [0]), ([math.nan], [1]), ([1.0], [math.inf]), ([[1.0]], [[1]])],
)
def test_what_has_no_ratio_is_refused(sums: list[float], weights: list[float]) -> None:
    with pytest.raises(UserError, match="sums"):
        ratio_interval(sums, weights)
