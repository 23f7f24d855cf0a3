"""Majority votes: worked numbers, brute force over subsets, the exact sum against random subsets."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError
from workbench.stats import majority


def vote(answers, target):
    """One vote, spelt out: the target's share of the point."""
    cast = [answer for answer in answers if answer is not None]
    if not cast or target is None:
        return 0.0
    top = max(map(cast.count, cast))
    winners = {answer for answer in cast if cast.count(answer) == top}
    return (target in winners) / len(winners)


def test_majority_worked_numbers():
    assert stats.majority_at_k(["18", "18", "26"], "18", 3) == 1
    assert stats.majority_at_k(["18", "26"], "18", 2) == 0.5
    chances = {"a": 0.4, "b": 0.35, "c": 0.25}
    expected = sum(
        math.prod(chances[answer] for answer in draw) * stats.majority_at_k(draw, "a", 3)
        for draw in itertools.product(chances, repeat=3)
    )
    assert expected == pytest.approx(0.422, abs=1e-9)


answer_lists = st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=9)


@given(answer_lists, st.sampled_from(["a", "b", "zzz", None]), st.data())
def test_majority_is_the_mean_vote_over_all_subsets(answers, target, data):
    k = data.draw(st.integers(1, len(answers)))
    votes = [vote(subset, target) for subset in itertools.combinations(answers, k)]
    assert stats.majority_at_k(answers, target, k) == pytest.approx(sum(votes) / len(votes), abs=1e-12)


def test_none_never_votes_and_never_equals_none():
    assert stats.majority_at_k([None, None, "7"], "7", 3) == 1
    assert stats.majority_at_k([None, None], None, 2) == 0
    assert stats.majority_at_k([None, "7"], None, 1) == 0
    assert stats.majority_at_k([None, "7"], "7", 1) == 0.5


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_table_equals_its_questions_one_by_one(seed):
    rng = np.random.default_rng(seed)
    table, targets = rng.integers(-1, 4, (5, 9)) * 1000, rng.integers(-1, 4, 5) * 1000
    ks = [9, 1, 4]
    curve = stats.majority_curve(table, targets, ks)
    assert curve.shape == (5, 3)
    for row, target, scores in zip(table, targets, curve, strict=True):
        answers = [None if answer < 0 else answer for answer in row]
        for k, score in zip(ks, scores, strict=True):
            alone = stats.majority_at_k(answers, None if target < 0 else target, k)
            assert score == pytest.approx(alone, abs=1e-12)


def test_random_subsets_agree_with_the_exact_sum(monkeypatch):
    rng = np.random.default_rng(5)
    table, targets, ks = rng.integers(-1, 5, (40, 30)), rng.integers(0, 5, 40), [30, 2, 8, 15]
    exact = stats.majority_curve(table, targets, ks)
    monkeypatch.setattr(majority, "EXACT_WORK", 0)
    drawn = stats.majority_curve(table, targets, ks, subsets=2500, seed=1)
    assert np.abs(drawn - exact).max() < 5 * 0.5 / math.sqrt(2500)
    assert np.abs((drawn - exact).mean(axis=0)).max() < 4 * 0.5 / math.sqrt(2500 * 40)
    assert np.abs(drawn - exact)[:, 1:].max() > 0  # it did draw
    assert drawn[:, 0] == pytest.approx(exact[:, 0])  # all thirty: one subset
    assert np.array_equal(drawn, stats.majority_curve(table, targets, ks, subsets=2500, seed=1))
    assert not np.array_equal(drawn, stats.majority_curve(table, targets, ks, subsets=2500, seed=2))


def test_random_subsets_without_a_vote_or_a_target_score_0(monkeypatch):
    monkeypatch.setattr(majority, "EXACT_WORK", 0)
    table = [[-1, -1, -1, -1], [-1, -1, 3, -1], [-1, -1, -1, 3], [3, 3, 3, 3]]
    curve = stats.majority_curve(table, [3, 4, 3, -1], [4, 2], subsets=400)
    assert curve[:, 0].tolist() == [0, 0, 1, 0]
    assert curve[2, 1] == pytest.approx(0.5, abs=0.1)  # half of the pairs hold the one vote


def test_questions_with_the_same_answers_draw_different_subsets(monkeypatch):
    monkeypatch.setattr(majority, "EXACT_WORK", 0)
    row = np.repeat([0, 1], 50)
    curve = stats.majority_curve(np.tile(row, (200, 1)), np.zeros(200), [11], subsets=4)
    assert len(np.unique(curve)) > 1
    assert curve.mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(800))


def test_more_samples_than_a_double_can_count_subsets_of():
    answers = [0] * 1200 + [1] * 800 + [None] * 200
    assert stats.majority_at_k(answers, 0, 1101, subsets=50) == 1
    assert stats.majority_at_k(answers, 0, 1) == pytest.approx(1200 / 2200)


def test_empty_tables_and_bad_shapes():
    assert stats.majority_curve(np.zeros((0, 4)), np.zeros(0), [1, 2]).shape == (0, 2)
    for k in (0, 3):
        with pytest.raises(UserError, match="k is"):
            stats.majority_at_k(["a", "b"], "a", k)
    with pytest.raises(UserError, match="shape"):
        stats.majority_curve(np.zeros((2, 4)), np.zeros(3), [1])
