"""A vote as its samples come in: who leads after each of them, for many questions and orders at once.

One more vote can only put the answer that it is for in the lead, so that the leader's votes and the number of
answers that share the lead are kept up without a look at the others. Votes are whole numbers: a sum does not
depend on the order of its terms, and equal sums are equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Votes = NDArray[Any]  # int32 where every vote counts 1, int64 for weights

BITS = 40
"""Of a question's largest weight as a whole number; a million of them still fit 64 bits."""


@dataclass(frozen=True)
class Standing:
    """After a sample: all of shape [orders, questions].

    Attributes:
        votes: of the answer that the sample is for, with the sample; below 0 for one without a voice.
        leads: whether that answer now leads alone.
        first: the leader's votes.
        share: the right answer's share of the point: 1 where it leads alone, ½ where two share the lead.
    """

    votes: Votes
    leads: NDArray[np.bool_]
    first: Votes
    share: Floats


def running(codes_NQ: Ints, orders_NR: Ints, weights_NQ: Ints | None = None) -> Iterator[Standing]:
    """The standing after each sample; the arrays are used again for the next one.

    Args:
        codes_NQ: answers as small numbers, 0 the right one; -1 has no voice.
        orders_NR: which sample comes, by step and order.
        weights_NQ: votes that a sample has, above 0 wherever it has a voice; by default 1.
    """
    questions = codes_NQ.shape[1]
    classes = max(0, int(codes_NQ.max(initial=-1))) + 1
    cells_NQ = np.where(codes_NQ < 0, classes, codes_NQ) + np.arange(questions) * (classes + 1)
    orders = orders_NR.shape[1]
    kind: Any = np.int32 if weights_NQ is None else np.int64
    totals = np.zeros((orders, questions, classes + 1), dtype=kind)
    totals[:, :, classes] = np.iinfo(kind).min // 2  # whoever has no voice never comes near the lead
    flat = totals.reshape(-1)
    base_R1 = (np.arange(orders) * questions * (classes + 1))[:, None]
    right_NQ = codes_NQ == 0
    first = np.zeros((orders, questions), dtype=kind)
    ties = np.zeros((orders, questions), dtype=np.int32)
    won = np.zeros((orders, questions), dtype=bool)
    for rows in orders_NR:
        cells = cells_NQ[rows] + base_R1
        votes = flat[cells] + (1 if weights_NQ is None else weights_NQ[rows])
        flat[cells] = votes
        right = right_NQ[rows]
        leads, joins = votes > first, votes == first
        won &= ~leads
        won |= right & (leads | joins)
        ties += joins
        ties[leads] = 1
        np.maximum(first, votes, out=first)
        yield Standing(votes, leads, first, won / np.maximum(ties, 1))


def whole_weights(weights_QN: Floats) -> Ints:
    """Weights as whole numbers of 40 bits at most; one below 2^-41 of its question's largest becomes 0.

    A question's factor is a power of two, so that sums of halves and quarters that are equal stay equal. Each has
    its own: votes of different questions never meet, and a scorer may like nothing about one of them.
    """
    top_Q1 = weights_QN.max(axis=1, keepdims=True, initial=0.0)
    whole_QN = np.rint(np.ldexp(weights_QN, BITS - np.frexp(top_Q1)[1]))
    return np.asarray(whole_QN, dtype=np.int64)


def compressed(codes_QN: Ints) -> Ints:
    """Each row's answers renumbered without gaps; 0 stays 0 and what is below 0 becomes -1."""
    order = np.argsort(codes_QN, axis=1, kind="stable")
    ordered = np.take_along_axis(codes_QN, order, axis=1)
    fresh = np.ones(codes_QN.shape, dtype=np.int64)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    fresh[ordered <= 0] = 0
    renumbered = np.where(ordered < 0, -1, np.cumsum(fresh, axis=1))
    codes = np.empty_like(codes_QN)
    np.put_along_axis(codes, order, renumbered, axis=1)
    return codes
