"""Best of n: of a question's samples the one that a scorer likes best (Cobbe et al. 2021, arXiv 2110.14168).

A sample that failed or was cut off cannot be chosen, because a reward model has learned on whole answers; one in
which no answer can be found can, for the scorer does not know the grader. Of equal scores the earlier sample wins.
Scores are kept in the store by what gives them, the conversation and the answer's text, so that an answer that is
drawn twice is scored once, and has one score.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from workbench.cost import ModelShape
from workbench.identity import short_hash
from workbench.store import Store
from workbench.types import Completion, Finish, Request


class Scorer(Protocol):
    """A reward model, or what stands for one: a number for an answer behind its conversation."""

    @property
    def version(self) -> str:
        """Software, precision and device: part of the store's key."""

    @property
    def shape(self) -> ModelShape | None:
        """The model's size, for counting FLOPs; None where it cannot be known."""

    def rewards(self, asked: Sequence[tuple[Request, str]]) -> Iterator[list[tuple[int, Completion]]]:
        """The rewards of answers in batches, as (place in `asked`, completion).

        The completion has the answer's text, and its `logprob` is the reward, a number without a unit; one that
        failed finished with `error`.
        """

    def close(self) -> None:
        """Free what it holds."""


def rewards(
    key: Mapping[str, Any],
    requests: Sequence[Request],
    drawn: Mapping[str, Sequence[Completion]],
    scorer: Scorer,
    store: Store,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Completion | None]]:
    """What a scorer says of each completion, in the order of `drawn`; None where it cannot be chosen.

    Args:
        key: names the scores in the store: whatever may change one.
        requests: the questions as they were asked.
        drawn: their completions.
        scorer: ready.
        store: stored scores are not asked for again; failed ones are.
        progress: called with (done, total) after every batch.

    Raises:
        UserError: the server died; what was scored is stored.
    """
    stream = store.stream(key)
    asked: dict[str, tuple[Request, str]] = {}
    names: dict[str, list[str | None]] = {}
    for request in requests:
        names[request.id] = []
        for completion in drawn[request.id]:
            name = None
            if completion.finish is Finish.STOP:
                name = f"{request.id}:{short_hash([request.messages, request.style, completion.text])}"
                asked[name] = request, completion.text
            names[request.id].append(name)
    missing = list(store.missing(stream, list(asked), 1))
    done = len(asked) - len(missing)
    progress(done, len(asked))
    failed: dict[str, Completion] = {}
    for batch in scorer.rewards([asked[name] for name in missing]) if missing else ():
        bad = {missing[place]: c for place, c in batch if not _is_number(c)}
        failed |= bad
        store.append(stream, [(missing[place], c) for place, c in batch if missing[place] not in bad])
        done += len(batch)
        progress(done, len(asked))
    found = {name: rated[0] for name, rated in store.read(stream, list(asked), 1).items()} | failed
    return {id: [None if name is None else found[name] for name in row] for id, row in names.items()}


def best(scores: Sequence[float]) -> int | None:
    """The place of the highest score, the first of equal ones; None where no sample can be chosen.

    Raises:
        ValueError: a score is NaN, so that the best may be the one that it is of.
    """
    if any(math.isnan(score) for score in scores):
        raise ValueError("a sample has no score")
    place = max(range(len(scores)), key=scores.__getitem__, default=None)
    return None if place is None or scores[place] == -math.inf else place


def reward(rated: Completion | None) -> float:
    """The reward; −∞ of a sample that cannot be chosen, NaN of one that could not be scored."""
    if rated is None:
        return -math.inf
    return rated.logprob if _is_number(rated) and rated.logprob is not None else math.nan


def weight(scorer: str, score: float) -> float:
    """A sample's weight in a weighted vote, from 0 up; 0 of one that cannot be chosen.

    Args:
        scorer: what gave the score.
        score: a number, or −∞ of a sample that cannot be chosen.
    """
    if score == -math.inf:
        return 0.0
    if scorer == "logprob":
        return math.exp(score)
    if scorer in ("verifier", "self-certainty", "judge"):
        return max(0.0, score)  # a divergence from uniform may round to a hair below 0
    return 1 / (1 + math.exp(-score)) if score > -700 else 0.0


def _is_number(rated: Completion) -> bool:
    return rated.finish is not Finish.ERROR and rated.logprob is not None and math.isfinite(rated.logprob)
