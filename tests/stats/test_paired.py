"""Two systems on the same questions: against scipy, by hand, and by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from workbench import stats
from workbench.errors import UserError


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_equals_scipys_binomial_test(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert stats.mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    assert stats.mcnemar_exact(0, 5) == 0.0625  # 2/32: five are not enough at .05
    assert stats.mcnemar_exact(6, 0) == 0.03125
    assert 0 <= stats.mcnemar_exact(2000, 9000) < 1e-300


@pytest.mark.parametrize(("b", "c"), [(3, 12), (10, 10), (0, 1), (20, 9), (0, 4)])
def test_paired_p_value_is_mcnemars_for_right_and_wrong(b, c):
    first = np.repeat([1, 0, 1, 0], [b, c, 15, 9])
    second = np.repeat([0, 1, 1, 0], [b, c, 15, 9])
    paired = stats.paired_bootstrap(first, second, resamples=20_000)
    assert paired.difference.value == pytest.approx((b - c) / len(first))
    assert paired.p_value == pytest.approx(stats.mcnemar_exact(b, c), abs=0.015)
    assert paired.difference.low <= paired.difference.value <= paired.difference.high


def test_paired_interval_is_near_the_normal_one():
    rng = np.random.default_rng(0)
    second = rng.random(500) * 0.8
    first = np.clip(second + rng.normal(0.05, 0.1, 500), 0, 1)
    gaps = first - second
    half = 1.96 * gaps.std() / math.sqrt(500)
    paired = stats.paired_bootstrap(first, second)
    assert (paired.difference.low, paired.difference.high) == pytest.approx(
        (gaps.mean() - half, gaps.mean() + half), abs=0.001
    )
    assert paired.p_value == 1 / 10_001  # never 0
    assert paired == stats.paired_bootstrap(first, second)


def test_paired_is_antisymmetric():
    first, second = [1, 1, 0, 1, 0.5, 1], [0, 1, 0, 0.25, 1, 0]
    there, back = stats.paired_bootstrap(first, second), stats.paired_bootstrap(second, first)
    assert there.p_value == back.p_value
    assert there.difference.low == pytest.approx(-back.difference.high)


def test_identical_systems_differ_by_0_with_a_width():
    paired = stats.paired_bootstrap([1] * 20, [1] * 20)
    assert paired.p_value == 1
    half = 1.959964 * math.sqrt(2 / 22 / 22)  # one pseudo-question each way, of 22
    assert (paired.difference.low, paired.difference.high) == pytest.approx((-half, half), abs=1e-6)


def test_few_questions_prove_nothing():
    one = stats.paired_bootstrap([1], [0])
    assert one.p_value == 1 and one.difference.low < 0 < one.difference.high
    none = stats.paired_bootstrap([], [])
    assert (none.difference.low, none.difference.high, none.p_value) == (-1, 1, 1)


def test_unequal_lengths_are_refused():
    with pytest.raises(UserError, match=r"3 questions .* 2"):
        stats.paired_bootstrap([1, 0, 1], [1, 0])


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1, 1]
    assert stats.holm([]) == []
    with pytest.raises(UserError):
        stats.holm([0.1, 1.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(p_values, random):
    adjusted = stats.holm(p_values)
    by_p = sorted(zip(p_values, adjusted, strict=True))
    assert all(low[1] <= high[1] for low, high in itertools.pairwise(by_p))
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in by_p)
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert stats.holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@given(st.integers(10, 5000), st.floats(0.05, 1.0))
def test_minimum_detectable_effect_solves_its_formula(total, discordance):
    delta = stats.minimum_detectable_effect(total, discordance)
    psi = max(discordance, delta)
    needed = (1.959964 * math.sqrt(psi) + 0.841621 * math.sqrt(psi - delta**2)) ** 2 / delta**2
    assert needed == pytest.approx(total, rel=1e-4)
    assert stats.minimum_detectable_effect(2 * total, discordance) < delta


def test_minimum_detectable_effect_has_its_power():
    rng = np.random.default_rng(0)
    total, psi = 400, 0.3
    delta = stats.minimum_detectable_effect(total, psi)
    draws = rng.multinomial(total, [(psi + delta) / 2, (psi - delta) / 2, 1 - psi], size=2000)
    found = np.mean([stats.mcnemar_exact(int(b), int(c)) < 0.05 for b, c, _ in draws])
    assert found == pytest.approx(0.8, abs=0.05)  # the exact test is a little weaker than the formula


def test_no_questions_detect_nothing():
    assert stats.minimum_detectable_effect(0) == 1
    assert stats.minimum_detectable_effect(2) == 1
