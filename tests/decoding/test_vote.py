"""The vote: the most frequent answer wins, ties are settled by a hash that knows no order."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decoding.best_of_n import best
from workbench.decoding.vote import majority, weighted_majority

answers = st.lists(st.one_of(st.none(), st.sampled_from(["1", "2", "3", "four"])), max_size=12)


def test_the_most_frequent_answer_wins() -> None:
    assert majority("q", ["18", "18", "26"]) == "18"
    assert majority("q", ["26", None, None, None]) == "26"


def test_where_nobody_votes_there_is_no_answer() -> None:
    assert majority("q", []) is None
    assert majority("q", [None, None]) is None


@given(answers, st.randoms(use_true_random=False))
def test_no_order_changes_the_winner_and_the_winner_has_most_votes(
    cast: list[str | None], shuffler: random.Random
) -> None:
    shuffled = list(cast)
    shuffler.shuffle(shuffled)
    winner = majority("q", cast)
    assert majority("q", shuffled) == winner
    votes = Counter(answer for answer in cast if answer is not None)
    assert votes[winner] == max(votes.values(), default=0) if winner else not votes


def test_ties_favour_no_answer_over_many_questions() -> None:
    won = Counter(majority(f"question {number}", ["a", "b"]) for number in range(2000))
    assert abs(won["a"] - 1000) < 120


def test_weights_are_added_up_by_answer() -> None:
    """METHODS.md's worked number: A with .6 and .5 against B with .9; best of n would choose B."""
    answers, weights = ["A", "A", "B"], [0.6, 0.5, 0.9]
    assert weighted_majority("q", answers, weights) == "A"
    assert answers[best(weights) or 0] == "B"
    assert majority("q", ["A", "B", "B"]) == "B"
    assert weighted_majority("q", ["A", "B", "B"], [0.9, 0.4, 0.4]) == "A"
    assert weighted_majority("q", [None, "B"], [5.0, 0.1]) == "B", "no voice without an answer"
    assert weighted_majority("q", [None], [1.0]) is None
    assert weighted_majority("q", ["A"], [0.0]) == "A"


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_a_weight_is_a_number_from_0_up(bad: float) -> None:
    with pytest.raises(ValueError, match="from 0 up"):
        weighted_majority("q", ["A"], [bad])


@given(st.lists(st.tuples(st.sampled_from([None, "1", "2", "3"]), st.floats(0, 10)), max_size=10), st.randoms())
def test_a_weighted_vote_knows_no_order_and_its_winner_has_most_weight(
    cast: list[tuple[str | None, float]], shuffler: random.Random
) -> None:
    shuffled = list(cast)
    shuffler.shuffle(shuffled)
    winner = weighted_majority("q", [a for a, _ in cast], [w for _, w in cast])
    assert weighted_majority("q", [a for a, _ in shuffled], [w for _, w in shuffled]) == winner
    sums = {a: math.fsum(w for b, w in cast if b == a) for a, _ in cast if a is not None}
    assert sums[winner] == max(sums.values()) if winner else not sums


@given(answers, st.floats(0.01, 100))
def test_equal_weights_are_a_majority(cast: list[str | None], weight: float) -> None:
    """Weights that a computer can add up without rounding, so that ties stay ties."""
    whole = float(round(weight * 4) or 1)
    assert weighted_majority("q", cast, [whole] * len(cast)) == majority("q", cast)
