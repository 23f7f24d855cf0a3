"""What pairs prefer beside what they should: longer answers, and the answer that stood first.

Pairs of one group are not independent, so that intervals are over groups: Wilson's where each has one pair or all
say the same, else the bootstrap that draws whole groups.
"""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from workbench.identity import to_json
from workbench.preferring.pairs import Pair
from workbench.types import Interval


def share(hits: Sequence[float], groups: Sequence[str]) -> Interval:
    """Mean of numbers in [0, 1], one a pair, with its 95 % interval over groups.

    No pair, and one group whose pairs differ, give the interval [0, 1].
    """
    from workbench.stats import ratio_interval, wilson_interval

    if not hits:
        return wilson_interval(0, 0)
    sums, sizes = _by_group(hits, groups)
    means = [total / size for total, size in zip(sums, sizes, strict=True)]
    value = mean(hits)
    if len(means) == 1 and len(set(hits)) > 1:
        return Interval(value, 0.0, 1.0, 0.95, "one group")
    # Where groups are alike the bootstrap would give an interval of no width.
    if max(means) - min(means) < 1e-9 or (len(sums) == len(hits) and set(hits) <= {0.0, 1.0}):
        return wilson_interval(value * len(sums), len(sums))
    return ratio_interval(sums, sizes)


def mean_over(values: Sequence[float], groups: Sequence[str]) -> Interval | float:
    """Mean of any numbers, one a pair, with its 95 % interval over groups; alone where there is one group."""
    from workbench.stats import ratio_interval

    sums, sizes = _by_group(values, groups)
    return ratio_interval(sums, sizes) if len(sums) > 1 else mean(values)


def _by_group(values: Sequence[float], groups: Sequence[str]) -> tuple[list[float], list[int]]:
    """(sum, how many) of each group."""
    sums: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for value, group in zip(values, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value
        sizes[group] = sizes.get(group, 0) + 1
    return list(sums.values()), list(sizes.values())


def length_bias(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Lengths in characters, how often the chosen one is the longer, and whether margins grow with length.

    Gives:
        chosen, rejected: mean and median characters.
        longer, shorter, equal: pairs whose chosen answer is that.
        chosen_longer: share of the pairs of different lengths; 0.5 is no bias.
        margin_correlation: Pearson's, of the margin and how much longer the chosen answer is, with a bootstrap
            interval over groups; None with fewer than three groups, through two of which any line goes, and
            where all margins, or all differences, are the same.
    """
    chosen, rejected = ([len(text) for text in texts] for texts in _texts(pairs))
    gaps = [left - right for left, right in zip(chosen, rejected, strict=True)]
    differing = [(float(gap > 0), pair.group) for gap, pair in zip(gaps, pairs, strict=True) if gap]
    with_margin = [(p.margin, gap, p.group) for p, gap in zip(pairs, gaps, strict=True) if p.margin is not None]
    return {
        "chosen": _middle(chosen),
        "rejected": _middle(rejected),
        "longer": sum(gap > 0 for gap in gaps),
        "shorter": sum(gap < 0 for gap in gaps),
        "equal": sum(gap == 0 for gap in gaps),
        "chosen_longer": to_json(share([hit for hit, _ in differing], [group for _, group in differing])),
        "margin_correlation": _correlation(with_margin),
    }


def position_bias(firsts: Sequence[tuple[float, float]], groups: Sequence[str]) -> dict[str, Any]:
    """How far a judge's verdicts depend on which answer stood first.

    Args:
        firsts: for each pair the probability of the first place, in one order and in the other.
        groups: of the pairs.

    Gives:
        flips: share of pairs whose verdict is another in the other order: both times the first, or the second.
        first_preferred: share of verdicts, two a pair, for the first place; 0.5 is no bias, and a probability
            of just 0.5 counts one half.
        mean_first: mean probability of the first place; 0.5 is no bias.
    """
    verdicts = [(_for_first(one), _for_first(other)) for one, other in firsts]
    return {
        "pairs": len(firsts),
        "flips": to_json(share([float({1.0} == {*v} or {0.0} == {*v}) for v in verdicts], groups)),
        "first_preferred": to_json(share([mean(verdict) for verdict in verdicts], groups)),
        "mean_first": to_json(share([mean(pair) for pair in firsts], groups)),
    }


def _for_first(probability: float) -> float:
    return 0.5 if probability == 0.5 else float(probability > 0.5)


def _texts(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]


def _middle(lengths: Sequence[int]) -> dict[str, float]:
    return {"mean": mean(lengths), "median": float(median(lengths))}


def _correlation(rows: Sequence[tuple[float, int, str]], resamples: int = 2000) -> dict[str, Any] | None:
    """Pearson's correlation of the first two columns; whole groups, the third, are drawn for its interval."""
    import numpy as np

    if len({group for *_, group in rows}) < 3 or any(len({row[column] for row in rows}) < 2 for column in (0, 1)):
        return None
    places: dict[str, list[int]] = {}
    for place, (_, _, group) in enumerate(rows):
        places.setdefault(group, []).append(place)
    values = np.array([(margin, gap) for margin, gap, _ in rows], dtype=np.float64)
    members = list(places.values())
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        picked = [place for i in rng.integers(0, len(members), len(members)) for place in members[i]]
        margins, gaps = values[picked].T
        if np.ptp(margins) and np.ptp(gaps):
            drawn.append(_pearson(margins, gaps))
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (-1.0, 1.0)
    found: dict[str, Any] = to_json(Interval(_pearson(*values.T), float(low), float(high), 0.95, "bootstrap"))
    return found


def _pearson(left: Any, right: Any) -> float:
    import numpy as np

    return float(np.corrcoef(left, right)[0, 1])
