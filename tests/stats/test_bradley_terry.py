"""Strengths from votes: worked numbers, what must hold of any votes, and votes that cannot tell."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.stats import bradley_terry
from workbench.stats.bradley_terry import ELO, MEAN

Games = list[tuple[int, int, float]]


def record(wins: list[list[int]]) -> Games:
    return [(i, j, 1.0) for i, row in enumerate(wins) for j, count in enumerate(row) for _ in range(count)]


def values(games: Games, players: int) -> list[float]:
    told = bradley_terry(players, games, resamples=1)
    assert told is not None
    return [one.value for one in told]


def test_a_worked_example() -> None:
    """Four players; the strengths with geometric mean 1 are 0.640, 1.043, 0.660 and 2.270, which solve
    p_i = Σ_j w_ij p_j/(p_i + p_j) / Σ_j w_ji/(p_i + p_j), the fixed point of Newman (2023)."""
    wins = [[0, 2, 0, 1], [3, 0, 5, 0], [0, 3, 0, 1], [4, 0, 3, 0]]
    p = np.array([math.exp((value - MEAN) / ELO) for value in values(record(wins), 4)])
    assert p == pytest.approx([0.640, 1.043, 0.660, 2.270], abs=1e-3)
    w = np.array(wins)
    both = p[:, None] + p[None, :]
    assert (w * p[None, :] / both).sum(axis=1) / (w.T / both).sum(axis=1) == pytest.approx(p)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 50))
def test_of_two_players_the_difference_is_the_log_odds(wins: int, losses: int, ties: int) -> None:
    games: Games = [(0, 1, 1.0)] * wins + [(1, 0, 1.0)] * losses + [(0, 1, 0.5)] * ties
    first, second = values(games, 2)
    odds = (wins + ties / 2) / (losses + ties / 2)
    assert first - second == pytest.approx(400 * math.log10(odds), abs=1e-6)
    assert (first + second) / 2 == pytest.approx(1000)


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 3))
def test_equal_records_are_equal_strengths(players: int, wins: int, ties: int) -> None:
    pairs = [(i, j) for i in range(players) for j in range(players) if i != j]
    games: Games = [(i, j, 1.0) for i, j in pairs] * wins + [(i, j, 0.5) for i, j in pairs] * ties
    assert values(games, players) == pytest.approx([1000.0] * players)


@st.composite
def connected(draw: st.DrawFn) -> tuple[int, Games]:
    """Votes in which a ring of wins makes every player reachable from every other."""
    players = draw(st.integers(2, 5))
    ring: Games = [(i, (i + 1) % players, 1.0) for i in range(players)]
    pair = st.tuples(st.integers(0, players - 1), st.integers(0, players - 1), st.sampled_from([0.0, 0.5, 1.0]))
    more = draw(st.lists(pair.filter(lambda game: game[0] != game[1]), max_size=30))
    return players, ring + more


@settings(max_examples=60)
@given(connected(), st.randoms())
def test_expected_wins_are_those_seen_and_neither_order_nor_sides_count(
    votes: tuple[int, Games], rng: object
) -> None:
    players, games = votes
    found = values(games, players)
    for player in range(players):
        seen = sum(s if i == player else 1 - s for i, j, s in games if player in (i, j))
        others = [found[j if i == player else i] for i, j, _ in games if player in (i, j)]
        assert seen == pytest.approx(sum(1 / (1 + 10 ** ((o - found[player]) / 400)) for o in others), abs=1e-6)
    turned = [(j, i, 1 - s) for i, j, s in reversed(games)]
    assert values(turned, players) == pytest.approx(found, abs=1e-6)
    renamed = [(players - 1 - i, players - 1 - j, s) for i, j, s in games]
    assert values(renamed, players)[::-1] == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(
    ("players", "games"),
    [
        (2, []),
        (1, []),
        (2, [(0, 1, 1.0)] * 9),  # separable: the maximum is at infinity
        (3, [(0, 1, 1.0), (1, 0, 1.0)]),  # nobody has met the third
        (4, [(0, 1, 0.5), (2, 3, 0.5)]),  # two groups that have not met
        (3, [(0, 1, 1.0), (1, 0, 1.0), (0, 2, 1.0), (1, 2, 1.0)]),  # the third has lost all
    ],
)
def test_what_cannot_be_told_yet(players: int, games: Games) -> None:
    assert bradley_terry(players, games) is None


def test_intervals_hold_the_value_narrow_with_votes_and_are_seeded() -> None:
    few = bradley_terry(2, record([[0, 12], [8, 0]]))
    many = bradley_terry(2, record([[0, 1200], [800, 0]]))
    assert few and many
    for one in (*few, *many):
        assert one.low <= one.value <= one.high
    assert few[0].high - few[0].low > 5 * (many[0].high - many[0].low)
    again, other = (bradley_terry(2, record([[0, 120], [80, 0]]), seed=seed) for seed in (0, 1))
    assert again == bradley_terry(2, record([[0, 120], [80, 0]])) != other


def test_an_interval_of_many_votes_is_the_delta_methods() -> None:
    """sd(log odds) = 1/√(n p q), so that of one of two strengths is half as much."""
    told = bradley_terry(2, record([[0, 600], [400, 0]]), resamples=4000)
    assert told
    half = 1.96 * ELO / 2 / math.sqrt(1000 * 0.6 * 0.4)
    assert told[0].high - told[0].low == pytest.approx(2 * half, rel=0.06)


def test_resamples_without_a_defeat_leave_the_bound_open() -> None:
    """Of nine wins and a defeat, a resample is all wins with probability 0.35: no upper bound for the winner."""
    told = bradley_terry(2, record([[0, 9], [1, 0]]))
    assert told
    winner, loser = told
    assert winner.high == math.inf and loser.low == -math.inf
    assert 1000 < winner.low <= winner.value and math.isfinite(loser.high)


def test_games_that_cannot_be() -> None:
    for game in ((0, 2, 1.0), (-1, 0, 1.0), (0, 1, 1.5), (0, 0, 0.5)):
        with pytest.raises(UserError):
            bradley_terry(2, [game])
    with pytest.raises(UserError, match="one of each a game"):
        bradley_terry(2, record([[0, 2], [1, 0]]), ["one"])


def test_games_of_one_group_are_drawn_together() -> None:
    """Each game five times in its group is as the games alone; a group alone, and groups alike, give no bound."""
    games = record([[0, 12], [8, 0]])
    alone, grouped = bradley_terry(2, games), bradley_terry(2, games * 5, [*range(20)] * 5)
    assert alone and grouped
    for one, other in zip(alone, grouped, strict=True):
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), abs=1e-6)
    many = bradley_terry(2, games * 5)
    assert many and grouped[0].high - grouped[0].low > 1.8 * (many[0].high - many[0].low)
    split = record([[0, 1], [1, 0]])
    for groups in (["one"] * 6, ["one", "one", "two", "two", "three", "three"]):
        told = bradley_terry(2, split * 3, groups)
        assert told and [(one.value, one.low, one.high) for one in told] == [(1000, -math.inf, math.inf)] * 2
