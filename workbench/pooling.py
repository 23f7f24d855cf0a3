"""A System's samples drawn, graded and scored, as a pool that lies in the run's folder.

A pool keeps its grades: whoever changes a grader asks for `--overwrite`, which grades the stored samples anew. (A
function that a task file names is part of the run's settings; with another one it is another run.)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from typing import Any

from workbench.decodes import OWN_SCORERS, BestOfN, EarlyMajority, Majority, Sample, WeightedVote
from workbench.decoding.best_of_n import Scorer
from workbench.decoding.choosing import graded
from workbench.decoding.scorers import open_own, scored
from workbench.drawing import requests_of
from workbench.harness import questions_of
from workbench.identity import short_hash, system_hash
from workbench.pools import Pool, pool_of, read_pool
from workbench.progress import Bar
from workbench.session import Session
from workbench.types import Example, Result, System

WAYS: dict[str, type[Sample]] = {"majority": Majority, "best-of": BestOfN, "weighted": WeightedVote}
"""Decodes that choose among a pool's samples."""


def measured_pool(session: Session, decode: BestOfN) -> tuple[Result, Pool]:
    """The accuracy of one sample, and the pool of all of them; a run that has both asks for nothing.

    Args:
        session: which questions, which model.
        decode: how samples are drawn, and what scores them.

    Raises:
        UserError: nothing could be measured, or no question has all its samples and scores.
    """
    system = session.system(decode)
    result = session.run.read_result()
    if result is None or not (session.run.path / "pool.npz").is_file():
        with _reward_model(session, decode) as reward_model:  # what cannot be scored is not drawn
            open_own(system, session.engine(system.model), reward_model)
        result = session.measure(_with(system, Sample))
    return result, kept_pool(session, system, session.setup.split, session.setup.questions, "pool.npz")


def tell(
    session: Session,
    decode: BestOfN,
    result: Result,
    choices: Iterable[tuple[str, int]],
    *,
    stops: Iterable[Any] = (),
    rules: Iterable[Mapping[str, Any]] = (),
) -> list[str]:
    """Record as looks at the test split what was read off its pool; tell the result of one sample.

    Args:
        session: as it was measured with.
        decode: how the pool was drawn.
        result: of one sample.
        choices: ways of `WAYS` and numbers of samples, each one System, as `majority_vote` and `best_of_n` would
            measure it.
        stops: rules by which the majority vote of all samples stops.
        rules: whatever else was scored on the pool, as data.

    Returns:
        A sentence for the reader; none where the split is another.
    """
    system = session.system(decode)
    if session.setup.split == "test":
        chosen = [_with(system, WAYS[way], n=k) for way, k in choices if k > 1]
        chosen += [_with(system, EarlyMajority, stop=stop, block=1) for stop in stops]
        looks = [system_hash(one) for one in chosen]
        looks += [short_hash({"pool": system_hash(system), **rule}) for rule in rules]
        for look in looks:
            session.store.record_look(session.task.hash, "test", look)
    session.tell(_with(system, Sample), result)
    if session.setup.split != "test":
        return []
    count = session.store.looks(session.task.hash, "test")
    return [
        f"{count:,} systems have been looked at on test: each way of choosing that is compared here counts, at "
        "each number of samples. Whoever picks one of them for its figure here has picked it on test."
    ]


def kept_pool(session: Session, system: System, split: str, questions: int | None, file: str) -> Pool:
    """The pool in a file of the run's folder, which is made where it is not there.

    One with questions that are left out is not kept, so that the same command asks again for what failed.

    Args:
        session, system: as in `draw_pool`.
        split, questions: what is asked; None is all of the split.
        file: its name. A file that is there is read as it is: its grades are those of the grader that made it.

    Raises:
        UserError: as `draw_pool`.
    """
    path = session.run.path / file
    if path.is_file():
        return read_pool(path)
    pool = draw_pool(session, system, questions_of(session.task, split, questions), f"{split} questions")
    if len(pool.ids) == pool.asked:
        pool.save(path)
    return pool


def draw_pool(session: Session, system: System, examples: Sequence[Example], title: str) -> Pool:
    """The samples of the examples, graded and scored; stored ones are not drawn or scored again.

    Args:
        session: what asks.
        system: without exemplars; its decode is a `BestOfN`.
        examples: what is asked.
        title: of the progress bar.

    Raises:
        UserError: as `pool_of`, or the engine cannot score so.
    """
    decode, task = system.decode, session.task
    assert isinstance(decode, BestOfN), decode
    requests = requests_of(system, examples)
    drawn = session.drawer.draw(system, requests, title).completions
    found = [drawn[request.id] for request in requests]
    grades = [[graded(task, e, c) for c in row] for e, row in zip(examples, found, strict=True)]
    engine = session.engine(system.model)
    shape = engine.shape
    with (
        _reward_model(session, decode) as reward_model,
        Bar(f"scores by {decode.scorer}", quiet=session.setup.quiet) as bar,
    ):
        scores = scored(system, requests, drawn, grades, engine, reward_model, session.store, bar.show)
    return pool_of(
        [example.id for example in examples],
        grades,
        found,
        [scores.values[request.id] for request in requests],
        [scores.rated[request.id] for request in requests] if scores.rated else [],
        scorer=decode.scorer,
        n=decode.n,
        shapes={"model": shape, "scorer": scores.shape},
    )


@contextmanager
def _reward_model(session: Session, decode: BestOfN) -> Iterator[Scorer | None]:
    """What the decode's folder holds, ready, and closed at the end; None where it names no folder."""
    if decode.scorer in OWN_SCORERS:
        yield None
        return
    from workbench.engines.scorer import open_scorer

    with closing(open_scorer(decode.scorer, session.setup.engine, session.close_engine)) as reward_model:
        yield reward_model


def _with(system: System, kind: type[Sample], **changes: Any) -> System:
    """The System whose decode is of another kind, and draws its samples in the same way."""
    same = {f.name: getattr(system.decode, f.name) for f in fields(kind) if hasattr(system.decode, f.name)}
    return System(system.model, system.prompt, kind(**{**same, **changes}))
