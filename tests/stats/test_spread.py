"""Spread over variants and the exchange test of it: worked numbers, properties, and how often it is wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError

SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9)


def test_a_spread_by_hand():
    found = stats.spread([0.2, 0.5, 0.4, 0.9])
    assert (found.worst, found.median, found.mean, found.best) == (0.2, 0.45, 0.5, 0.9)
    assert found.deviation == pytest.approx(np.sqrt((0.09 + 0 + 0.01 + 0.16) / 3))
    assert stats.spread([0.7]) == stats.Spread(0.7, 0.7, 0.7, 0.7, 0.0)
    with pytest.raises(UserError, match="no variant"):
        stats.spread([])


def test_the_exchange_test_by_hand():
    """Deviations ±3, ±3 against ±1, ±1: terms 8, 8, 8, 8; of 16 exchanges two are as extreme."""
    assert stats.paired_spread_test([3, -3, 3, -3], [1, -1, 1, -1]) == 2 / 16
    # Deviations 2, 0, −2 against 1, 0, −1: terms 3, 0, 3. The sum is 6 in size for equal signs of the two.
    assert stats.paired_spread_test([2, 0, -2], [1, 0, -1]) == 1 / 2
    assert stats.paired_spread_test([], []) == 1.0
    with pytest.raises(UserError, match="3 variants and second 2"):
        stats.paired_spread_test([1, 2, 3], [1, 2])


@given(SCORES, st.floats(-1, 1))
def test_it_does_not_depend_on_which_is_first_nor_on_the_means(pairs, shift):
    first, second = zip(*pairs, strict=True)
    p = stats.paired_spread_test(first, second)
    assert 2 / 2 ** len(pairs) <= p <= 1
    assert stats.paired_spread_test(second, first) == p
    assert stats.paired_spread_test(first, first) == 1


def test_random_exchanges_agree_with_all_of_them():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1.0, 13), rng.normal(0, 0.6, 13)
    exact = stats.paired_spread_test(first, second)
    # A fourteenth variant at both means adds a term of about nothing.
    more = stats.paired_spread_test([*first, first.mean()], [*second, second.mean()])
    assert 0 < exact < 1 and more == pytest.approx(exact, abs=0.02)


def test_equal_spreads_are_called_different_one_time_in_twenty_and_unequal_ones_often():
    rng = np.random.default_rng(1)

    def found(second: float) -> float:
        trials = rng.normal(size=(400, 2, 12)) * np.array([1.0, second])[:, None]
        return float(np.mean([stats.paired_spread_test(*trial) < 0.05 for trial in trials]))

    assert found(1.0) < 0.09
    assert found(0.2) > 0.8
