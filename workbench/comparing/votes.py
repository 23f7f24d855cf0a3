"""What became of each sample of a pane, and the vote among them: who won, with how many, and what did not vote."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.conversation import Turn
from workbench.decoding.choosing import graded
from workbench.decoding.vote import majority
from workbench.tasks.base import Task
from workbench.types import Completion, Example, Finish

Kind = Literal["answer", "correct", "wrong", "unparsable", "truncated", "error", "stopped"]
"""A sample's end: an answer that nobody checks, or one of the statuses, or ended by the person."""

SILENT: tuple[Kind, ...] = ("unparsable", "truncated", "stopped", "error")
"""What has no voice."""

_FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH, "error": Finish.ERROR}


@dataclass(frozen=True)
class Verdict:
    """What became of one sample, and its answer where it has one."""

    kind: Kind
    answer: str | None = None


@dataclass(frozen=True)
class Bar:
    """One answer's votes. The share is of the samples that ended, failed and stopped ones left out."""

    answer: str
    votes: int
    share: float
    kind: Kind


@dataclass(frozen=True)
class Tally:
    """A vote.

    Attributes:
        bars: the answers, the winner first, then by votes.
        winner: the winning answer; None where nobody votes.
        ended: samples that ended by themselves or by their limit: the shares' denominator.
        silent: how many samples had no voice, by why.
    """

    bars: tuple[Bar, ...]
    winner: str | None
    ended: int
    silent: tuple[tuple[Kind, int], ...]


def judged(turn: Turn, example: Example, task: Task | None) -> Verdict:
    """What became of a sample: by the task's own grader, or by its text with blanks and case folded."""
    if turn.end == "stopped":
        return Verdict("stopped")
    if task is not None:
        completion = Completion(0, turn.answer, finish=_FINISH[turn.end])
        status, answer = graded(task, example, completion)
        return Verdict(status.value, answer)
    if turn.end != "stop":
        return Verdict("error" if turn.end == "error" else "truncated")
    text = " ".join(turn.answer.split()).casefold()
    return Verdict("answer", text) if text else Verdict("unparsable")


def tally(question_id: str, verdicts: Sequence[Verdict]) -> Tally:
    """The vote among a question's samples; ties as in `decoding/vote.py`.

    Args:
        question_id: decides ties.
        verdicts: one a sample.
    """
    votes = Counter(v.answer for v in verdicts if v.kind not in SILENT and v.answer is not None)
    winner = majority(question_id, [v.answer if v.kind not in SILENT else None for v in verdicts])
    kinds = {v.answer: v.kind for v in verdicts if v.kind not in SILENT}
    ended = sum(v.kind not in ("error", "stopped") for v in verdicts)
    order = sorted(votes, key=lambda answer: (answer != winner, -votes[answer], answer))
    bars = tuple(Bar(answer, votes[answer], votes[answer] / ended, kinds[answer]) for answer in order)
    silent = Counter(v.kind for v in verdicts if v.kind in SILENT)
    return Tally(bars, winner, ended, tuple((kind, silent[kind]) for kind in SILENT if silent[kind]))


def shown(verdicts: Sequence[Verdict], vote: Tally) -> int:
    """Which sample is shown: the first that gave the winning answer, else the first that ended."""
    if vote.winner is not None:
        return next(i for i, v in enumerate(verdicts) if v.answer == vote.winner and v.kind not in SILENT)
    ended = [i for i, v in enumerate(verdicts) if v.kind not in ("error", "stopped")]
    return ended[0] if ended else 0
