"""The vote: the most frequent answer wins, ties are settled by a hash that knows no order."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workbench.decoding.vote import majority

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
