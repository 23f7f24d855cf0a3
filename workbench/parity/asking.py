"""Every system is asked the same questions, and reads the reference's answers; one model in memory at a time.

Answers go through the store, token scores into a file of the run's folder, so that a run that was stopped goes on.
A server's answers count for one visit only: what is behind an address may be another model tomorrow under the same
name, so a run that was finished and is started again asks its servers again.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from workbench.decodes import Greedy
from workbench.engines import open_engine
from workbench.engines.base import Engine, TokenScore, TokenScores
from workbench.engines.client import address
from workbench.errors import UserError
from workbench.files import append_line, json_bytes, read_json, write_json
from workbench.harness import evaluate, questions_of
from workbench.identity import model_identity, short_hash
from workbench.parity.measures import Measured
from workbench.parity.words import Side
from workbench.progress import Bar
from workbench.prompts import render
from workbench.session import Session
from workbench.types import Request, Status, System, text_hash

TOP = 20  # log-probabilities a token: the most that vLLM tells


def ask(session: Session, sides: Sequence[Side]) -> list[Measured]:
    """What each system said, in their order; the first is the reference.

    Args:
        session: task, prompt, store and the run's folder; its own engine is not used.
        sides: two or more.

    Raises:
        UserError: a model or a server cannot be had, none of a system's requests was answered, or two of the
            systems are one.
    """
    visit = session.run.path / "visit.json"
    if not visit.exists():
        write_json(visit, {"started": datetime.now(UTC).isoformat(timespec="seconds")})
    started = str(read_json(visit)["started"])
    names: dict[str, str] = {}
    for side in sides:  # a server that is not there is said before the first system is asked
        if side.engine.engine == "vllm":
            with closing(_opened(side, started)) as engine:
                _check_other(side, engine, names)
    found: list[Measured] = []
    for side in sides:
        with closing(_opened(side, started)) as engine:
            _check_other(side, engine, names)
            found.append(_asked(session, side, engine, found[0] if found else None))
    visit.unlink()
    return found


class Visited:
    """A server's engine during one visit: its version tells which server it is, and when the visit began.

    Servers of one model may answer differently, which is what is to be found out: none reads another's answers.
    """

    def __init__(self, engine: Engine, endpoints: Sequence[str], started: str) -> None:
        self._engine = engine
        places = " and ".join(sorted({address(url) for url in endpoints}))
        self.version = f"{engine.version}, at {places}, asked from {started}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def token_logprobs(
        self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0
    ) -> Iterator[list[tuple[str, TokenScores]]]:
        """As the engine's own, one request at a time.

        vLLM 0.32 on a CPU, serving adapters its own way, dies of two prompts' log-probabilities in one step.
        `workbench serve` keeps its servers from it, but not every server is its.
        """
        for request, text in zip(requests, continuations, strict=True):
            yield from self._engine.token_logprobs([request], [text], top)


def _opened(side: Side, started: str) -> Engine:
    engine = open_engine(side.model, side.engine)
    if side.engine.engine != "vllm":
        return engine
    return cast(Engine, Visited(engine, side.engine.endpoint, started))


def _check_other(side: Side, engine: Engine, names: dict[str, str]) -> None:
    """Refuse a system that is one of those before it; `names` holds theirs by what they are."""
    first = names.setdefault(short_hash([model_identity(side.model), engine.version]), side.name)
    if first != side.name:
        raise UserError(
            f"{first!r} and {side.name!r} are the same system ({engine.version}): nothing could be told apart. "
            "Leave one out, or change a setting."
        )


def _asked(session: Session, side: Side, engine: Engine, reference: Measured | None) -> Measured:
    setup = session.setup
    system = System(side.model, session.prompt, session.with_length(Greedy()))
    with Bar(side.name, quiet=setup.quiet) as bar:
        result = evaluate(
            system,
            session.task,
            engine,
            session.store,
            split=setup.split,
            questions=setup.questions,
            progress=bar.show,
        )
    own = {o.id: o.text for o in result.outcomes if o.status is not Status.ERROR}
    answers = own
    if reference is not None:
        answers = {o.id: o.text for o in reference.result.outcomes if o.status is not Status.ERROR}
    other = {id: text for id, text in own.items() if text != answers.get(id)}
    requests = {
        example.id: Request(example.id, render(session.prompt, example), style=session.prompt.style)
        for example in questions_of(session.task, setup.split, setup.questions)
    }
    key = [model_identity(side.model), engine.version, short_hash(session.prompt)]
    file = session.run.path / f"scores-{short_hash(key)}.jsonl"
    with Bar(f"{side.name}, scoring", quiet=setup.quiet) as bar:
        scores = _scores(engine, file, requests, answers, TOP, bar)
    with Bar(f"{side.name}, own answers", quiet=setup.quiet) as bar:
        tokens = _scores(engine, file, requests, other, 0, bar)
    return Measured(side.name, result, scores, tokens)


# --- token scores -----------------------------------------------------------------------------------


def _scores(
    engine: Engine, file: Path, requests: Mapping[str, Request], texts: Mapping[str, str], top: int, bar: Bar
) -> dict[str, TokenScores]:
    """Each text's tokens behind its question, from the file where they are in it; empty texts are left out."""
    keys = {id: f"{id}-{text_hash(text)}-{top}" for id, text in texts.items() if text}
    stored = _read(file)
    found = {id: stored[key] for id, key in keys.items() if key in stored}
    wanted = [id for id in keys if id not in found]
    bar.show(len(found), len(keys))
    if not wanted:
        return found
    for batch in engine.token_logprobs([requests[id] for id in wanted], [texts[id] for id in wanted], top):
        for id, scores in batch:
            found[id] = _sound(scores)
            if found[id].error is None:  # a failed request is sent again next time
                append_line(file, json_bytes([keys[id], [[t.token, t.logprob, t.top] for t in found[id].tokens]]))
        bar.show(len(found), len(keys))
    return found


def _sound(scores: TokenScores) -> TokenScores:
    """Scores whose numbers are numbers; else an error."""
    if scores.error is not None:
        return scores
    if not all(math.isfinite(token.logprob) for token in scores.tokens):
        return TokenScores((), "a log-probability is no finite number")
    tokens = (replace(t, top=tuple(pair for pair in t.top if math.isfinite(pair[1]))) for t in scores.tokens)
    return TokenScores(tuple(tokens))


def _read(file: Path) -> dict[str, TokenScores]:
    """What the file holds; a last line that a kill cut off is taken out of it."""
    if not file.exists():
        return {}
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):  # or the next line would be glued to it
        with file.open("r+b") as torn:
            torn.truncate(whole)
    found = {}
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            key, tokens = json.loads(line)
            found[key] = TokenScores(tuple(TokenScore(t, lp, tuple(map(tuple, top))) for t, lp, top in tokens))
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged in line {number}: {error}. Delete that line.") from error
    return found
