"""Questions without their answers, and what a model's own votes on them say: no right answer can be reached here.

A grader both reads the answer in a text and compares it with the right one, which is the example's target, or is
found by the example's id. `unlabelled` gives it examples that hold a stand-in, the same for all, in the target's
place, and no id, and hands on what it read and never the comparison.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from workbench.decoding.vote import majority
from workbench.errors import check_range
from workbench.inert import is_utf8
from workbench.stats import entropy
from workbench.tasks.base import Task
from workbench.types import Completion, Example, Finish

Reader = Callable[[str, Example], str | None]
"""Reads the answer that a text gives to a question; None where it gives none."""


@dataclass(frozen=True)
class Unlabelled:
    """Practice questions that have neither target nor rationale, and what reads an answer to them.

    The questions keep their ids, which name requests and decide ties; who reads is not told them.
    """

    questions: tuple[Example, ...]
    read: Reader


def unlabelled(task: Task, limit: int | None, stand_in: str) -> Unlabelled:
    """The task's practice questions as they may be seen by who must not know the answers.

    Args:
        task: of its examples the ids, inputs and variables are read, and neither target nor rationale.
        limit: how many questions, the first ones; None is all.
        stand_in: what the grader gets as the target of every question. It says of what form answers are: a grader
            of numbers looks for a number where the target is one.

    Raises:
        UserError: there are fewer questions.
    """
    if limit is not None:
        check_range("practice_questions", limit, 1, len(task.practice))
    questions = tuple(Example(e.id, e.input, stand_in, variables=e.variables) for e in task.practice[:limit])
    read = reader(task)
    return Unlabelled(questions, lambda text, question: read(text, replace(question, id="")))


def reader(task: Task) -> Reader:
    """The task's grader without its verdict."""
    return lambda text, question: task.grade(text, question).answer


@dataclass(frozen=True)
class Vote:
    """What a question's samples agree on.

    Attributes:
        question: its id decides ties, as in `decoding.vote.majority`.
        answer: the majority's; None where no sample has a voice.
        paths: the samples that gave it, in the order of their indices.
        samples: all that were answered, those without a voice (cut off, or no answer found) too.
        truncated, unparsable: of the samples, those without a voice, by the reason.
        failed: requests that failed, which are no samples.
        entropy: of the samples' answers, nats; having no voice counts as one answer of its own.
    """

    question: Example
    answer: str | None
    paths: tuple[Completion, ...]
    samples: int
    truncated: int
    unparsable: int
    failed: int
    entropy: float

    @property
    def confidence(self) -> float:
        """The majority's share of all samples (Huang et al. 2022, §3.1); without a voice is not in agreement."""
        return len(self.paths) / self.samples if self.samples else 0.0


def vote(question: Example, completions: Sequence[Completion], read: Reader) -> Vote:
    """The vote of a question's samples. Only whole texts in which an answer is found have a voice."""
    answered = [c for c in completions if c.finish is not Finish.ERROR]
    answers = [None if c.finish is Finish.LENGTH else read(c.text, question) for c in answered]
    winner = majority(question.id, answers)
    paths = [c for c, answer in zip(answered, answers, strict=True) if winner is not None and answer == winner]
    truncated = sum(c.finish is Finish.LENGTH for c in answered)
    return Vote(
        question=question,
        answer=winner,
        paths=tuple(paths),
        samples=len(answered),
        truncated=truncated,
        unparsable=answers.count(None) - truncated,
        failed=len(completions) - len(answered),
        entropy=entropy([answers.count(a) for a in dict.fromkeys(answers)]) if answered else 0.0,
    )


def writable(paths: Sequence[Completion]) -> list[Completion]:
    """The paths whose text a file can hold: no half of a pair of UTF-16 among their characters."""
    return [path for path in paths if is_utf8(path.text)]


def distinct(paths: Sequence[Completion]) -> list[Completion]:
    """The paths that differ by more than white space, the first of each."""
    seen: dict[str, Completion] = {}
    for path in paths:
        seen.setdefault(" ".join(path.text.split()), path)
    return list(seen.values())
