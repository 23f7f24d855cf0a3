"""Statistics of sampled answers: estimators, intervals, tests and fits; pure functions of numbers.

Everything random takes a seed and gives the same numbers for it. An empty input answers with what nothing
says: an interval of [0, 1], a p-value of 1.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError, check_range
from workbench.types import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXACT_WORK = 3e7
"""Multiply-adds up to which a majority vote's expectation is computed exactly: some 50 ms."""


# --- several samples a question ---------------------------------------------------------------------


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """Chance that k of n samples, c of them right, hold a right one: 1 − C(n−c, k)/C(n, k).

    The unbiased estimator of Chen et al. 2021 (equation 1), unlike 1 − (1 − c/n)^k. n, c and k broadcast.

    Raises:
        UserError: a count is negative or no whole number, or c or k is above n.
    """
    n, c, k = np.broadcast_arrays(_counts("n", n), _counts("c", c), _counts("k", k))
    for name, values in (("c", c), ("k", k)):
        if np.any(values > n):
            raise UserError(f"{name} is {values[values > n][0]:g}, more than n = {n[values > n][0]:g}.")
    # The ratio is the same with c and k exchanged: a product of min(c, k) factors, each taken as a logarithm,
    # so that neither a binomial overflows nor a small probability drowns in rounding.
    fewer, more = np.minimum(c, k), np.maximum(c, k)
    log_miss = np.zeros(n.shape)
    with np.errstate(divide="ignore"):  # log1p(-1): no way to miss
        for i in range(int(fewer.max(initial=0))):
            left = np.where(i < fewer, n - i, np.inf)  # a finished product gets factors of 1
            log_miss += np.log1p(-np.minimum(more / left, 1.0))
            if np.all((log_miss < -40) | (i + 1 >= fewer)):  # 1 − e^−40 is 1 in double precision
                break
    return np.asarray(0.0 - np.expm1(log_miss))  # not −expm1, whose 0 is −0


def _counts(name: str, values: ArrayLike) -> Floats:
    counts = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts))):
        raise UserError(f"{name} must be whole numbers from 0 up; it is {values!r}.")
    return counts


def majority_at_k(
    answers: Sequence[Hashable | None],
    target: Hashable | None,
    k: int,
    subsets: int = 10_000,
    seed: int = 0,
) -> float:
    """Expected score of a majority vote among k of a question's samples, over all its k-subsets.

    Self-consistency (Wang et al. 2022). Ties share the point equally. None (no answer found) never votes and
    equals nothing, and a subset where nobody votes scores 0.

    Args:
        answers: the n samples' parsed answers.
        target: the right answer.
        k: votes, 1 to n.
        subsets, seed: as in `majority_curve`; used where the exact sum is out of reach (n of about 300 up).

    Raises:
        UserError: k is not in 1 … n.
    """
    codes: dict[Hashable, int] = {}
    row = [-1 if answer is None else codes.setdefault(answer, len(codes)) for answer in answers]
    right = -1 if target is None else codes.setdefault(target, len(codes))
    table = np.array([row], dtype=np.int64)
    return float(majority_curve(table, np.array([right]), [k], subsets, seed)[0, 0])


def majority_curve(
    answers: ArrayLike, targets: ArrayLike, ks: Sequence[int], subsets: int = 64, seed: int = 0
) -> Floats:
    """`majority_at_k` of a whole table: shape [questions, len(ks)]; its mean over axis 0 is the curve.

    Exact where `EXACT_WORK` allows. Elsewhere the mean over random subsets, the same draws for every k: its
    standard error is at most 0.5/√subsets for one question and 0.5/√(subsets · questions) for the curve
    (.002 for 64 subsets and 1,000 questions), since each question draws its own subsets.

    Args:
        answers: whole numbers, shape [questions, samples]; −1 does not vote. They need not be small.
        targets: whole numbers, shape [questions]; −1 is never right.
        ks: numbers of votes, each 1 … samples.
        subsets: random subsets a question.
        seed: fixes them.

    Raises:
        UserError: shapes do not match, or a k is not in 1 … samples.
    """
    answers_QN, targets_Q = np.asarray(answers, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    if answers_QN.ndim != 2 or targets_Q.shape != answers_QN.shape[:1]:
        raise UserError(
            f"answers has shape {answers_QN.shape} and targets {targets_Q.shape}; "
            "they must be [questions, samples] and [questions]."
        )
    questions, samples = answers_QN.shape
    check_range("subsets", subsets, 1, 10**9)
    for k in ks:
        if not 1 <= k <= samples:
            raise UserError(f"k is {k}; with {samples} samples a question it must be in 1 … {samples}.")
    scores = np.zeros((questions, len(ks)))
    if not questions or not len(ks):
        return scores
    codes_QN, target_Q, classes = _compress(answers_QN, targets_Q)
    rows = np.arange(questions)
    cells = codes_QN + rows[:, None] * (classes + 1)
    votes_QC = np.bincount(cells.ravel(), minlength=questions * (classes + 1)).reshape(questions, -1)[:, :-1]
    right_Q = votes_QC[rows, target_Q]
    others_QC = votes_QC.copy()
    others_QC[rows, target_Q] = 0
    others_QC = -np.sort(-others_QC, axis=1)
    others_QC = others_QC[:, others_QC.any(axis=0)]
    exact = [_exact_work(right_Q, others_QC, samples, k) <= EXACT_WORK for k in ks]
    for column, k in enumerate(ks):
        if exact[column]:
            scores[:, column] = _majority_exact(right_Q, others_QC, samples, k)
    drawn = [column for column in range(len(ks)) if not exact[column]]
    if drawn:
        wanted = [ks[column] for column in drawn]
        scores[:, drawn] = _majority_drawn(cells, target_Q, classes, wanted, subsets=subsets, seed=seed)
    return scores


def _compress(answers_QN: Ints, targets_Q: Ints) -> tuple[Ints, Ints, int]:
    """Renumber each row's answers and target 0 … classes−1; what does not vote becomes `classes`.

    A target of −1 gets a class that no vote is for, so it is never right.
    """
    table = np.concatenate([targets_Q[:, None], answers_QN], axis=1)
    order = np.argsort(table, axis=1)
    ordered = np.take_along_axis(table, order, axis=1)
    ranks = np.zeros_like(table)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=ranks[:, 1:])
    codes = np.empty_like(table)
    np.put_along_axis(codes, order, ranks, axis=1)
    classes = int(codes.max()) + 1
    return np.where(answers_QN < 0, classes, codes[:, 1:]), codes[:, 0], classes


def _exact_work(right_Q: Ints, others_QC: Ints, samples: int, k: int) -> float:
    """Multiply-adds of `_majority_exact`; infinite where C(samples, k) does not fit a double."""
    if math.lgamma(samples + 1) - math.lgamma(k + 1) - math.lgamma(samples - k + 1) > 700:
        return math.inf
    tallest = others_QC.max(axis=0, initial=0)
    wins = np.arange(1, min(int(right_Q.max()), k) + 1)
    terms = np.minimum(tallest[None, :], wins[:, None]).sum(axis=1) + len(tallest)
    return float((terms * (k // wins) * (k + 1)).sum()) * len(right_Q)


def _majority_exact(right_Q: Ints, others_QC: Ints, samples: int, k: int) -> Floats:
    """Sum over the k-subsets by generating polynomials, for all questions at once; shape [questions].

    For each number of votes v that the right answer may win with, `ways[q, t, j]` counts the ways to take j
    samples among the other classes so that t of them tie with v votes and the rest have fewer.
    """
    choose = _binomials(samples, k)
    questions = len(right_Q)
    silent_Q = samples - right_Q - others_QC.sum(axis=1)
    total = np.zeros(questions)
    for v in range(1, min(int(right_Q.max()), k) + 1):
        rest = k - v
        ways = np.zeros((questions, rest // v + 1, rest + 1))
        ways[:, 0, : rest + 1] = choose[silent_Q, : rest + 1]
        for votes_Q in others_QC.T:
            grown = ways.copy()  # none of this class is taken
            for i in range(1, min(int(votes_Q.max()), v - 1, rest) + 1):
                grown[:, :, i:] += choose[votes_Q, i, None, None] * ways[:, :, :-i]
            if v <= rest:
                grown[:, 1:, v:] += choose[votes_Q, v, None, None] * ways[:, :-1, :-v]
            ways = grown
        shares = 1 / np.arange(1, ways.shape[1] + 1)
        total += choose[right_Q, v] * (ways[:, :, rest] @ shares)
    return np.asarray(np.minimum(total / choose[samples, k], 1.0))  # rounding may go a hair above


def _binomials(samples: int, k: int) -> Floats:
    """C(m, i) for m = 0 … samples and i = 0 … k, shape [samples + 1, k + 1]."""
    m = np.arange(samples + 1.0)
    table = np.ones((samples + 1, k + 1))
    for i in range(k):
        table[:, i + 1] = table[:, i] * np.maximum(m - i, 0) / (i + 1)
    return table


def _majority_drawn(
    cells: Ints, target_Q: Ints, classes: int, ks: Sequence[int], *, subsets: int, seed: int
) -> Floats:
    """Mean score over random subsets, shape [questions, len(ks)]: each k takes the start of one permutation.

    Every row is shuffled on its own once; after that one permutation serves all rows, and a row's subsets
    are still uniform and independent of the other rows'.
    """
    rng = np.random.default_rng(seed)
    questions = len(cells)
    cells_NQ = np.ascontiguousarray(rng.permuted(cells, axis=1).T)
    order = sorted(range(len(ks)), key=lambda column: ks[column])
    rows = np.arange(questions)
    scores = np.zeros((questions, len(ks)))
    for _ in range(subsets):
        permutation = rng.permutation(len(cells_NQ))
        votes = np.zeros((questions, classes + 1), dtype=np.int32)
        taken = 0
        for column in order:
            fresh = cells_NQ[permutation[taken : ks[column]]].ravel()
            votes += np.bincount(fresh, minlength=votes.size).reshape(votes.shape)
            taken = ks[column]
            cast = votes[:, :-1]
            most = cast.max(axis=1)
            won = (cast[rows, target_Q] == most) & (most > 0)
            scores[:, column] += won / np.count_nonzero(cast == most[:, None], axis=1)
    return scores / subsets


# --- intervals and tests ----------------------------------------------------------------------------


def wilson_interval(successes: float, total: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; recommended by Brown, Cai & DasGupta 2001).

    Nothing seen gives the value 0 and the interval [0, 1].

    Raises:
        UserError: `successes` is not in 0 … `total`, or `confidence` not between 0 and 1.
    """
    check_range("total", total, 0, 10**15)
    check_range("successes", successes, 0, total)
    z = _two_sided_z(confidence)
    if total == 0:
        return Interval(0.0, 0.0, 1.0, confidence, "wilson")
    share = successes / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / scale
    # At 0 and at 1 the bound is the estimate itself, which rounding would miss by a hair.
    low = 0.0 if successes == 0 else min(share, centre - half)
    high = 1.0 if successes == total else max(share, centre + half)
    return Interval(share, low, high, confidence, "wilson")


def bootstrap_interval(
    scores: ArrayLike, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean over questions (Efron & Tibshirani 1993, §13.3).

    Scores that are all the same would give an interval of no width. They get Wilson's instead, which is wide
    enough: a score in [0, 1] of mean p varies no more than p(1 − p).

    Args:
        scores: one in [0, 1] a question, its samples' mean; shape [questions].
        confidence: of the interval.
        resamples: bootstrap draws.
        seed: fixes them.
    """
    scores = _scores("scores", scores)
    if len(np.unique(scores)) < 2:
        return wilson_interval(float(scores.sum()), len(scores), confidence)
    low, high = _percentile_bounds(scores, confidence, resamples, seed)
    return Interval(float(scores.mean()), low, high, confidence, "bootstrap")


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
    first, second = _scores("first", first), _scores("second", second)
    if len(first) != len(second):
        raise UserError(f"first has {len(first)} questions and second {len(second)}: they must be the same.")
    z = _two_sided_z(confidence)
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
        low, high = _percentile_bounds(gaps, confidence, resamples, seed)
        interval = Interval(value, low, high, confidence, "bootstrap")
    rng = np.random.default_rng([seed, 1])
    observed = abs(float(gaps.sum())) - 1e-9  # sums of the same terms in another order are equal
    changed = gaps[gaps != 0]
    as_extreme = sum(
        int((np.abs(rng.choice([-1.0, 1.0], (rows, len(changed))) @ changed) >= observed).sum())
        for rows in _chunks(resamples, len(changed))
    )
    return PairedDifference(interval, (as_extreme + 1) / (resamples + 1))


def _percentile_bounds(values: Floats, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """The bounds that hold the middle `confidence` of the resampled means."""
    check_range("resamples", resamples, 1, 10**9)
    tail = (1 - _probability("confidence", confidence)) / 2
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1)
            for rows in _chunks(resamples, len(values))
        ]
    )
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to `resamples`, each chunk of at most a million numbers."""
    rows = max(1, 10**6 // max(1, width))
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _scores(name: str, values: ArrayLike) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not np.all((scores >= 0) & (scores <= 1)):
        raise UserError(f"{name} must be one number in [0, 1] a question.")
    return scores


def _probability(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise UserError(f"{name} is {value!r}; it must lie between 0 and 1, as 0.95 does.")
    return value


def _two_sided_z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + _probability("confidence", confidence)) / 2)


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
    z_alpha = _two_sided_z(1 - _probability("alpha", alpha))
    z_power = NormalDist().inv_cdf(_probability("power", power))

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


# --- sampling laws and labels -----------------------------------------------------------------------


def best_of_n_kl_bound(n: int) -> float:
    """Upper bound in nats on KL(best-of-n ‖ base): log n − (n − 1)/n.

    Stiennon et al. 2020, appendix G.3; a bound, not an equality (Beirami et al. 2024).
    """
    check_range("n", n, 1, 10**15)
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True)
class CoverageFit:
    """log coverage = a·k^b; the standard errors are None for two points, which leave no residual."""

    a: float
    b: float
    a_error: float | None
    b_error: float | None

    def coverage(self, k: float) -> float:
        """Coverage (pass@k) that the law gives for k samples."""
        return math.exp(self.a * k**self.b)


def fit_coverage(ks: Sequence[float], coverage: Sequence[float]) -> CoverageFit:
    """The exponentiated power law of repeated sampling, log coverage = a·k^b (Brown et al. 2024, §3.1).

    Least squares on coverage, started from the straight line of log(−log coverage) on log k, which it is for
    two points. The points of one curve share their samples, so the standard errors are on the small side.

    Args:
        ks: numbers of samples, from 1 up.
        coverage: pass@k at each, in [0, 1]. At least two different ks need one strictly between 0 and 1.

    Raises:
        UserError: there are too few points, or one is out of range.
    """
    if len(ks) != len(coverage):
        raise UserError(f"There are {len(ks)} ks and {len(coverage)} coverages: one is needed for each k.")
    for k, share in zip(ks, coverage, strict=True):
        check_range("k", float(k), 1, 1e15)
        check_range("coverage", float(share), 0, 1)
    log_k, shares = np.log(np.asarray(ks, dtype=np.float64)), np.asarray(coverage, dtype=np.float64)
    inside = (shares > 0) & (shares < 1)
    if len(np.unique(log_k[inside])) < 2:
        raise UserError("A coverage law needs two different ks whose coverage lies between 0 and 1.")
    slope, offset = np.polyfit(log_k[inside], np.log(-np.log(shares[inside])), 1)
    if len(shares) == 2:
        return CoverageFit(-math.exp(offset), float(slope), None, None)
    from scipy.optimize import curve_fit

    def law(x: Floats, log_a: float, b: float) -> Floats:
        return np.asarray(np.exp(-np.exp(log_a + b * x)))

    with np.errstate(over="ignore"):  # a far-off trial step: the law is then 0
        (log_a, b), covariance = curve_fit(law, log_k, shares, p0=(offset, slope))
    a = -math.exp(log_a)
    log_a_error, b_error = np.sqrt(np.diag(covariance))
    return CoverageFit(a, float(b), abs(a) * float(log_a_error), float(b_error))


def macro_f1(targets: Sequence[str], answers: Sequence[str | None], labels: Sequence[str]) -> float:
    """Mean over the labels of F1 = 2·hits/(targets + answers of that label), each label weighing the same.

    An answer of None, or one that is no label, misses its target's class and counts for no other. A label
    that is neither a target nor an answer is left out; no question at all gives 0.
    """
    if len(targets) != len(answers):
        raise UserError(f"There are {len(targets)} targets and {len(answers)} answers: one each is needed.")
    wanted, given = Counter(targets), Counter(answers)
    hits = Counter(target for target, answer in zip(targets, answers, strict=True) if target == answer)
    seen = [label for label in dict.fromkeys(labels) if wanted[label] + given[label]]
    return sum(2 * hits[label] / (wanted[label] + given[label]) for label in seen) / max(1, len(seen))
