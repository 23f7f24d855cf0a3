"""One harness for every System: ask, grade, count, and say how sure that is.

Generation and grading are separate: completions come from the store or the engine, grades are made anew each
time, so a better grader regrades what is stored. This is the only file that opens a task's test split.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from workbench.cost import inference_flops
from workbench.decoding.ask import completions, samples
from workbench.decoding.vote import majority
from workbench.engines.base import Engine
from workbench.errors import UserError, check_range
from workbench.exemplars import choose
from workbench.identity import system_hash
from workbench.prompts import render
from workbench.stats import (
    bootstrap_interval,
    macro_f1,
    majority_curve,
    paired_bootstrap,
    pass_at_k,
    wilson_interval,
)
from workbench.store import Store
from workbench.tasks.base import Task, open_test
from workbench.types import (
    Completion,
    CostToMake,
    CostToUse,
    Example,
    Finish,
    Interval,
    LabelLikelihood,
    Majority,
    Outcome,
    Request,
    Result,
    Sample,
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

    Raises:
        UserError: the System cannot be asked, or every request failed.
    """
    examples = questions_of(task, split, questions)
    if isinstance(system.decode, LabelLikelihood) and not task.labels:
        raise UserError(f"The task {task.name!r} has no labels to score; use another decode than likelihood.")
    shots = system.prompt.shots
    exemplars = choose(shots, examples, engine) if shots else [()] * len(examples)
    requests = [
        Request(example.id, render(system.prompt, example, shown), style=system.prompt.style)
        for example, shown in zip(examples, exemplars, strict=True)
    ]
    drawn = completions(system, requests, task.labels, engine, store, progress)
    outcomes = [_outcome(system, task, example, drawn[example.id]) for example in examples]
    failed = [c for found in drawn.values() for c in found if c.finish is Finish.ERROR]
    if all(outcome.score is None for outcome in outcomes):
        raise UserError(f"No question was answered: {len(failed)} requests failed. The first: {failed[0].error}.")
    if split == "test":
        store.record_look(task.hash, split, system_hash(system))
    notes = []
    if failed:
        notes.append(
            f"{len(failed)} requests failed and are no answers; the first: {failed[0].error}. "
            "The same command asks for them again."
        )
    counts = Counter(outcome.status for outcome in outcomes)
    metrics = _metrics(system, task, examples, outcomes, drawn)
    if isinstance(system.decode, Majority):
        against, sentence = _against_one_sample(task, examples, outcomes, drawn)
        metrics |= against
        notes += [sentence] if sentence else []
    return Result(
        system=system_hash(system),
        task=task.name,
        task_hash=task.hash,
        split=split,
        score=_interval(outcomes),
        outcomes=tuple(outcomes),
        counts=tuple((status.value, counts[status]) for status in Status),
        cost_to_make=cost_to_make or CostToMake(),
        cost_to_use=_cost_to_use(engine, drawn, system),
        metrics=tuple(metrics.items()),
        notes=tuple(notes),
    )


# --- grading ----------------------------------------------------------------------------------------


def _graded(task: Task, example: Example, completion: Completion) -> tuple[Status, str | None]:
    """One completion's status and parsed answer. A cut-off text has no answer, whatever it holds."""
    if completion.finish is Finish.ERROR:
        return Status.ERROR, None
    if completion.finish is Finish.LENGTH:
        return Status.TRUNCATED, None
    grade = task.grade(completion.text, example)
    if grade.correct:
        return Status.CORRECT, grade.answer
    return (Status.UNPARSABLE if grade.answer is None else Status.WRONG), grade.answer


def _outcome(system: System, task: Task, example: Example, found: Sequence[Completion]) -> Outcome:
    if isinstance(system.decode, LabelLikelihood):
        return _most_likely(system.decode, task, example, found)
    graded = [_graded(task, example, completion) for completion in found]
    answered = [(g, c) for g, c in zip(graded, found, strict=True) if g[0] is not Status.ERROR]
    if not answered:
        return Outcome(example.id, Status.ERROR, None, None, example.target, samples=0)
    if isinstance(system.decode, Majority):
        return _voted(example, answered)
    scores = [status is Status.CORRECT for (status, _), _ in answered]
    (status, answer), first = answered[0]
    if len(answered) > 1:
        status = Counter(s for (s, _), _ in answered).most_common(1)[0][0]
    return Outcome(
        example.id, status, sum(scores) / len(scores), answer, example.target, len(answered), first.text
    )


def _voted(example: Example, answered: Sequence[tuple[tuple[Status, str | None], Completion]]) -> Outcome:
    winner = majority(example.id, [answer for (_, answer), _ in answered])
    if winner is None:  # nobody had a voice: the status of most samples tells why
        status = Counter(s for (s, _), _ in answered).most_common(1)[0][0]
        text = answered[0][1].text
    else:
        status, text = next((s, c.text) for (s, answer), c in answered if answer == winner)
    score = float(status is Status.CORRECT)
    return Outcome(example.id, status, score, winner, example.target, len(answered), text)


def _most_likely(decode: LabelLikelihood, task: Task, example: Example, found: Sequence[Completion]) -> Outcome:
    if any(c.finish is Finish.ERROR or c.logprob is None for c in found) or len(found) < len(task.labels):
        return Outcome(example.id, Status.ERROR, None, None, example.target, samples=0)

    def score(completion: Completion) -> float:
        assert completion.logprob is not None
        return completion.logprob / (completion.completion_tokens if decode.normalize else 1)

    best = max(found, key=score).text
    right = best == example.target
    status = Status.CORRECT if right else Status.WRONG
    return Outcome(example.id, status, float(right), best, example.target, text=best)


# --- numbers ----------------------------------------------------------------------------------------


def _interval(outcomes: Sequence[Outcome]) -> Interval:
    scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    if set(scores) <= {0.0, 1.0}:
        return wilson_interval(int(sum(scores)), len(scores))
    return bootstrap_interval(scores)


def _cost_to_use(engine: Engine, drawn: Mapping[str, Sequence[Completion]], system: System) -> CostToUse:
    """Means over the questions that were answered; a prompt counts once for its samples or labels."""
    answered = [[c for c in found if c.finish is not Finish.ERROR] for found in drawn.values()]
    answered = [found for found in answered if found]
    if not answered:
        return CostToUse()
    prompt = float(np.mean([max(c.prompt_tokens for c in found) for found in answered]))
    completion = float(np.mean([sum(c.completion_tokens for c in found) for found in answered]))
    seconds = float(np.mean([sum(c.seconds for c in found) for found in answered]))
    n = samples(system.decode)
    flops = None
    if engine.shape is not None:
        flops = inference_flops(engine.shape, prompt, completion / n, samples=n)
    return CostToUse(prompt, completion, flops, seconds)


def _metrics(
    system: System,
    task: Task,
    examples: Sequence[Example],
    outcomes: Sequence[Outcome],
    drawn: Mapping[str, Sequence[Completion]],
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if task.labels:
        kept = [outcome for outcome in outcomes if outcome.score is not None]
        targets = [outcome.target for outcome in kept]
        metrics["macro_f1"] = macro_f1(targets, [outcome.answer for outcome in kept], task.labels)
        metrics["majority_class"] = Counter(targets).most_common(1)[0][1] / len(targets) if targets else 0.0
    if isinstance(system.decode, Sample) and system.decode.n > 1:
        metrics |= _curves(task, examples, drawn, system.decode.n)
    return metrics


def _curves(
    task: Task, examples: Sequence[Example], drawn: Mapping[str, Sequence[Completion]], n: int
) -> dict[str, float]:
    """pass@k and majority@k with their intervals for k = 1, 2, 4, … n, over questions with all n samples."""
    right, votes, targets = [], [], []
    for example in examples:
        graded = [_graded(task, example, completion) for completion in drawn[example.id]]
        if len(graded) < n or any(status is Status.ERROR for status, _ in graded):
            continue
        # Answers as small numbers; the right one is 0, a sample without a voice -1.
        others: dict[str, int] = {}
        row = [
            0 if s is Status.CORRECT else -1 if a is None else others.setdefault(a, len(others) + 1)
            for s, a in graded
        ]
        votes.append(row)
        right.append(row.count(0))
        targets.append(0)
    if not votes:
        return {}
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    ks += [n] if ks[-1] != n else []
    passes_QK = pass_at_k(n, np.array(right)[:, None], np.array(ks)[None, :])
    agreed_QK = majority_curve(np.array(votes), np.array(targets), ks)
    metrics: dict[str, float] = {}
    for name, scores_QK in (("pass", passes_QK), ("majority", agreed_QK)):
        for k, scores in zip(ks, scores_QK.T, strict=True):
            interval = bootstrap_interval(scores.tolist())
            metrics |= {
                f"{name}@{k}": float(scores.mean()),
                f"{name}@{k}_low": interval.low,
                f"{name}@{k}_high": interval.high,
            }
    return metrics


def _against_one_sample(
    task: Task,
    examples: Sequence[Example],
    outcomes: Sequence[Outcome],
    drawn: Mapping[str, Sequence[Completion]],
) -> tuple[dict[str, float], str]:
    """A vote against one sample of the same System, on the same questions: metrics, and a sentence."""
    votes, singles = [], []
    for example, outcome in zip(examples, outcomes, strict=True):
        if outcome.score is None:
            continue
        statuses = [_graded(task, example, completion)[0] for completion in drawn[example.id]]
        whole = [status for status in statuses if status is not Status.ERROR]
        votes.append(outcome.score)
        singles.append(sum(status is Status.CORRECT for status in whole) / len(whole))
    if not votes:
        return {}, ""
    single, gain = bootstrap_interval(singles), paired_bootstrap(votes, singles)
    d = gain.difference
    metrics = {
        "one_sample": single.value,
        "one_sample_low": single.low,
        "one_sample_high": single.high,
        "vote_gain": d.value,
        "vote_gain_low": d.low,
        "vote_gain_high": d.high,
        "vote_gain_p": gain.p_value,
    }
    sentence = (
        f"One sample of the same system is right {100 * single.value:.1f} % of the time "
        f"({100 * single.low:.1f} – {100 * single.high:.1f}); the vote adds {100 * d.value:+.1f} points "
        f"({100 * d.low:+.1f} to {100 * d.high:+.1f}; paired bootstrap, p = {gain.p_value:.2g})."
    )
    return metrics, sentence
