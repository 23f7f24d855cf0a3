"""All curves from one pool: brute force over subsets and orders, the exact functions, bands, refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError
from workbench.stats import pool
from workbench.stats.running import compressed, running, whole_weights

CODES = st.sampled_from([-1, 0, 1, 2])
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0])


def vote(answers, weights):
    """One weighted vote, spelt out: the right answer's share of the point."""
    sums = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer >= 0 and weight > 0:
            sums[answer] = sums.get(answer, 0.0) + weight
    winners = [answer for answer, total in sums.items() if total == max(sums.values())]
    return (0 in winners) / len(winners) if winners else 0.0


def over_subsets(answers, weights, k):
    """The mean vote over all k-subsets."""
    votes = [
        vote([answers[i] for i in subset], [weights[i] for i in subset])
        for subset in itertools.combinations(range(len(answers)), k)
    ]
    return sum(votes) / len(votes)


@given(st.lists(CODES, min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_a_running_vote_is_the_vote_of_what_came_so_far(answers, data):
    weights = data.draw(st.lists(WEIGHTS, min_size=len(answers), max_size=len(answers)))
    whole = whole_weights(np.array([weights]))
    table = np.array([answers])
    for given_weights, spelt in ((None, [1.0] * len(answers)), (whole.T, weights)):
        for step, standing in enumerate(running(table.T, np.arange(len(answers))[:, None], given_weights), 1):
            assert standing.share[0, 0] == pytest.approx(vote(answers[:step], spelt[:step]), abs=1e-12)


@given(st.lists(CODES, min_size=1, max_size=6), st.data())
@settings(max_examples=40, deadline=None)
def test_over_all_orders_the_running_vote_is_the_mean_over_all_subsets(answers, data):
    weights = data.draw(st.lists(WEIGHTS, min_size=len(answers), max_size=len(answers)))
    orders = np.array(list(itertools.permutations(range(len(answers)))))
    codes = np.array(answers)[orders].T
    whole = whole_weights(np.array([weights]))[0][orders].T
    steps = running(codes, np.arange(len(answers))[:, None], whole)
    for k, standing in enumerate(steps, 1):
        assert standing.share.mean() == pytest.approx(over_subsets(answers, weights, k), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=15, deadline=None)
def test_drawn_votes_are_near_the_mean_over_all_subsets(seed, weighted):
    rng = np.random.default_rng(seed)
    answers, weights = rng.integers(-1, 4, (4, 7)), rng.choice([0, 0.5, 1, 2], (4, 7))
    curve = stats.vote_curve(answers, weights if weighted else None)
    spelt = weights if weighted else np.ones((4, 7))
    exact = [[over_subsets(row, w, k) for k in range(1, 8)] for row, w in zip(answers, spelt, strict=True)]
    orders = pool.ROUNDS * 7
    assert curve == pytest.approx(np.array(exact), abs=5 * 0.5 / math.sqrt(orders / 7))
    assert curve[:, [0, 6]] == pytest.approx(np.array(exact)[:, [0, 6]], abs=1e-12), "k = 1 and k = n are exact"


def test_the_curves_agree_with_the_exact_functions():
    rng = np.random.default_rng(3)
    right = rng.beta(0.7, 1.3, (50, 1))
    answers = np.where(rng.random((50, 40)) < right, 0, rng.integers(-1, 9, (50, 40)))
    scores = rng.normal(size=(50, 40))
    ks = [1, 2, 3, 8, 20, 33, 40]
    at = [k - 1 for k in ks]
    found = stats.pool_curves(answers, scores, np.ones((50, 40)))
    exact = stats.majority_curve(answers, np.zeros(50), ks)
    assert found["majority"].value_K[at] == pytest.approx(exact.mean(axis=0), abs=0.003)
    assert found["majority"].scores_QK[:, at] == pytest.approx(exact, abs=0.05)
    assert np.array_equal(found["weighted"].scores_QK, found["majority"].scores_QK), "equal weights are votes"
    correct = (answers == 0).sum(axis=1)[:, None]
    assert found["pass"].scores_QK[:, at] == pytest.approx(stats.pass_at_k(40, correct, np.array(ks)), abs=1e-12)
    assert np.array_equal(found["best_of"].scores_QK[:, at], stats.best_of_n_curve(scores, answers == 0, ks))
    for curve in found.values():
        assert np.all(curve.value_K <= found["pass"].value_K + 1e-9), "the ceiling"
        assert np.all((curve.low_K <= curve.value_K) & (curve.value_K <= curve.high_K))


def test_worked_numbers():
    table = [[0, 0, 1]]  # METHODS: A .6 + .5 against B .9
    weights = [[0.6, 0.5, 0.9]]
    assert stats.vote_curve(table, weights)[0, 2] == 1
    assert stats.best_of_n_at_k(weights[0], [1, 1, 0], 3) == 0
    passes = np.zeros((1, 10), dtype=int) + 1
    passes[0, :3] = 0
    assert stats.pass_curve(passes == 0)[0, 4] == pytest.approx(0.916667, abs=1e-6)
    one = np.ones((1, 200), dtype=int)
    one[0, 7] = 0
    assert stats.pass_curve(one == 0)[0, 99] == pytest.approx(0.5, abs=1e-9)


def test_samples_that_were_seen_stay_at_the_front():
    rng = np.random.default_rng(1)
    answers = rng.integers(-1, 3, (5, 6))
    curve = stats.vote_curve(answers, first=3)
    for row, scores in zip(answers, curve, strict=True):
        for k in range(1, 4):
            assert scores[k - 1] == pytest.approx(vote(row[:k], [1] * k))
        rest = [vote([*row[:3], *more], [1] * 5) for more in itertools.combinations(row[3:], 2)]
        assert scores[4] == pytest.approx(sum(rest) / len(rest), abs=0.05)
        assert scores[5] == pytest.approx(vote(row, [1] * 6))
    assert stats.vote_curve(answers, first=6)[:, 5] == pytest.approx(curve[:, 5])


def test_codes_need_not_be_small_and_a_weight_of_0_has_no_voice():
    codes = np.array([[10**12, -7, 0, 55, 10**12]])
    assert compressed(codes).tolist() == [[2, -1, 0, 1, 2]]
    assert stats.vote_curve(codes)[0, 4] == 0
    assert stats.vote_curve(codes, [[0, 1, 1, 1, 0]])[0, 4] == 0.5
    assert stats.vote_curve(codes, np.zeros((1, 5)))[0].tolist() == [0] * 5
    assert stats.vote_curve(np.zeros((0, 4), dtype=int)).shape == (0, 4)


def test_a_question_that_the_scorer_likes_little_of_is_voted_on_all_the_same():
    weights = [[9e-14, 8e-14, 1e-15], [0.9, 0.8, 0.7], [5e-324, 5e-324, 0.0]]
    curve = stats.vote_curve([[0, 0, 1], [0, 1, 1], [0, 0, 1]], weights)
    assert curve[:, 2].tolist() == [1, 0, 1], "sums are compared within a question"


def test_the_same_seed_gives_the_same_curve_and_many_classes_fit_in_memory(monkeypatch):
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 30, (20, 30))
    assert np.array_equal(stats.vote_curve(answers, seed=4), stats.vote_curve(answers, seed=4))
    assert not np.array_equal(stats.vote_curve(answers, seed=4), stats.vote_curve(answers, seed=5))
    monkeypatch.setattr(pool, "CELLS", 1)
    fewer = stats.vote_curve(answers).mean(axis=0)
    assert fewer == pytest.approx(stats.majority_curve(answers, np.zeros(20), range(1, 31)).mean(axis=0), abs=0.01)


def test_bands_cover_and_shrink():
    rng = np.random.default_rng(0)
    inside = []
    for seed in range(60):
        scores = rng.binomial(4, 0.3, (80, 1)) / 4
        band = pool.bands({"one": scores}, seed=seed, resamples=400)["one"]
        inside.append(band.low_K[0] <= 0.3 <= band.high_K[0])
    assert 0.85 < np.mean(inside) <= 1
    wide, narrow = (pool.bands({"one": rng.random((n, 1))})["one"] for n in (20, 2000))
    assert wide.high_K[0] - wide.low_K[0] > 5 * (narrow.high_K[0] - narrow.low_K[0])
    flat = pool.bands({"one": np.ones((10, 1))})["one"]
    wilson = stats.wilson_interval(10, 10)
    assert (flat.low_K[0], flat.high_K[0]) == pytest.approx((wilson.low, wilson.high))
    assert pool.bands({"none": np.zeros((0, 2))})["none"].high_K.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([1, 2],), "answers must be whole numbers"),
        (([[0.5, 1]],), "answers must be whole numbers"),
        (([[0, 1]], [[1.0]]), r"weights must be numbers from 0 up, of the answers' shape \(1, 2\)"),
        (([[0, 1]], [[1.0, -1.0]]), "weights must be"),
        (([[0, 1]], [[1.0, math.nan]]), "weights must be"),
    ],
)
def test_what_it_refuses(arguments, problem):
    with pytest.raises(UserError, match=problem):
        stats.vote_curve(*arguments)
    with pytest.raises(UserError, match="first is 3"):
        stats.vote_curve([[0, 1]], first=3)
