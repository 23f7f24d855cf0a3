"""Classification: probabilities of labels, their contextual calibration, and F1 over the classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError
from workbench.stats.intervals import check_probability
from workbench.types import Interval

Floats = NDArray[np.float64]


def label_probabilities(scores: ArrayLike) -> Floats:
    """Softmax over the last axis: log-probabilities of labels become probabilities that sum to 1.

    Args:
        scores: nats, shape [..., labels]; −inf is a label that cannot be. Where all are −inf, nothing is known
            and every label gets the same.
    """
    scores = np.asarray(scores, dtype=np.float64)
    best = scores.max(axis=-1, keepdims=True)
    weights = np.exp(np.where(np.isneginf(best), 0.0, scores - np.where(np.isneginf(best), 0.0, best)))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def calibrated(probabilities: ArrayLike, content_free: ArrayLike) -> Floats:
    """Contextual calibration (Zhao et al. 2021, arXiv 2102.09690, §5): W p with W = diag(p_cf)⁻¹ and b = 0.

    p_cf is the mean of the label probabilities over the content-free inputs, renormalised to 1. The label with
    the highest score is the answer; the scores are no probabilities and are not renormalised.

    Args:
        probabilities: p, shape [..., labels].
        content_free: the label probabilities of each content-free input, shape [inputs, labels].

    Raises:
        UserError: there is no content-free input, or it has another number of labels.
    """
    p, free = np.asarray(probabilities, dtype=np.float64), np.asarray(content_free, dtype=np.float64)
    if free.ndim != 2 or not len(free) or free.shape[-1] != p.shape[-1]:
        raise UserError(
            f"content_free has the shape {free.shape}; it must be one row of {p.shape[-1]} label probabilities "
            "for each of one or more content-free inputs."
        )
    p_cf = free.mean(axis=0)
    p_cf = p_cf / p_cf.sum()
    # A label that never came near on content-free inputs may have underflowed to 0.
    return np.asarray(p / np.maximum(p_cf, np.finfo(np.float64).tiny))


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


def macro_f1_interval(
    targets: Sequence[str],
    answers: Sequence[str | None],
    labels: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """`macro_f1` with the percentile bootstrap over questions (Efron & Tibshirani 1993, §13.3).

    A resample of the questions is a draw of how many there are of each pair (target, answer), so that many
    questions cost no more than few. A label that a resample has not is left out of its mean.

    Raises:
        UserError: there is no question, or not an answer to each.
    """
    value = macro_f1(targets, answers, labels)
    if not targets:
        raise UserError("There is no question to tell an F1 of.")
    tail = (1 - check_probability("confidence", confidence)) / 2
    pairs = Counter(zip(targets, answers, strict=True))
    drawn = np.random.default_rng(seed).multinomial(
        len(targets), [count / len(targets) for count in pairs.values()], size=resamples
    )
    seen, sums = np.zeros(resamples), np.zeros(resamples)
    for label in dict.fromkeys(labels):
        hits = drawn[:, [pair == (label, label) for pair in pairs]].sum(axis=1)
        both = sum(drawn[:, [pair[side] == label for pair in pairs]].sum(axis=1) for side in (0, 1))
        seen += both > 0
        sums += np.where(both > 0, 2 * hits / np.maximum(both, 1), 0.0)
    low, high = np.quantile(sums / np.maximum(seen, 1), [tail, 1 - tail])
    return Interval(value, float(low), float(high), confidence, "bootstrap")
