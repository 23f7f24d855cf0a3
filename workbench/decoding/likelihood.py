"""How likely a System's model finds the right answers: the log-probability of each, through the store."""

from collections.abc import Callable, Sequence

from workbench.engines.base import Engine
from workbench.identity import model_identity, short_hash
from workbench.prompts import render, render_answer
from workbench.store import Store
from workbench.types import Completion, Example, Finish, Request, System


def answer_logprobs(
    system: System,
    examples: Sequence[Example],
    exemplars: Sequence[Sequence[Example]],
    engine: Engine,
    store: Store,
    progress: Callable[[int, int], None],
) -> list[Completion]:
    """One scored completion an example: the right answer, as the prompt's shot shows it, after the question.

    Its `logprob` is the sum over the answer's tokens (nats); the decode plays no part. Stored ones are not
    asked for again; what failed finished with `error`, is not stored, and has no log-probability.

    Args:
        system: its model and prompt.
        examples: the questions.
        exemplars: those that each question's prompt shows.
        engine: the System's model, ready.
        store: where scores are kept.
        progress: called with (done, total) after every batch.

    Raises:
        UserError: the prompt has no shot, or an example lacks what it shows.
    """
    asked: dict[str, tuple[Request, str]] = {}
    ids = []
    for example, shown in zip(examples, exemplars, strict=True):
        messages, answer = render(system.prompt, example, shown), render_answer(system.prompt, example)
        # An example's id leaves its target and its variables out, and the stream's key knows neither: another
        # answer to the same question, or the question put otherwise, must not hit.
        id = f"{example.id}:{short_hash([messages, answer])}"
        asked[id] = Request(id, messages, style=system.prompt.style), answer
        ids.append(id)
    prompt = {"name": system.prompt.name, "hash": short_hash(system.prompt)}
    key = {"model": model_identity(system.model), "prompt": prompt, "how": "right answer"}
    stream = store.stream({**key, "engine": engine.version})
    missing = list(store.missing(stream, list(asked), 1))
    done = len(asked) - len(missing)
    progress(done, len(asked))
    failed: dict[str, Completion] = {}
    if missing:
        requests, answers = zip(*(asked[id] for id in missing), strict=True)
        for batch in engine.logprobs(requests, [[answer] for answer in answers]):
            bad = {id: c for id, c in batch if c.finish is Finish.ERROR or c.logprob is None}
            failed |= bad
            store.append(stream, [(id, c) for id, c in batch if id not in bad])
            done += len(batch)
            progress(done, len(asked))
    stored = store.read(stream, list(asked), 1)
    return [stored[id][0] if id in stored else failed[id] for id in ids]
