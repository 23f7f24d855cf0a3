"""A System's samples drawn, graded and scored, as a pool that lies in the run's folder."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from typing import Any

from workbench.decodes import OWN_SCORERS, BestOfN, Sample
from workbench.decoding.best_of_n import Scorer
from workbench.decoding.choosing import graded
from workbench.decoding.scorers import open_own, scored
from workbench.drawing import requests_of
from workbench.harness import questions_of
from workbench.pools import Pool, pool_of, read_pool
from workbench.progress import Bar
from workbench.session import Session
from workbench.types import Example, Result, System


def measured_pool(session: Session, decode: BestOfN) -> tuple[Result, Pool]:
    """The accuracy of one sample, told, and the pool of all of them; a run that has both asks for nothing.

    Args:
        session: which questions, which model.
        decode: how samples are drawn, and what scores them.

    Raises:
        UserError: nothing could be measured, or no question has all its samples and scores.
    """
    system = session.system(decode)
    alone = System(system.model, system.prompt, _sample(system.decode))
    result = session.run.read_result()
    if result is None or not (session.run.path / "pool.npz").is_file():
        with _reward_model(session, decode) as reward_model:  # what cannot be scored is not drawn
            open_own(system, session.engine(system.model), reward_model)
        result = session.measure(alone)
    session.tell(alone, result)
    return result, kept_pool(session, system, session.setup.split, session.setup.questions, "pool.npz")


def kept_pool(session: Session, system: System, split: str, questions: int | None, file: str) -> Pool:
    """The pool in a file of the run's folder, which is made where it is not there.

    One with questions that are left out is not kept, so that the same command asks again for what failed.

    Args:
        session, system: as in `draw_pool`.
        split, questions: what is asked; None is all of the split.
        file: its name.

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


def _sample(decode: Any) -> Sample:
    return Sample(**{field.name: getattr(decode, field.name) for field in fields(Sample)})
