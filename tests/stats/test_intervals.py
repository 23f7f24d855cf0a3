"""Intervals: against scipy, their coverage, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from workbench import stats
from workbench.errors import UserError


@given(st.integers(1, 2000), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(total, data, confidence):
    successes = data.draw(st.integers(0, total))
    ours = stats.wilson_interval(successes, total, confidence)
    theirs = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_wilson_covers_what_it_says():
    hits = np.arange(61)
    covered = [stats.wilson_interval(int(c), 60) for c in hits]
    inside = np.array([interval.low <= 0.3 <= interval.high for interval in covered])
    assert binom.pmf(hits, 60, 0.3) @ inside == pytest.approx(0.95, abs=0.02)


def test_nothing_seen_is_known_to_lie_between_0_and_1():
    for interval in (stats.wilson_interval(0, 0), stats.bootstrap_interval([])):
        assert (interval.low, interval.high) == (0, 1)


@pytest.mark.parametrize("arguments", [(5, 4), (-1, 4), (1, 4, 1.0), (1, 4, 95), (1, -1)])
def test_wilson_refuses(arguments):
    with pytest.raises(UserError):
        stats.wilson_interval(*arguments)


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    scores = np.random.default_rng(0).random(400)
    interval = stats.bootstrap_interval(scores, seed=3)
    half = 1.96 * scores.std() / 20
    assert interval.value == pytest.approx(scores.mean())
    assert (interval.low, interval.high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.003)
    assert interval == stats.bootstrap_interval(scores, seed=3)
    assert interval != stats.bootstrap_interval(scores, seed=4)
    narrow = stats.bootstrap_interval(scores, confidence=0.5, seed=3)
    assert interval.low < narrow.low < narrow.high < interval.high


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30))
@settings(max_examples=40)
def test_bootstrap_contains_its_estimate_and_has_a_width(scores):
    interval = stats.bootstrap_interval(scores, resamples=500)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high


@pytest.mark.parametrize("scores", [[1.5], [-0.1, 0.2], [float("nan")], [[0.1, 0.2]]])
def test_scores_out_of_range_are_refused(scores):
    with pytest.raises(UserError, match="scores must be"):
        stats.bootstrap_interval(scores)
