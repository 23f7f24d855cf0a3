"""Best of n: exact expectations over all subsets."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError

samples = st.lists(
    st.tuples(st.sampled_from([-math.inf, -1.5, 0.0, 0.25, 3.0]), st.sampled_from([0, 1])), min_size=1, max_size=9
)


def chosen(subset):
    """Right or wrong of the best-scored sample of a subset, the first of equal ones."""
    score, place = max((score, -place) for place, (score, _) in subset)
    return 0 if score == -math.inf else dict(subset)[-place][1]


@given(samples, st.data())
def test_it_is_the_mean_choice_over_all_subsets(found, data):
    k = data.draw(st.integers(1, len(found)))
    choices = [chosen(subset) for subset in itertools.combinations(enumerate(found), k)]
    scores, correct = zip(*found, strict=True)
    assert stats.best_of_n_at_k(scores, correct, k) == pytest.approx(sum(choices) / len(choices), abs=1e-12)


def test_worked_numbers():
    scores, correct = [0.9, 0.6, 0.5], [0, 1, 1]  # the wrong one is liked best
    assert stats.best_of_n_at_k(scores, correct, 1) == pytest.approx(2 / 3)
    assert stats.best_of_n_at_k(scores, correct, 2) == pytest.approx(1 / 3)  # of three pairs one has it not
    assert stats.best_of_n_at_k(scores, correct, 3) == 0
    assert stats.best_of_n_at_k([1.0, 1.0], [1, 0], 2) == 1, "of equal scores the earlier one"
    assert stats.best_of_n_at_k([-math.inf, -5.0], [1, 0], 2) == 0, "what cannot be chosen is not"
    assert stats.best_of_n_at_k([-math.inf, -math.inf], [1, 1], 2) == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_scorer_that_knows_reaches_pass_at_k_and_a_constant_one_the_mean(seed, n):
    rng = np.random.default_rng(seed)
    correct, k = rng.integers(0, 2, n), int(rng.integers(1, n + 1))
    knowing = stats.best_of_n_at_k(correct.astype(float), correct, k)
    assert knowing == pytest.approx(float(stats.pass_at_k(n, correct.sum(), k)), abs=1e-9)
    assert stats.best_of_n_at_k(rng.normal(size=n), correct, 1) == pytest.approx(correct.mean())


def test_a_table_of_many_samples_does_not_overflow():
    rng = np.random.default_rng(0)
    scores, correct = rng.normal(size=(3, 3000)), rng.integers(0, 2, (3, 3000))
    curve = stats.best_of_n_curve(scores, correct, [1, 1500, 3000])
    assert curve[:, 0] == pytest.approx(correct.mean(axis=1))
    assert curve[:, 2] == pytest.approx(correct[np.arange(3), scores.argmax(axis=1)])


@pytest.mark.parametrize(
    ("scores", "correct", "k", "problem"),
    [
        ([1.0, 2.0], [1, 0], 0, "k is 0; with 2 samples a question it must be in 1 … 2"),
        ([1.0, 2.0], [1, 0], 3, "k is 3"),
        ([1.0, 2.0], [1], 1, r"scores has shape \(1, 2\) and correct \(1, 1\)"),
        ([1.0, math.nan], [1, 0], 1, "scores must be numbers"),
        ([1.0, math.inf], [1, 0], 1, "scores must be numbers"),
        ([1.0, 2.0], [1, 2], 1, r"correct must be in \[0, 1\]"),
    ],
)
def test_what_it_refuses(scores, correct, k, problem):
    with pytest.raises(UserError, match=problem):
        stats.best_of_n_at_k(scores, correct, k)
