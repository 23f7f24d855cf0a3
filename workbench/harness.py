"""One harness for every System: ask, grade, count, and say how sure that is.

Generation and grading are separate: completions come from the store or the engine, grades are made anew each
time, so a better grader regrades what is stored. This is the only file that opens a task's test split.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workbench.decodes import BestOfN, Decode, LabelLikelihood, Majority, Sample
from workbench.decoding.ask import completions, room_needed, samples
from workbench.decoding.best_of_n import Scorer, best, reward, rewards
from workbench.decoding.labels import check_labels, content_free_requests, most_likely
from workbench.decoding.vote import majority
from workbench.engines.base import Engine
from workbench.errors import UserError, check_range
from workbench.exemplars import choose_fitting, dropped_note
from workbench.identity import short_hash, system_hash
from workbench.metrics import (
    Graded,
    against_one_sample,
    best_of_n_curve_metrics,
    by_kind,
    class_metrics,
    cost_to_use,
    curves,
    score_interval,
    with_scoring,
)
from workbench.prompts import render
from workbench.store import Store
from workbench.tasks.base import Task, open_test
from workbench.types import (
    Completion,
    CostToMake,
    Example,
    Finish,
    Outcome,
    Request,
    Result,
    Selection,
    Status,
    System,
)

Progress = Callable[[int, int], None]


def questions_of(task: Task, split: str, limit: int | None) -> tuple[Example, ...]:
    """The first `limit` questions of a split, all of them for None.

    Raises:
        UserError: no such split, or it has fewer questions.
    """
    if split not in ("practice", "dev", "test"):
        raise UserError(f"split is {split!r}; it must be practice, dev or test.")
    examples = {"practice": task.practice, "dev": task.dev}.get(split) or open_test(task)
    if limit is not None:
        check_range("questions", limit, 1, len(examples))
    return examples[:limit]


def evaluate(
    system: System,
    task: Task,
    engine: Engine,
    store: Store,
    *,
    split: str = "test",
    questions: int | None = None,
    cost_to_make: CostToMake | None = None,
    progress: Progress = lambda done, total: None,
    scorer: Scorer | None = None,
) -> Result:
    """Measure a System on a split of a task.

    Args:
        system: what is measured.
        task: asks and grades.
        engine: the System's model, ready to answer.
        store: completions are taken from it and put into it.
        split: `test` for a figure to report; a look at it is recorded in the store.
        questions: how many, from the split's beginning; None is all.
        cost_to_make: what making the System cost, to go with the result.
        progress: called with (done, total) as completions come.
        scorer: the reward model that a decode of the kind `BestOfN` names, ready.

    Raises:
        UserError: the System cannot be asked, or every request failed.
    """
    if isinstance(system.decode, BestOfN) and scorer is None:
        raise UserError("Best of n is not measured here: `workbench best_of_n` and `workbench evaluate` do.")
    asked, dropped = _asked(system, task, questions_of(task, split, questions), engine)
    distinct = {request.id: request for one in asked for request in (one.request, *one.content_free)}
    # In one call, because an engine shares the prefixes of what it gets together.
    drawn = completions(system, list(distinct.values()), task.labels, engine, store, progress)
    written = not isinstance(system.decode, LabelLikelihood)  # else there is no text to grade, only scores
    graded = [[_graded(task, one.example, c) for c in drawn[one.request.id] if written] for one in asked]
    rated: Mapping[str, Sequence[Completion | None]] = {}
    if isinstance(system.decode, BestOfN) and scorer is not None:
        rated = rewards(system.decode, [one.request for one in asked], drawn, scorer, store, progress)
    outcomes = [
        _outcome(system.decode, task, one, grades, drawn, rated) for one, grades in zip(asked, graded, strict=True)
    ]
    scored = [c for row in rated.values() for c in row if c is not None]
    failed = [c for c in (*(c for texts in drawn.values() for c in texts), *scored) if c.finish is Finish.ERROR]
    if all(outcome.score is None for outcome in outcomes):
        first = f"The first: {failed[0].error}" if failed else "The scores that came are no numbers"
        raise UserError(f"No question was answered: {len(failed)} requests failed. {first}.")
    if split == "test":
        store.record_look(task.hash, split, system_hash(system))
    notes = [dropped] if dropped else []
    if failed:
        notes.append(
            f"{len(failed)} requests failed and are no answers; the first: {failed[0].error}. "
            "The same command asks for them again."
        )
    if task.kind:
        notes.append(by_kind(task.kind, [one.example for one in asked], outcomes))
    metrics = class_metrics(outcomes, task.labels) if task.labels else {}
    if isinstance(system.decode, Sample) and system.decode.n > 1:
        metrics |= curves(graded, system.decode.n)
    if isinstance(system.decode, BestOfN):
        values = [[reward(c) for c in rated[one.request.id]] for one in asked]
        against, sentence = best_of_n_curve_metrics(graded, values, system.decode.n)
        metrics |= against
        notes += [sentence] if sentence else []
    if isinstance(system.decode, Majority):
        against, sentence = against_one_sample(graded, outcomes)
        metrics |= against
        notes += [sentence] if sentence else []
    counts = Counter(outcome.status for outcome in outcomes)
    answered = [one for one, outcome in zip(asked, outcomes, strict=True) if outcome.score is not None]
    shared = dict.fromkeys(request.id for one in answered for request in one.content_free)
    use = cost_to_use(
        engine.shape,
        [drawn[one.request.id] for one in answered],
        [drawn[id] for id in shared],
        samples(system.decode),
    )
    if scorer is not None and rated:
        use = with_scoring(use, scorer.shape, [rated[one.request.id] for one in answered])
    return Result(
        system=system_hash(system),
        task=task.name,
        task_hash=task.hash,
        split=split,
        score=score_interval(outcomes),
        outcomes=tuple(outcomes),
        counts=tuple((status.value, counts[status]) for status in Status),
        cost_to_make=cost_to_make or CostToMake(),
        cost_to_use=use,
        metrics=tuple(metrics.items()),
        notes=tuple(notes),
    )


# --- asking -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """A question as it is asked, and the content-free requests that calibrate its answer."""

    example: Example
    request: Request
    content_free: Sequence[Request]


def _asked(system: System, task: Task, examples: Sequence[Example], engine: Engine) -> tuple[list[_Asked], str]:
    """The questions as they are asked, and a sentence where the context does not hold all exemplars."""
    decode, prompt, shots = system.decode, system.prompt, system.prompt.shots
    texts: tuple[str, ...] = ()
    if isinstance(decode, LabelLikelihood):
        check_labels(decode, task.name, task.labels)
        texts = decode.content_free
    exemplars: list[tuple[Example, ...]] = [()] * len(examples)
    dropped = [0] * len(examples)
    if shots:
        room = 0 if engine.context is None else room_needed(decode, task.labels, engine)
        exemplars, dropped = choose_fitting(prompt, examples, engine, room, texts)
    asked = []
    for example, shown, lost in zip(examples, exemplars, dropped, strict=True):
        id = example.id
        if shots and (lost or shots.selection is Selection.SENTENCE):
            # The context and the encoder's weights are not in the store's key, so the id says what was shown.
            id += f"-{short_hash([exemplar.id for exemplar in shown])}"
        request = Request(id, render(prompt, example, shown), style=prompt.style)
        asked.append(_Asked(example, request, content_free_requests(texts, prompt, example, shown)))
    return asked, dropped_note(dropped, engine.context)


# --- grading ----------------------------------------------------------------------------------------


def _graded(task: Task, example: Example, completion: Completion) -> Graded:
    """One completion's status and parsed answer. A cut-off text has no answer, whatever it holds."""
    if completion.finish is Finish.ERROR:
        return Status.ERROR, None
    if completion.finish is Finish.LENGTH:
        return Status.TRUNCATED, None
    grade = task.grade(completion.text, example)
    if grade.correct:
        return Status.CORRECT, grade.answer
    return (Status.UNPARSABLE if grade.answer is None else Status.WRONG), grade.answer


def _outcome(
    decode: Decode,
    task: Task,
    asked: _Asked,
    graded: Sequence[Graded],
    drawn: Mapping[str, Sequence[Completion]],
    rated: Mapping[str, Sequence[Completion | None]],
) -> Outcome:
    example, found = asked.example, drawn[asked.request.id]
    error = Outcome(example.id, Status.ERROR, None, None, example.target, samples=0)
    if isinstance(decode, LabelLikelihood):
        best = most_likely(decode, task.labels, found, [drawn[free.id] for free in asked.content_free])
        if best is None:
            return error
        right = best == example.target
        status = Status.CORRECT if right else Status.WRONG
        return Outcome(example.id, status, float(right), best, example.target, text=best)
    answered = [(g, c) for g, c in zip(graded, found, strict=True) if g[0] is not Status.ERROR]
    if not answered:
        return error
    if isinstance(decode, Majority):
        return _voted(example, answered)
    if isinstance(decode, BestOfN):
        return _best(example, graded, found, rated[asked.request.id], error)
    scores = [status is Status.CORRECT for (status, _), _ in answered]
    (status, answer), first = answered[0]
    if len(answered) > 1:
        status = Counter(s for (s, _), _ in answered).most_common(1)[0][0]
    return Outcome(
        example.id, status, sum(scores) / len(scores), answer, example.target, len(answered), first.text
    )


def _best(
    example: Example,
    graded: Sequence[Graded],
    found: Sequence[Completion],
    rated: Sequence[Completion | None],
    error: Outcome,
) -> Outcome:
    """The outcome of the sample with the highest reward; an error where a sample could not be scored."""
    if any(math.isnan(reward(one)) for one in rated):
        return error
    answered = [(g, c) for g, c in zip(graded, found, strict=True) if g[0] is not Status.ERROR]
    place = best(rated)
    if place is None:
        return _nobody(example, answered)
    (status, answer), text = graded[place], found[place].text
    return Outcome(
        example.id, status, float(status is Status.CORRECT), answer, example.target, len(answered), text
    )


def _nobody(example: Example, answered: Sequence[tuple[Graded, Completion]]) -> Outcome:
    """The outcome where no sample can be the answer: the status of most of them tells why."""
    status = Counter(s for (s, _), _ in answered).most_common(1)[0][0]
    score = float(status is Status.CORRECT)
    return Outcome(example.id, status, score, None, example.target, len(answered), answered[0][1].text)


def _voted(example: Example, answered: Sequence[tuple[Graded, Completion]]) -> Outcome:
    winner = majority(example.id, [answer for (_, answer), _ in answered])
    if winner is None:
        return _nobody(example, answered)
    status, text = next((s, c.text) for (s, answer), c in answered if answer == winner)
    score = float(status is Status.CORRECT)
    return Outcome(example.id, status, score, winner, example.target, len(answered), text)
