"""Compute-optimal choice: difficulty without gold labels, folds that do not see each other, brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError

SCORE = st.sampled_from([-np.inf, 0.0, 1.0, 2.0])


@given(st.lists(st.tuples(SCORE, st.sampled_from([0, 1])), min_size=1, max_size=7), st.data())
@settings(deadline=None)
def test_best_of_after_is_the_mean_over_all_continuations(found, data):
    first = data.draw(st.integers(0, len(found)))
    k = data.draw(st.integers(max(1, first), len(found)))
    scores, correct = zip(*found, strict=True)
    hits = []
    for more in itertools.combinations(range(first, len(found)), k - first):
        places = [*range(first), *more]
        best = max(places, key=lambda i: scores[i])
        hits.append(correct[best] if scores[best] > -np.inf else 0)
    assert stats.best_of_after([scores], [correct], first, [k])[0, 0] == pytest.approx(np.mean(hits), abs=1e-9)


def test_a_first_look_sees_no_right_answer():
    answers = np.array([[0, 0, 3, -1, 5], [3, 3, 0, -1, 0], [-1, -1, -1, -1, 0]])
    scores = np.array([[1.0, 2.0, 3.0, -np.inf, 9], [0.0, 0.0, 3.0, 1.0, 9], [-np.inf] * 4 + [9]])
    seen = stats.first_look(answers, scores, 4)
    assert seen.tolist() == [[0.5, 0.75, 2.0], [0.5, 0.75, 1.0], [0, 0, 10 / 7]]
    swapped = np.where(answers == 0, 3, np.where(answers == 3, 0, answers))
    assert np.array_equal(seen, stats.first_look(swapped, scores, 4)), "which answer is right is not used"
    assert np.array_equal(seen[:, :2], stats.first_look(answers, None, 4))


def test_difficulty_is_learned_on_dev_and_cut_at_its_quantiles():
    rng = np.random.default_rng(0)
    features = rng.random((300, 2))
    rates = np.clip(0.1 + 0.7 * features[:, 0] + rng.normal(0, 0.05, 300), 0, 1)
    difficulty = stats.fit_difficulty(features, rates, 3)
    bins = difficulty.bins(features)
    assert np.bincount(bins).tolist() == [100, 100, 100]
    means = [rates[bins == b].mean() for b in range(3)]
    assert means == sorted(means) and means[0] < 0.35 < means[2]
    assert difficulty.slopes_F == pytest.approx([0.7, 0, 0.1], abs=0.05)
    assert set(difficulty.bins(rng.random((50, 2)))) == {0, 1, 2}, "questions that it has not seen"
    assert set(stats.fit_difficulty(np.ones((9, 1)), rates[:9], 3).bins(np.ones((4, 1)))) == {1}, "nothing to see"


def test_folds_are_halves_that_a_question_keeps():
    ids = [f"q{i}" for i in range(11)]
    fold = stats.folds(ids)
    assert sorted(np.bincount(fold)) == [5, 6]
    assert np.array_equal(stats.folds(ids), fold)
    assert 2 < fold[:8].sum() < 7, "not in their order"


def test_each_bin_gets_what_suits_it_and_pays_no_more_than_the_budget():
    bins, fold = np.array([0, 1] * 10), np.array([0, 0, 1, 1] * 5)
    scores = np.stack([np.where(bins == 0, 0.2, 0.9), np.where(bins == 0, 0.6, 0.4), np.ones(20)], axis=1)
    costs = np.tile([4.0, 4.0, 9.0], (20, 1))
    found = stats.choose(scores, costs, bins, fold, 4)
    assert found.picked == {(f, b): 1 - b for f in (0, 1) for b in (0, 1)}
    assert found.score_Q.tolist() == np.where(bins == 0, 0.6, 0.9).tolist()
    assert set(found.strategy_Q) == {0, 1}, "what costs 9 is not within it"
    assert stats.choose(scores, costs, bins, fold, 9).score_Q.tolist() == [1.0] * 20
    cheap = stats.choose(np.ones((20, 3)), costs + np.array([1, 0, 0]), bins, fold, 9)
    assert set(cheap.strategy_Q) == {1}, "of equal ones the cheapest"


def test_what_was_lucky_on_one_fold_is_scored_on_the_other():
    rng = np.random.default_rng(0)
    scores = (rng.random((400, 40)) < 0.5).astype(float)  # forty strategies, none better than another
    fold = stats.folds([str(i) for i in range(400)])
    found = stats.choose(scores, np.ones((400, 40)), np.zeros(400, dtype=int), fold, 1)
    assert max(scores.mean(axis=0)) > 0.54, "the same fold would boast"
    assert 0.43 < found.score_Q.mean() < 0.55


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_choosing_is_the_spelt_out_search(seed):
    rng = np.random.default_rng(seed)
    scores, costs = rng.integers(0, 3, (12, 4)) / 2, rng.integers(1, 5, (12, 4)).astype(float)
    costs[:, 0] = 1
    bins, fold = rng.integers(0, 3, 12), stats.folds([f"{seed}-{i}" for i in range(12)])
    found = stats.choose(scores, costs, bins, fold, 2.0)
    for q in range(12):
        rows = [i for i in range(12) if fold[i] != fold[q] and bins[i] == bins[q]]
        rows = rows or [i for i in range(12) if fold[i] != fold[q]]
        order = []
        for s in range(4):
            cost = sum(costs[i, s] for i in rows) / len(rows)
            if cost <= 2.0 + 1e-8:
                order.append((-round(sum(scores[i, s] for i in rows) / len(rows), 9), round(cost, 9), s))
        assert found.strategy_Q[q] == min(order)[2]
        assert found.score_Q[q] == scores[q, min(order)[2]]


def test_what_it_refuses():
    ones = np.ones((4, 1))
    with pytest.raises(UserError, match=r"budget is 0\.5; the cheapest strategy costs 1 a question"):
        stats.choose(ones, ones, [0] * 4, [0, 1, 0, 1], 0.5)
    with pytest.raises(UserError, match="Two folds"):
        stats.choose(ones, ones, [0] * 4, [0] * 4, 1)
    with pytest.raises(UserError, match="3 dev questions are too few for 2 bins"):
        stats.fit_difficulty(np.ones((3, 1)), [0, 1, 0], 2)
    with pytest.raises(UserError, match="features has the shape"):
        stats.fit_difficulty([1.0, 2.0], [0, 1], 1)
    with pytest.raises(UserError, match="k is 1"):
        stats.best_of_after(np.ones((1, 4)), np.ones((1, 4)), 2, [1])
