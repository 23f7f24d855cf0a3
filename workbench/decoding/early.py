"""A majority vote that stops early (Adaptive-Consistency, Aggarwal et al. 2023, arXiv 2305.11860).

Samples are drawn in rounds, all open questions together. A round of a question has as many samples as its rule can
be met by at the earliest, so that no sample is drawn behind the point where drawing one by one would have stopped;
at least `block`, which trades such samples for rounds, for an engine reads a question's prompt once a round.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from workbench.decodes import EarlyMajority
from workbench.decoding.ask import drawing, stream_key
from workbench.decoding.steps import Stepped
from workbench.engines.base import Engine
from workbench.stats import settled
from workbench.store import Store
from workbench.types import Completion, Finish, Request, System

AnswerOf = Callable[[str, Completion], str | None]


@dataclass(frozen=True)
class Drawn:
    """What was drawn; all by question.

    Attributes:
        completions: as `ask.completions` gives them; of a vote that stopped, the first of a question's n samples.
        rounds: how often the question was asked, where that is not once.
        pool: all n samples, where a vote stopped and the store has them of every question.
        stepped: of a decode that asks in stages, what it made.
    """

    completions: dict[str, list[Completion]]
    rounds: dict[str, int] = field(default_factory=dict)
    pool: dict[str, list[Completion]] = field(default_factory=dict)
    stepped: Stepped | None = None


def draw_until_settled(
    system: System,
    requests: Sequence[Request],
    answer_of: AnswerOf,
    engine: Engine,
    store: Store,
    progress: Callable[[int, int], None],
) -> Drawn:
    """The samples of an `EarlyMajority`, through the store; what is stored is not drawn again.

    A sample that failed may still vote when it is asked for again, so that it counts as one that is left.

    Args:
        system: its decode is an `EarlyMajority`.
        requests: one a question.
        answer_of: the answer of a question's completion, as votes count it; None has no voice.
        engine: the System's model, ready.
        store: where completions are kept.
        progress: called with (done, total) after every batch; a question that is settled is done with n samples.

    Raises:
        UserError: as `ask.completions`.
    """
    decode = system.decode
    assert isinstance(decode, EarlyMajority), decode
    stream = store.stream(stream_key(system, engine.version, ()))
    found: dict[str, list[Completion]] = {request.id: [] for request in requests}
    rounds = dict.fromkeys(found, 0)
    want = dict.fromkeys(found, first_round(decode))  # samples up to which each open question is drawn
    total = decode.n * len(found)
    while want:
        missing = {
            id: new
            for id, indices in store.missing(stream, list(want), decode.n).items()
            if (new := tuple(i for i in indices if len(found[id]) <= i < want[id]))
        }
        done = total - sum(decode.n - len(found[id]) for id in want)
        progress(done, total)
        failed: dict[str, list[Completion]] = {}
        for batch in drawing(system, requests, (), missing, engine, store):
            for name, completion in batch:
                if completion.finish is Finish.ERROR:
                    failed.setdefault(name, []).append(completion)
            done += len(batch)
            progress(done, total)
        for id in want:
            stored = store.read(stream, [id], want[id]).get(id, [])
            before = [c for c in found[id] if c.finish is Finish.ERROR]
            found[id] = sorted([*stored, *before, *failed.get(id, [])], key=lambda c: c.index)
            rounds[id] += 1
        want = {
            id: upto
            for id in want
            if (upto := _next_round(decode, found[id], [answer_of(id, c) for c in found[id]])) is not None
        }
    progress(total, total)
    pool = store.read(stream, list(found), decode.n)
    whole = len(pool) == len(found) and all(len(row) == decode.n for row in pool.values())
    return Drawn(found, rounds, pool if whole else {})


def first_round(decode: EarlyMajority) -> int:
    """Samples of the first round, the same for every question."""
    return min(decode.n, max(decode.block, _soonest(0, 0, decode.n, decode)))


def _next_round(decode: EarlyMajority, drawn: Sequence[Completion], answers: Sequence[str | None]) -> int | None:
    """Samples up to which a question is drawn next; None where it is settled or has all n."""
    if len(drawn) >= decode.n:
        return None
    left = decode.n - sum(c.finish is not Finish.ERROR for c in drawn)
    first, second = leaders(answers)
    if bool(settled(first, second, left, decode.stop)):
        return None
    return min(decode.n, len(drawn) + max(decode.block, _soonest(first, second, left, decode)))


def leaders(answers: Sequence[str | None]) -> tuple[int, int]:
    """Votes of the leader and of the runner-up; of equal ones both have as many."""
    counts = [count for _, count in Counter(a for a in answers if a is not None).most_common(2)]
    first, second = [*counts, 0, 0][:2]
    return first, second


def _soonest(first: int, second: int, left: int, decode: EarlyMajority) -> int:
    """The smallest number of further samples after which the vote may be settled: all for the leader."""
    more = np.arange(1, left + 1)
    return int(more[np.argmax(settled(first + more, second, left - more, decode.stop))])
