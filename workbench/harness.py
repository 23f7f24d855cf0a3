"""One harness for every System: ask, grade, count, and say how sure that is.

Generation and grading are separate: completions come from the store or the engine, grades are made anew each
time, so a better grader regrades what is stored. This is the only file that opens a task's test split.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from workbench.choice_metrics import decode_metrics, early_metrics
from workbench.decodes import Decode, EarlyMajority, LabelLikelihood
from workbench.decoding.ask import completions, room_needed, samples
from workbench.decoding.best_of_n import Scorer
from workbench.decoding.choosing import Graded, chosen, graded, labelled
from workbench.decoding.early import Drawn, draw_until_settled
from workbench.decoding.labels import check_labels, content_free_requests
from workbench.decoding.scorers import Scores, open_own, scored
from workbench.decoding.steps import Stages
from workbench.decoding.stepwise import run_steps
from workbench.engines.base import Engine
from workbench.errors import UserError, check_range
from workbench.exemplars import choose_fitting, dropped_note
from workbench.identity import short_hash, system_hash
from workbench.metrics import by_kind, class_metrics, cost_to_use, score_interval, with_scoring
from workbench.prompts import render
from workbench.step_decodes import Stepwise
from workbench.step_metrics import stepped_metrics, with_stages
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
        scorer: the reward model whose folder a decode names, ready.

    Raises:
        UserError: the System cannot be asked, or every request failed.
    """
    decode = system.decode
    open_own(system, engine, scorer)  # what cannot be scored is not drawn
    asked, dropped = _asked(system, task, questions_of(task, split, questions), engine)
    distinct = {request.id: request for one in asked for request in (one.request, *one.content_free)}
    drawing = _draw(system, task, asked, list(distinct.values()), engine, store, progress, scorer)
    drawn = drawing.completions
    grades = [_grades(task, one.example, drawn[one.request.id], decode) for one in asked]
    told = scored(system, [one.request for one in asked], drawn, grades, engine, scorer, store, progress)
    outcomes = [_outcome(decode, task, one, row, drawn, told) for one, row in zip(asked, grades, strict=True)]
    failed = [c for texts in drawn.values() for c in texts if c.finish is Finish.ERROR] + told.failed
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
    values = [told.values[one.request.id] for one in asked] if told.values else []
    for more, sentences in (
        decode_metrics(decode, grades, outcomes, values),
        _saved(decode, task, asked, outcomes, drawing),
        _staged(decode, task, asked, outcomes, drawing),
    ):
        metrics |= more
        notes += sentences
    counts = Counter(outcome.status for outcome in outcomes)
    answered = [one for one, outcome in zip(asked, outcomes, strict=True) if outcome.score is not None]
    shared = dict.fromkeys(request.id for one in answered for request in one.content_free)
    use = cost_to_use(
        engine.shape,
        [drawn[one.request.id] for one in answered],
        [drawn[id] for id in shared],
        fmean(len(drawn[one.request.id]) for one in answered) if drawing.rounds else samples(decode),
        [drawing.rounds[one.request.id] for one in answered] if drawing.rounds else (),
    )
    if drawing.stepped is not None:
        use = with_stages(use, drawing.stepped, [one.request.id for one in answered])
    if told.rated:
        use = with_scoring(use, told.shape, [told.rated[one.request.id] for one in answered])
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


def _draw(
    system: System,
    task: Task,
    asked: Sequence[_Asked],
    requests: Sequence[Request],
    engine: Engine,
    store: Store,
    progress: Progress,
    scorer: Scorer | None,
) -> Drawn:
    """Every completion that the decode needs: in one call, because an engine shares what prompts begin with."""
    examples = {one.request.id: one.example for one in asked}

    def answer_of(id: str, completion: Completion) -> str | None:
        return graded(task, examples[id], completion)[1]

    if isinstance(system.decode, EarlyMajority):
        return draw_until_settled(system, requests, answer_of, engine, store, progress)
    if isinstance(system.decode, Stepwise):
        stages = Stages(system, requests, engine, store, progress)
        stepped = run_steps(system.decode, stages, answer_of, scorer)
        return Drawn({id: [completion] for id, completion in stepped.completions.items()}, stepped=stepped)
    return Drawn(completions(system, requests, task.labels, engine, store, progress))


def _grades(task: Task, example: Example, found: Sequence[Completion], decode: Decode) -> list[Graded]:
    """Of each completion; none where there is no text to grade, only scores."""
    return [] if isinstance(decode, LabelLikelihood) else [graded(task, example, c) for c in found]


def _outcome(
    decode: Decode,
    task: Task,
    asked: _Asked,
    grades: Sequence[Graded],
    drawn: Mapping[str, Sequence[Completion]],
    told: Scores,
) -> Outcome:
    example, found = asked.example, drawn[asked.request.id]
    if isinstance(decode, LabelLikelihood):
        return labelled(decode, task.labels, example, found, [drawn[free.id] for free in asked.content_free])
    return chosen(decode, example, grades, found, told.values.get(asked.request.id, ()))


def _saved(
    decode: Decode, task: Task, asked: Sequence[_Asked], outcomes: Sequence[Outcome], drawing: Drawn
) -> tuple[dict[str, float], list[str]]:
    """What stopping early saved, and what it cost beside the whole vote, where the store has that."""
    if not isinstance(decode, EarlyMajority):
        return {}, []
    ids = [one.request.id for one in asked]
    pool = [drawing.pool[id] for id in ids] if drawing.pool else []
    full = [
        chosen(decode, one.example, _grades(task, one.example, found, decode), found)
        for one, found in zip(asked, pool, strict=bool(pool))
    ]
    drawn, rounds = [drawing.completions[id] for id in ids], [drawing.rounds[id] for id in ids]
    metrics, sentence = early_metrics(decode, outcomes, drawn, rounds, full, pool)
    return metrics, [sentence] if sentence else []


def _staged(
    decode: Decode, task: Task, asked: Sequence[_Asked], outcomes: Sequence[Outcome], drawing: Drawn
) -> tuple[dict[str, float], list[str]]:
    """The figures of a decode that asks in stages."""
    if drawing.stepped is None:
        return {}, []
    rounds = drawing.stepped.rounds
    grades = {
        id: _grades(task, one.example, rounds[id], decode) for one in asked if (id := one.request.id) in rounds
    }
    by_id = {one.request.id: outcome for one, outcome in zip(asked, outcomes, strict=True)}
    return stepped_metrics(drawing.stepped, grades, by_id)
