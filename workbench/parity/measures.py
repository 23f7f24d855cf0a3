"""How far one system is from the reference on the same questions: answers, texts, and log-probabilities a token.

The reference's greedy answers are read by every system (teacher forcing), so that each token is predicted from the
same words; what greedy decoding does with a small difference is told beside it, by where the texts part.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from workbench.engines.base import TokenScore, TokenScores
from workbench.stats import ratio_interval, wilson_interval
from workbench.types import Interval, Result, Status

LEAST_MASS = 1e-9
"""What the tokens that nobody told of weigh at least: where rounding leaves them nothing, or less."""


@dataclass(frozen=True)
class Measured:
    """What one system said.

    Attributes:
        name: the system's.
        result: its own greedy answers, graded.
        scores: the reference's answers under this system, by question; empty answers are absent.
        own: the tokens of its own answer, of those questions whose text is not the reference's.
    """

    name: str
    result: Result
    scores: Mapping[str, TokenScores]
    own: Mapping[str, TokenScores]

    @property
    def speed(self) -> float | None:
        """Tokens drawn a second; None where no time was taken."""
        use = self.result.cost_to_use
        return use.completion_tokens / use.seconds if use.seconds > 0 else None


@dataclass(frozen=True)
class Compared:
    """One question under a system beside the reference.

    Attributes:
        id: the question's.
        reference, text: the two greedy answers; None where a request failed.
        same_answer: whether both gave the same parsed answer; None where neither gave one or a request failed.
        parts_at: the token at which the texts part, the first is 0; None where they do not, or it is not known.
        deltas: log-probability of each of the reference's tokens under the system, less that under the reference.
        kls: of each place, as `told_kl`, nats.
        left_out: why there are no deltas; empty where there are.
    """

    id: str
    reference: str | None
    text: str | None
    same_answer: bool | None
    parts_at: int | None
    deltas: tuple[float, ...] = ()
    kls: tuple[float, ...] = ()
    left_out: str = ""

    @property
    def drift(self) -> float:
        """Mean |Δ| over the answer's tokens, nats; 0 where it was left out."""
        return sum(map(abs, self.deltas)) / len(self.deltas) if self.deltas else 0.0


@dataclass(frozen=True)
class Distance:
    """How far a system is from the reference.

    Attributes:
        questions: each of them.
        answers: share of equal parsed answers, where at least one gave one.
        answered: how many those are.
        texts: share of equal texts, where neither request failed.
        both: how many those are.
        parts_at: median token at which texts part, over those whose place is known; None where none is.
        drift: mean |Δ log-probability| a token with its interval; None where no question could be scored.
        signed: mean Δ; below 0 the system finds the reference's answers less likely.
        kl: mean of `told_kl` a token with its interval.
        p99, largest: of |Δ| over tokens.
        tokens, scored: how many tokens of how many questions those four are over.
        failed: questions where a request for an answer failed, the system's or the reference's.
        left_out: (why, how many questions) that could not be scored.
    """

    questions: tuple[Compared, ...]
    answers: Interval
    answered: int
    texts: Interval
    both: int
    parts_at: float | None
    drift: Interval | None
    signed: Interval | None
    kl: Interval | None
    p99: float
    largest: float
    tokens: int
    scored: int
    failed: int
    left_out: tuple[tuple[str, int], ...]


def told_kl(reference: TokenScore, other: TokenScore) -> float:
    """KL(reference ‖ other) of the next token, nats, over what both told; never below 0.

    A server tells 20 log-probabilities at most. The vocabulary is therefore parted into every token that both
    told, and one event for all the rest. By the data-processing inequality (Cover & Thomas 2006, §2.8) the
    divergence over a coarser partition is a lower bound of that over the tokens; where both told of all tokens it
    is equal to it.
    """
    p = dict((*reference.top, (reference.token, reference.logprob)))
    q = dict((*other.top, (other.token, other.logprob)))
    both = p.keys() & q.keys()
    rest_p = max(LEAST_MASS, 1 - math.fsum(math.exp(p[token]) for token in both))
    rest_q = max(LEAST_MASS, 1 - math.fsum(math.exp(q[token]) for token in both))
    told = math.fsum(math.exp(p[token]) * (p[token] - q[token]) for token in both)
    return max(0.0, told + rest_p * math.log(rest_p / rest_q))


def parted_at(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two answers share from their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def distance(reference: Measured, other: Measured) -> Distance:
    """A system beside the reference, question by question and in all."""
    import numpy as np

    outcomes = {outcome.id: outcome for outcome in other.result.outcomes}
    questions = []
    for before in reference.result.outcomes:
        after = outcomes[before.id]
        texts = [None if o.status is Status.ERROR else o.text for o in (before, after)]
        same: bool | None = None
        if None not in texts and (before.answer is not None or after.answer is not None):
            same = before.answer == after.answer
        deltas, kls, why = _scored(reference.scores.get(before.id), other.scores.get(before.id), texts[0])
        place = None if why or None in texts else _place(before.id, texts[0], texts[1], reference, other)
        questions.append(Compared(before.id, texts[0], texts[1], same, place, deltas, kls, why))
    told = [q for q in questions if q.deltas]
    weights = [len(q.deltas) for q in told]
    sizes = np.abs([delta for q in told for delta in q.deltas])
    answers = [q.same_answer for q in questions if q.same_answer is not None]
    both = [q.reference == q.text for q in questions if q.reference is not None and q.text is not None]
    places = [q.parts_at for q in questions if q.parts_at is not None]
    return Distance(
        questions=tuple(questions),
        answers=wilson_interval(sum(answers), len(answers)),
        answered=len(answers),
        texts=wilson_interval(sum(both), len(both)),
        both=len(both),
        parts_at=float(np.median(places)) if places else None,
        drift=ratio_interval([sum(map(abs, q.deltas)) for q in told], weights) if told else None,
        signed=ratio_interval([sum(q.deltas) for q in told], weights) if told else None,
        kl=ratio_interval([sum(q.kls) for q in told], weights) if told else None,
        p99=float(np.quantile(sizes, 0.99)) if told else 0.0,
        largest=float(sizes.max()) if told else 0.0,
        tokens=len(sizes),
        scored=len(told),
        failed=len(questions) - len(both),
        left_out=tuple(Counter(q.left_out for q in questions if q.left_out).items()),
    )


def _scored(
    reference: TokenScores | None, other: TokenScores | None, text: str | None
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Of each token Δ and the divergence; or nothing, and why."""
    if text is None:
        return (), (), "the reference's request failed"
    if not text:
        return (), (), "the reference's answer is empty"
    if reference is None or other is None or reference.error or other.error:
        return (), (), "scoring failed"
    pairs = list(zip(reference.tokens, other.tokens, strict=False))
    if [a.token for a in reference.tokens] != [b.token for b in other.tokens]:
        return (), (), "tokenised differently"
    return tuple(b.logprob - a.logprob for a, b in pairs), tuple(told_kl(a, b) for a, b in pairs), ""


def _place(id: str, before: str | None, after: str | None, reference: Measured, other: Measured) -> int | None:
    """The token at which two texts part; None where they are equal or the tokens of the second are not known."""
    if before == after:
        return None
    if not after:
        return 0
    own = other.own.get(id)
    if own is None or own.error:
        return None
    return parted_at([t.token for t in reference.scores[id].tokens], [t.token for t in own.tokens])
