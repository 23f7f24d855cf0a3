"""Accuracy by confidence, how far the two are apart, and the entropy of votes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.stats import calibration_gap, correlation, entropy, expected_calibration_error, reliability


def test_bins_count_each_question_once_and_edges_go_down() -> None:
    bins = reliability([0.0, 0.1, 0.3, 0.6, 0.61, 1.0], [0, 1, 0, 1, 0, 1])
    assert [b.total for b in bins] == [2, 0, 1, 0, 0, 1, 1, 0, 0, 1]
    assert [b.right for b in bins] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert bins[0].confidence == pytest.approx(0.05) and bins[1].confidence == pytest.approx(0.15)
    assert (bins[1].accuracy.low, bins[1].accuracy.high) == (0, 1)


def test_the_error_of_a_worked_example() -> None:
    # Two bins of two: confidence .25 with accuracy .5, confidence .9 with accuracy .5: (.25 + .4)/2.
    bins = reliability([0.2, 0.3, 0.85, 0.95], [0, 1, 1, 0], bins=2)
    assert expected_calibration_error(bins) == pytest.approx(0.325)
    gap = calibration_gap([0.2, 0.3, 0.85, 0.95], [0, 1, 1, 0])
    assert gap.value == pytest.approx(0.075) and gap.low <= gap.value <= gap.high


def test_correlation_is_pearsons() -> None:
    c, r = [0.1, 0.4, 0.5, 0.9, 0.8, 0.2], [0, 0, 1, 1, 1, 0]
    found = correlation(c, r)
    assert found is not None
    assert found.value == pytest.approx(float(np.corrcoef(c, r)[0, 1]))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert correlation([0.5, 0.5], [0, 1]) is None
    assert correlation([0.5, 0.6], [1, 1]) is None


def test_entropy_of_the_worked_votes() -> None:
    shares = [20 / 32, 7 / 32, 5 / 32]
    assert entropy([20, 7, 5]) == pytest.approx(-sum(p * math.log(p) for p in shares))
    assert entropy([20, 7, 5]) == pytest.approx(0.916261, abs=1e-6)
    assert entropy([32]) == 0 and entropy([1, 1, 0]) == pytest.approx(math.log(2))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_entropy_lies_between_none_and_all_alike(counts: list[int]) -> None:
    assert 0 <= entropy(counts) <= math.log(sum(n > 0 for n in counts)) + 1e-12


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=60), st.integers(1, 20))
def test_bins_hold_all_and_the_error_is_at_least_the_gap(pairs: list[tuple[float, int]], count: int) -> None:
    confidences, right = [c for c, _ in pairs], [r for _, r in pairs]
    bins = reliability(confidences, right, count)
    assert sum(b.total for b in bins) == len(pairs) and sum(b.right for b in bins) == sum(right)
    for b in bins:
        assert b.total == 0 or b.low - 1e-8 <= b.confidence <= b.high + 1e-8
    error = expected_calibration_error(bins)
    assert abs(sum(confidences) - sum(right)) / len(pairs) - 1e-9 <= error <= 1


@pytest.mark.parametrize(
    ("confidences", "right", "message"),
    [
        ([0.5], [1, 0], "1 confidences and 2 answers"),
        ([1.5], [1], "confidences must be"),
        ([math.nan], [1], "confidences must be"),
        ([0.5], [0.5], "right must be 0 or 1"),
    ],
)
def test_bad_input_is_named(confidences: list[float], right: list[float], message: str) -> None:
    for statistic in (reliability, calibration_gap, correlation):
        with pytest.raises(UserError, match=message):
            statistic(confidences, right)


def test_nothing_has_no_statistic() -> None:
    for statistic in (calibration_gap, correlation):
        with pytest.raises(UserError, match="no question"):
            statistic([], [])
    with pytest.raises(UserError, match="no question"):
        expected_calibration_error(reliability([], []))
    for counts in ([], [0, 0]):
        with pytest.raises(UserError, match="all 0"):
            entropy(counts)
    with pytest.raises(UserError, match="a count is -1"):
        entropy([-1])
