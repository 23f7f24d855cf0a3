"""Two Systems on the same questions: tests of their difference, and what so many questions can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from workbench.errors import UserError, check_range
from workbench.stats.intervals import check_probability, check_scores, chunks, percentile_bounds, two_sided_z
from workbench.types import Interval


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of two systems on the same questions: discordant pairs ~ Binomial(b + c, ½).

    McNemar 1947 with the binomial in place of χ². No discordant pair gives 1.

    Args:
        only_first: b, questions that only the first system got right.
        only_second: c, questions that only the second one did.
    """
    check_range("only_first", only_first, 0, 10**9)
    check_range("only_second", only_second, 0, 10**9)
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    term = tail = 1  # exact integers: C(discordant, i) and their sum
    for i in range(fewer):
        term = term * (discordant - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << discordant))


@dataclass(frozen=True)
class PairedDifference:
    """How far the first system's mean score is above the second's on shared questions."""

    difference: Interval
    p_value: float


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Mean of first − second over shared questions: percentile bootstrap interval and two-sided p-value.

    The p-value flips the sign of each question's difference at random (Fisher's randomisation test; Efron &
    Tibshirani 1993, ch. 15): (count + 1)/(resamples + 1), so never 0, and for scores of 0 and 1 the p-value
    of `mcnemar_exact` up to the draws. A bootstrap p-value would call a single question significant.
    Differences that are all the same get Bonett & Price's interval (2012) in place of one of no width.

    Args:
        first, second: scores in [0, 1], one a question, in the same order of questions; shape [questions].
        confidence: of the interval.
        resamples: draws, for the interval and for the p-value.
        seed: fixes them.

    Raises:
        UserError: the lengths differ, or a score is not in [0, 1].
    """
    first, second = check_scores("first", first), check_scores("second", second)
    if len(first) != len(second):
        raise UserError(f"first has {len(first)} questions and second {len(second)}: they must be the same.")
    z = two_sided_z(confidence)
    gaps = first - second
    if not len(gaps):
        return PairedDifference(Interval(0.0, -1.0, 1.0, confidence, "none"), 1.0)
    value = float(gaps.mean())
    if np.ptp(gaps) == 0:
        padded = np.append(gaps, [1.0, -1.0])  # one more discordant question each way
        half = z * float(padded.std()) / math.sqrt(len(padded))
        low, high = max(-1.0, float(padded.mean()) - half), min(1.0, float(padded.mean()) + half)
        interval = Interval(value, min(value, low), max(value, high), confidence, "bonett-price")
    else:
        low, high = percentile_bounds(gaps, confidence, resamples, seed)
        interval = Interval(value, low, high, confidence, "bootstrap")
    rng = np.random.default_rng([seed, 1])
    observed = abs(float(gaps.sum())) - 1e-9  # sums of the same terms in another order are equal
    changed = gaps[gaps != 0]
    as_extreme = sum(
        int((np.abs(rng.choice([-1.0, 1.0], (rows, len(changed))) @ changed) >= observed).sum())
        for rows in chunks(resamples, len(changed))
    )
    return PairedDifference(interval, (as_extreme + 1) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979), in the order given: never below the raw ones, at most 1."""
    for p in p_values:
        check_range("p_values", float(p), 0, 1)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * float(p_values[place])))
        adjusted[place] = highest
    return adjusted


def minimum_detectable_effect(
    total: int, discordance: float = 0.3, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest difference in accuracy that McNemar's test on `total` paired questions finds with `power`.

    Solves δ√n = z_{1−α/2}·√ψ + z_power·√(ψ − δ²) for δ (Connor 1987), the normal approximation
    to the test. ψ is the share of questions that only one of the two systems gets right: `discordance`, or δ
    itself where that is more, for a difference cannot exceed it. 1 where even the largest would be missed.

    Args:
        total: n, the shared questions.
        discordance: ψ; two systems that are both half right disagree on half of the questions when they have
            nothing in common, and on fewer the more they have. Give the observed share where there is one.
        alpha: two-sided level of the test.
        power: chance of finding the difference.
    """
    check_range("total", total, 0, 10**15)
    check_range("discordance", discordance, 0, 1)
    z_alpha = two_sided_z(1 - check_probability("alpha", alpha))
    z_power = NormalDist().inv_cdf(check_probability("power", power))

    def found(delta: float) -> bool:
        psi = max(discordance, delta)
        needed = z_alpha * math.sqrt(psi) + z_power * math.sqrt(psi - delta**2)
        return delta * math.sqrt(total) >= needed

    low, high = 0.0, 1.0
    if not found(high):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high
