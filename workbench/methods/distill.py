"""Distillation of verified rationales: a teacher's worked answers that are right become a student's training data.

The teacher samples rationales for practice questions with a prompt of its own; the task's grader keeps those
that are whole and end in the right answer (rejection sampling, as in STaR, Zelikman et al. 2022, arXiv
2203.14465, §3.1, and in Yuan et al. 2023, arXiv 2308.01825, §3.3). The student learns them behind its own
prompt, so that it needs no request for steps. Where it departs from STaR: no rationale is made by showing the
answer first, and one pass is made.

A right answer can have a wrong rationale; the grader reads the answer alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.command import Flat
from workbench.decodes import LONGEST, Sample
from workbench.drawing import Drawer, requests_of
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_json
from workbench.hub import base_name
from workbench.identity import model_identity, short_hash, system_hash, to_json
from workbench.instructing.failures import failures
from workbench.instructing.student import asked, check_learnable
from workbench.instructing.votes import distinct, writable
from workbench.made_data import Made, write_made
from workbench.prompts import load_prompt
from workbench.report import percent, span
from workbench.runs import Run
from workbench.stats import bootstrap_interval, wilson_interval
from workbench.tasks.base import Task
from workbench.types import Completion, Example, Finish, Interval, Model, Status, System


@dataclass(frozen=True)
class Config:
    """How the teacher is asked, and what is kept.

    Attributes:
        teacher_prompt: a prompt that asks for steps: a name, or a .yaml file.
        rationales: how many rationales a question the teacher samples, and how; of 256 tokens at most, if nothing
            else is said, for they are longer than the task's answers.
        keep: at most so many distinct right ones of a question, the first ones, so that easy questions do not fill
            the data.
        practice_questions: how many practice questions, the first ones; by default all.

    Raises:
        UserError: a value is out of range.
    """

    teacher_prompt: str = "question-steps"
    rationales: Flat[Sample] = field(default_factory=lambda: Sample(n=8))
    keep: int = 4
    practice_questions: int | None = None

    def __post_init__(self) -> None:
        check_range("keep", self.keep, 1, 10**6)
        if self.practice_questions is not None:
            check_range("practice_questions", self.practice_questions, 1, 10**9)


def make(system: System, task: Task, config: Config, run: Run, drawer: Drawer) -> Path:
    """The file of the verified rationales, ready for `workbench lora --data`.

    Args:
        system: its model is the teacher, which any engine may serve; its prompt is the student's.
        task: its practice questions are asked, and its grader verifies.
        config: the method's settings.
        run: data.jsonl, its card, counts.json and cost.json go there. A finished run is not run again; an
            interrupted one goes on, for what was drawn is in the store.
        drawer: draws the rationales.

    Raises:
        UserError: the student's prompt cannot be learned, there are too few questions, requests failed that may
            pass, no rationale is right, or the run holds data of another teacher.
    """
    check_learnable(system.prompt)
    if config.practice_questions is not None:
        check_range("practice_questions", config.practice_questions, 1, len(task.practice))
    decode = replace(config.rationales, max_tokens=config.rationales.max_tokens or LONGEST)
    teacher = System(system.model, load_prompt(config.teacher_prompt), decode)
    made_of = {"teacher": system_hash(teacher), "student": short_hash(system.prompt), "task": task.hash}
    done = run.path / "counts.json"
    if done.exists():
        if read_json(done)["made_of"] != made_of:
            raise UserError(
                f"{run.path} holds data of another teacher, prompt or task. Give this run another --name, or "
                "--overwrite."
            )
        return run.path / "data.jsonl"
    questions = task.practice[: config.practice_questions]
    drawn = drawer.draw(teacher, requests_of(teacher, questions), "rationales")
    rows, told = [], Told(task.max_tokens)
    every = [completion for found in drawn.completions.values() for completion in found]
    told.failures = failures(every, "rationales")
    for example in questions:
        right = told.verified(task, example, drawn.completions[example.id])
        kept = distinct(writable(right))[: config.keep]
        told.keep(right, kept)
        rows += [_row(teacher, system, example, completion) for completion in kept]
    if not rows:
        raise UserError(f"No rationale is right, so there is nothing to learn. {told.line()}")
    counts = {"made_of": made_of, **told.as_json()}
    write_made(run, rows, _card(teacher, system, task, config, told))
    write_json(run.path / "cost.json", to_json(drawn.cost))
    write_json(done, counts)  # last: where it is, the data are made
    return run.path / "data.jsonl"


class Told:
    """What became of the rationales: counts of samples by status, and of questions.

    Args:
        limit: the tokens behind which the harness cuts an answer to the task off.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.long = 0
        self.statuses: Counter[Status] = Counter()
        self.failures: Counter[str] = Counter()  # requests that failed for good
        self.repeated = self.beyond = self.broken = self.kept = self.solved = 0
        self.shares: list[float] = []

    def verified(self, task: Task, example: Example, completions: Sequence[Completion]) -> list[Completion]:
        """The samples that are whole and right, in the order of their indices."""
        statuses = [_status(task, example, completion) for completion in completions]
        self.statuses.update(statuses)
        if answered := [status for status in statuses if status is not Status.ERROR]:
            self.shares.append(answered.count(Status.CORRECT) / len(answered))
        return [c for c, status in zip(completions, statuses, strict=True) if status is Status.CORRECT]

    def keep(self, right: Sequence[Completion], kept: Sequence[Completion]) -> None:
        """Count what is kept of a question's right samples."""
        self.kept += len(kept)
        self.long += sum(completion.completion_tokens > self.limit for completion in kept)
        self.solved += bool(kept)
        whole = writable(right)
        self.broken += len(right) - len(whole)
        different = len(distinct(whole))
        self.repeated += len(whole) - different
        self.beyond += different - len(kept)

    @property
    def samples(self) -> int:
        """Those that were answered."""
        return self.statuses.total() - self.statuses[Status.ERROR]

    def accuracy(self) -> Interval:
        """The teacher's, of one sample, on the practice questions that were answered."""
        return bootstrap_interval(self.shares)

    def as_json(self) -> dict[str, Any]:
        """The counts, with intervals where there is a rate."""
        return {
            "questions": len(self.shares),
            "solved_questions": self.solved,
            "samples": self.samples,
            "kept": self.kept,
            "kept_beyond_limit": self.long,
            "limit": self.limit,
            "right_but_repeated": self.repeated,
            "right_but_beyond_keep": self.beyond,
            "right_but_broken_characters": self.broken,
            "failures": dict(self.failures),
            **{status.value: self.statuses[status] for status in Status},
            "one_sample": to_json(self.accuracy()),
            "solved": to_json(wilson_interval(self.solved, len(self.shares))),
        }

    def line(self) -> str:
        """The counts in words."""
        counts, accuracy = self.statuses, self.accuracy()
        solved = wilson_interval(self.solved, len(self.shares))
        why = ", ".join(f"{count:,} {reason}" for reason, count in self.failures.items())
        failed = f"; {counts[Status.ERROR]:,} more requests failed for good ({why})" if why else ""
        broken = f" {self.broken:,} right ones hold broken characters." if self.broken else ""
        long = (
            f" **{self.long:,} of those kept are longer than {self.limit} tokens by the teacher's count, where an "
            "answer to this task is cut off: a student that learns them may not come to its answer.**"
        )
        return (
            f"Of {self.samples:,} samples for {len(self.shares):,} questions {counts[Status.CORRECT]:,} were "
            f"right, {counts[Status.WRONG]:,} wrong, {counts[Status.UNPARSABLE]:,} gave no answer and "
            f"{counts[Status.TRUNCATED]:,} were cut off{failed}. Of the right ones {self.kept:,} were kept, "
            f"{self.repeated:,} repeat another, and {self.beyond:,} are beyond what is kept of a question. "
            f"One sample is right {percent(accuracy.value)} ({span(accuracy)}) of the time; {self.solved:,} "
            f"questions ({percent(solved.value)}, {span(solved)}) have a rationale."
            f"{broken}{long if self.long else ''}"
        )


def _status(task: Task, example: Example, completion: Completion) -> Status:
    """As the harness counts: a cut-off text is not whole, whatever answer it holds."""
    if completion.finish is Finish.ERROR:
        return Status.ERROR
    if completion.finish is Finish.LENGTH:
        return Status.TRUNCATED
    grade = task.grade(completion.text, example)
    if grade.correct:
        return Status.CORRECT
    return Status.UNPARSABLE if grade.answer is None else Status.WRONG


def _row(teacher: System, student: System, example: Example, completion: Completion) -> Made:
    """A rationale behind the student's prompt, with where it comes from."""
    decode = teacher.decode
    assert isinstance(decode, Sample)
    source = {
        "method": "distill",
        "teacher": model_identity(teacher.model),
        "teacher_prompt": teacher.prompt.name,
        "teacher_prompt_hash": teacher.prompt.file_hash,
        "question": example.id,
        "sample": completion.index,
        "seed": decode.seed,
        "temperature": decode.temperature,
        "answer": example.target,
        "verified_by": "the task's grader",
    }
    return Made(f"{example.id}-{completion.index}", asked(student.prompt, example), completion.text, source)


def _card(teacher: System, student: System, task: Task, config: Config, told: Told) -> str:
    decode, model = teacher.decode, teacher.model
    assert isinstance(decode, Sample)
    tuned = ", tuned" if model.adapter else ""
    return f"""# Verified rationales for {task.name}

The teacher, {base_name(Model(model.base, model.revision))}{tuned}, worked out practice questions of
`{task.name}` with the prompt `{teacher.prompt.name}` (file hash `{teacher.prompt.file_hash}`): {decode.n}
samples a question at temperature {decode.temperature:g}, top_p {decode.top_p:g}, top_k {decode.top_k}, seed
{decode.seed}, at most {decode.max_tokens} tokens. The task's grader kept those that are whole and end in the
right answer, at most {config.keep} distinct ones of a question. Their prompt is the student's,
`{student.prompt.name}`.

{told.line()}

The grader reads the answer alone: a right answer can have a wrong rationale. Questions that the teacher never got
right are not in the data, so that hard ones are fewer than in the task.

`data.jsonl` has a row for each: `prompt`, `completion` and, in `source`, where it comes from.
"""
