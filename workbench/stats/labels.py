"""Classification: probabilities of labels, their contextual calibration, and F1 over the classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.errors import UserError

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
