"""pass@k, the coverage law and best-of-n: worked numbers, brute force over subsets, laws that must hold."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError


def test_pass_at_k_worked_numbers():
    assert stats.pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=1e-6)
    assert stats.pass_at_k(200, 1, 100) == pytest.approx(0.5, abs=1e-12)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_hit(case):
    n, c, k = case
    subsets = list(itertools.combinations(range(n), k))
    share = sum(any(i < c for i in subset) for subset in subsets) / len(subsets)
    assert stats.pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


@given(st.integers(1, 3000), st.data())
def test_pass_at_k_equals_exact_integers(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - (math.comb(n - c, k) / math.comb(n, k))
    assert stats.pass_at_k(n, c, k) == pytest.approx(exact, abs=1e-12)


def test_pass_at_k_keeps_its_digits_where_it_is_tiny():
    assert stats.pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-12)


def test_pass_at_k_broadcasts_and_rises_with_k():
    table = stats.pass_at_k(50, np.arange(51)[:, None], np.arange(1, 51)[None, :])
    assert table.shape == (51, 50)
    assert np.all(np.diff(table, axis=1) >= -1e-12)
    assert np.all(table[0] == 0) and not np.any(np.signbit(table))
    assert np.all(table[40:, 10:] == 1)  # ten wrong ones cannot fill a subset of eleven
    assert np.all(table[:, 0] == pytest.approx(np.arange(51) / 50))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((5, 6, 1), "c"),
        ((5, 1, 6), "k"),
        ((-1, 0, 0), "n"),
        ((5, -1, 1), "c"),
        ((5, 1.5, 1), "c"),
        ((float("nan"), 1, 1), "n"),
        (([5, 5], [1, 6], 1), "c"),
    ],
)
def test_pass_at_k_names_the_field_it_refuses(arguments, field):
    with pytest.raises(UserError, match=f"^{field} "):
        stats.pass_at_k(*arguments)


@pytest.mark.parametrize(("n", "bound"), [(1, 0), (4, 0.636294), (16, 1.835089), (64, 3.174508)])
def test_best_of_n_kl_bound(n, bound):
    assert stats.best_of_n_kl_bound(n) == pytest.approx(bound, abs=1e-6)


def test_best_of_n_kl_is_below_its_bound_for_a_coin():
    best = 1 - 0.5**4  # best of 4 where half of the answers are good
    kl = best * math.log(best / 0.5) + (1 - best) * math.log((1 - best) / 0.5)
    assert kl < stats.best_of_n_kl_bound(4)


def test_coverage_law_through_two_points():
    fit = stats.fit_coverage([1, 250], [0.159, 0.56])
    assert (fit.a, fit.b) == pytest.approx((-1.8389, -0.2090), abs=1e-4)
    assert [fit.coverage(k) for k in (1, 5, 250)] == pytest.approx([0.159, 0.2689, 0.56], abs=1e-4)
    assert fit.a_error is None and fit.b_error is None


def test_coverage_law_is_recovered_with_errors_that_cover_it():
    ks = 2.0 ** np.arange(10)
    truth = np.exp(-2.0 * ks**-0.3)
    exact = stats.fit_coverage(list(ks), list(truth))
    assert (exact.a, exact.b) == pytest.approx((-2.0, -0.3), abs=1e-6)
    rng = np.random.default_rng(0)
    fits = [stats.fit_coverage(list(ks), list(truth + rng.normal(0, 0.01, 10))) for _ in range(100)]
    for name, value in (("a", -2.0), ("b", -0.3)):
        within = [abs(getattr(fit, name) - value) < 2 * getattr(fit, f"{name}_error") for fit in fits]
        assert 0.85 < np.mean(within) <= 1


def test_coverage_law_takes_saturated_points():
    fit = stats.fit_coverage([1, 4, 16, 64], [0.2, 0.6, 0.95, 1.0])
    assert fit.coverage(64) > 0.9 and fit.a < 0


@pytest.mark.parametrize(
    ("ks", "coverage"),
    [([1], [0.5]), ([1, 2], [0, 1]), ([2, 2], [0.4, 0.5]), ([1, 2], [0.5]), ([0, 2], [0.1, 0.2])],
)
def test_coverage_law_refuses_what_it_cannot_fit(ks, coverage):
    with pytest.raises(UserError):
        stats.fit_coverage(ks, coverage)
