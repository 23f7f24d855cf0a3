"""Votes that stop early: the rules against brute force and simulation, and what they save."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import stats
from workbench.errors import UserError

ANSWERS = st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=1, max_size=6)


def top_two(answers):
    counts = sorted((answers.count(a) for a in set(answers) if a >= 0), reverse=True)
    return (*counts, 0, 0)[:2]


def winners(answers):
    counts = {a: answers.count(a) for a in set(answers) if a >= 0}
    return {a for a in counts if counts[a] == max(counts.values())}


@given(ANSWERS, st.integers(0, 4))
@settings(deadline=None)
def test_certain_is_exactly_when_no_end_changes_the_answer(answers, left):
    first, second = top_two(answers)
    ends = [winners([*answers, *more]) for more in itertools.product([-1, 0, 1, 2, 3], repeat=left)]
    decided = all(end == ends[0] and len(end) == 1 for end in ends)
    assert bool(stats.settled(first, second, left, "certain")) is decided


@given(st.lists(ANSWERS, min_size=1, max_size=5), st.sampled_from(["certain", 0.8, 0.95]))
@settings(deadline=None)
def test_a_table_is_its_questions_one_by_one(rows, stop):
    n = max(map(len, rows))
    table = [[*row, *[-1] * (n - len(row))] for row in rows]
    found = stats.early_stop(table, stop)
    for place, row in enumerate(table):
        for drawn in range(1, n + 1):
            if stats.settled(*top_two(row[:drawn]), n - drawn, stop):
                break
        best = winners(row[:drawn])
        assert found.drawn_Q[place] == drawn
        assert found.score_Q[place] == pytest.approx((0 in best) / len(best) if best else 0)
        if stop == "certain":
            assert found.score_Q[place] == found.full_Q[place], "nothing is lost"


def test_the_confidence_is_the_beta_integral():
    for first, second in itertools.product(range(7), repeat=2):
        p = np.linspace(0.5, 1, 200_001)
        density = p**first * (1 - p) ** second * math.factorial(first + second + 1)
        density = density / (math.factorial(first) * math.factorial(second))
        assert stats.leader_confidence(first, second) == pytest.approx(np.trapezoid(density, p), abs=1e-8)
    total = 9
    binomial = sum(math.comb(total, i) for i in range(7)) / 2**total
    assert stats.leader_confidence(6, 2) == pytest.approx(binomial)
    assert stats.leader_confidence(3, 3) == pytest.approx(0.5)
    assert stats.leader_confidence(4, 0) == pytest.approx(1 - 2**-5), "four of four: .969, enough for .95"


def test_what_it_saves():
    sure = np.zeros((1, 16), dtype=int)
    found = stats.early_stop(sure, "certain")
    assert (found.drawn_Q.tolist(), found.score_Q.tolist()) == ([9], [1]), "nine of sixteen cannot be caught"
    assert stats.early_stop(sure, 0.95).drawn_Q.tolist() == [4]
    assert stats.early_stop([[-1, -1, -1]], "certain").drawn_Q.tolist() == [3], "nobody votes: all are drawn"
    mixed = np.array([[0, 1] * 8])
    tied = stats.early_stop(mixed, 0.95)
    assert (tied.drawn_Q[0], tied.score_Q[0]) == (16, 0.5)


@pytest.mark.parametrize("stop", ["never", 0.5, 1.0, 2, float("nan")])
def test_what_it_refuses(stop):
    with pytest.raises(UserError, match="stop is"):
        stats.early_stop([[0, 1]], stop)
    with pytest.raises(UserError, match="first and second are votes"):
        stats.leader_confidence(-1, 0)
