"""Strengths from paired comparisons (Bradley & Terry 1952, Biometrika 39), with intervals over the votes."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.errors import UserError, check_range
from workbench.stats.intervals import check_probability
from workbench.types import Interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ELO = 400 / math.log(10)
"""Elo points of one nat: 400 points are odds of ten to one."""

MEAN = 1000.0
"""The mean strength of all players, in Elo points. Only differences mean something."""

_STEP = 2.0  # nats that a strength moves in one step of Newton's method at most: far off, a full step overshoots


def bradley_terry(
    players: int,
    games: Sequence[tuple[int, int, float]],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Interval] | None:
    """Each player's strength on the Elo scale, by maximum likelihood; their mean is 1000.

    P(i beats j) = 1 / (1 + 10^((s_j − s_i) / 400)). A tie is half a win for either side.

    The likelihood has its maximum at finite strengths only where every player can be reached from every other by
    a chain of wins (Ford 1957). Where that does not hold, as where one has won all, nothing is told. The same
    may happen in a resample: who has only beaten others in it counts as infinitely strong there, who was only
    beaten as infinitely weak, and of anybody else it says nothing, so that a bound may be infinite. So it
    is where all resamples say the same, as those of one group do.

    Args:
        players: how many; they are numbered from 0.
        games: (first, second, what the first got of it: 1, 0.5 or 0), one a vote.
        groups: of the games, as the question that each was about: those of one group are not independent, and
            are drawn together. None: each is drawn alone.
        confidence: of the percentile intervals.
        resamples: bootstrap draws of whole groups.
        seed: fixes them.

    Returns:
        An interval a player; None where the votes cannot tell yet.

    Raises:
        UserError: a game has a player who does not exist or is both sides, or a score out of [0, 1]; or there
            is not one group a game.
    """
    check_probability("confidence", confidence)
    check_range("resamples", resamples, 1, 10**6)
    for first, second, score in games:
        check_range("a game's player", first, 0, players - 1)
        check_range("a game's player", second, 0, players - 1)
        check_range("a game's score", score, 0, 1)
        if first == second:
            raise UserError(f"Player {first} is on both sides of a game.")
    if groups is not None and len(groups) != len(games):
        raise UserError(f"There are {len(games)} games and {len(groups)} groups: one of each a game is needed.")
    if players < 2 or not games:
        return None
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups or range(len(games))))}
    group_G = np.array([numbers[group] for group in groups or range(len(games))])
    first_G, second_G = (np.array([game[side] for game in games]) for side in (0, 1))
    score_G = np.array([game[2] for game in games], dtype=np.float64)

    def wins(weight_RG: Floats) -> Floats:
        """Points that one got of the other, shape [resamples, players, players]."""
        out_RNN = np.zeros((len(weight_RG), players, players))
        rows = np.arange(len(weight_RG))[:, None]
        np.add.at(out_RNN, (rows, first_G, second_G), weight_RG * score_G)
        np.add.at(out_RNN, (rows, second_G, first_G), weight_RG * (1 - score_G))
        return out_RNN

    whole = wins(np.ones((1, len(games))))
    if not _reach(whole).all():
        return None
    value_N = _fit(whole)[0]
    rng = np.random.default_rng(seed)
    drawn_RQ = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=resamples)
    lows_RN, highs_RN = _bounds(wins(drawn_RQ[:, group_G].astype(np.float64)))
    tail = (1 - confidence) / 2
    # Without interpolation, which has no middle between a number and infinity.
    low_N = np.quantile(lows_RN, tail, axis=0, method="inverted_cdf")
    high_N = np.quantile(highs_RN, 1 - tail, axis=0, method="inverted_cdf")
    # Where every draw says the same, as of one group, the bootstrap knows no bound.
    same_N = np.isclose(low_N, high_N, rtol=0, atol=1e-6) & np.isfinite(low_N)
    low_N, high_N = np.where(same_N, -np.inf, low_N), np.where(same_N, np.inf, high_N)
    told_N3 = MEAN + ELO * np.stack([value_N, np.minimum(low_N, value_N), np.maximum(high_N, value_N)], axis=1)
    return [Interval(value, low, high, confidence, "bootstrap") for value, low, high in told_N3.tolist()]


def _bounds(wins_RNN: Floats) -> tuple[Floats, Floats]:
    """(lowest, highest) strength in nats that each resample speaks for, shape [resamples, players]."""
    reach_RNN = _reach(wins_RNN)
    finite_R = reach_RNN.all(axis=(1, 2))
    lows_RN = np.full(wins_RNN.shape[:2], -np.inf)
    highs_RN = np.full(wins_RNN.shape[:2], np.inf)
    lows_RN[finite_R] = highs_RN[finite_R] = _fit(wins_RNN[finite_R])
    back_RNN = reach_RNN.transpose(0, 2, 1)
    beneath, above = (reach_RNN & ~back_RNN).any(axis=2), (back_RNN & ~reach_RNN).any(axis=2)
    apart = (~reach_RNN & ~back_RNN).any(axis=2)
    lows_RN[beneath & ~above & ~apart] = np.inf
    highs_RN[above & ~beneath & ~apart] = -np.inf
    return lows_RN, highs_RN


def _reach(wins_RNN: Floats) -> Bools:
    """Whether a chain of wins leads from one player to another; everybody reaches themselves."""
    players = wins_RNN.shape[-1]
    reach_RNN: Bools = (wins_RNN > 0) | np.eye(players, dtype=bool)
    for _ in range(math.ceil(math.log2(players))):  # each round doubles the length of the chains
        reach_RNN = (reach_RNN.astype(np.float64) @ reach_RNN.astype(np.float64)) > 0
    return reach_RNN


def _fit(wins_RNN: Floats) -> Floats:
    """The likeliest strengths in nats, their mean 0, by Newton's method; shape [resamples, players]."""
    resamples, players, _ = wins_RNN.shape
    games_RNN = wins_RNN + wins_RNN.transpose(0, 2, 1)
    strength_RN = np.zeros((resamples, players))
    for _ in range(200):
        chance_RNN = 1 / (1 + np.exp(strength_RN[:, None, :] - strength_RN[:, :, None]))
        gradient_RN = (wins_RNN - games_RNN * chance_RNN).sum(axis=2)
        weight_RNN = games_RNN * chance_RNN * (1 - chance_RNN)
        # The likelihood does not change when all strengths do by as much: a constant takes that direction away.
        curve_RNN = 1.0 / players - weight_RNN
        curve_RNN[:, range(players), range(players)] += weight_RNN.sum(axis=2)
        step_RN = np.linalg.solve(curve_RNN, gradient_RN[:, :, None])[:, :, 0]
        largest_R = np.abs(step_RN).max(axis=1, initial=0.0, keepdims=True)
        strength_RN += step_RN * np.minimum(1.0, _STEP / np.maximum(largest_R, _STEP))
        if largest_R.max(initial=0.0) < 1e-10:
            break
    centred: Floats = strength_RN - strength_RN.mean(axis=1, keepdims=True)
    return centred
