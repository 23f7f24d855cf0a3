"""Asking an engine for a System's completions, through the store: only what is missing is drawn.

Every batch is stored before the next one starts. A killed run therefore goes on where it stopped, and n = 64
after n = 16 draws 48 samples a question. A failed request is not stored; it is asked for again next time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.decodes import Decode, LabelLikelihood, Sample
from workbench.engines.base import Batch, Engine
from workbench.identity import model_identity, short_hash, to_json
from workbench.store import Store
from workbench.types import Completion, Finish, Message, Request, System


def completions(
    system: System,
    requests: Sequence[Request],
    labels: Sequence[str],
    engine: Engine,
    store: Store,
    progress: Callable[[int, int], None],
) -> dict[str, list[Completion]]:
    """Every completion of every request, stored ones first, by question id and in index order.

    Args:
        system: whose decode says what is drawn: n samples, or the likelihood of each label.
        requests: one a question; their `indices` are set here.
        labels: what `LabelLikelihood` scores, as the task names them.
        engine: the System's model, ready.
        store: where completions are kept.
        progress: called with (done, total) after every batch; totals count samples or scored labels.

    Raises:
        UserError: the server died or refuses; what was answered is stored.
    """
    stream = store.stream(stream_key(system, engine.version, labels))
    ids = [request.id for request in requests]
    n = len(labels) if isinstance(system.decode, LabelLikelihood) else samples(system.decode)
    missing = store.missing(stream, ids, n)
    total = n * len(ids)
    done = total - sum(len(indices) for indices in missing.values())
    progress(done, total)
    failed: dict[str, list[Completion]] = {}
    for batch in drawing(system, requests, labels, missing, engine, store):
        for name, completion in batch:
            if completion.finish is Finish.ERROR:
                failed.setdefault(name, []).append(completion)
        done += len(batch)
        progress(done, total)
    stored = store.read(stream, ids, n)
    return {
        id: sorted([*stored.get(id, []), *failed.get(id, [])], key=lambda completion: completion.index)
        for id in ids
    }


def drawing(
    system: System,
    requests: Sequence[Request],
    labels: Sequence[str],
    missing: Mapping[str, tuple[int, ...]],
    engine: Engine,
    store: Store,
) -> Iterator[Batch]:
    """The batches of what is missing, as they finish; what did not fail is stored before a batch is given.

    Args:
        system, requests, labels, engine, store: as in `completions`.
        missing: the indices that are wanted, by question id, as `Store.missing` tells them.

    Raises:
        UserError: as `completions`.
    """
    stream = store.stream(stream_key(system, engine.version, labels))
    for batch in _batches(system, requests, labels, missing, engine):
        store.append(stream, [(name, c) for name, c in batch if c.finish is not Finish.ERROR])
        yield batch


def samples(decode: Decode) -> int:
    """How many samples a question a decode draws."""
    return decode.n if isinstance(decode, Sample) else 1


def room_needed(decode: Decode, labels: Sequence[str], engine: Engine) -> int:
    """Tokens that must be free behind a prompt: the longest answer, or the longest label.

    A label's tokens are counted as those of a text, alone and after a space; a token that the model puts before
    every text is counted with them.
    """
    if not isinstance(decode, LabelLikelihood):
        return decode.sampling().max_tokens
    texts = [text for label in labels for text in (label, f" {label}")]
    return max(engine.count_tokens([Request("", (Message("user", text),), style="text") for text in texts]))


def stream_key(system: System, engine_version: str, labels: Sequence[str]) -> dict[str, Any]:
    """Whatever may change a completion: model, prompt with its exemplars, sampling, labels, engine.

    The number of samples is not in it: sample 7 is the same sample, however many are drawn. Nor is what is made
    of labels' scores: plain, normalised and calibrated likelihood share them.
    """
    decode = system.decode
    if isinstance(decode, LabelLikelihood):
        how: dict[str, Any] = {"labels": list(labels)}
    else:
        how = to_json(replace(decode.sampling(), stop=system.prompt.stop), defaults=False)
    prompt = {"name": system.prompt.name, "hash": short_hash(system.prompt)}
    return {"model": model_identity(system.model), "prompt": prompt, "how": how, "engine": engine_version}


def _batches(
    system: System,
    requests: Sequence[Request],
    labels: Sequence[str],
    missing: Mapping[str, tuple[int, ...]],
    engine: Engine,
) -> Iterator[Batch]:
    wanted = [replace(r, indices=missing[r.id]) for r in requests if r.id in missing]
    if not wanted:
        return iter(())
    if isinstance(system.decode, LabelLikelihood):
        return _scored(engine, wanted, labels)
    sampling = replace(system.decode.sampling(), stop=system.prompt.stop)
    return engine.sample(wanted, sampling)


def as_continuations(request: Request, labels: Sequence[str]) -> list[str]:
    """Labels as they stand behind a prompt: after text that ends in no space, a label brings its own."""
    ends_bare = request.style == "text" and not request.messages[-1].content[-1:].isspace()
    return [f" {label}" if ends_bare else label for label in labels]


def _scored(engine: Engine, wanted: Sequence[Request], labels: Sequence[str]) -> Iterator[Batch]:
    """Label scores under the labels' own names."""
    texts = [as_continuations(request, labels) for request in wanted]
    for batch in engine.logprobs(wanted, texts):
        named: Batch = [(name, replace(c, text=labels[c.index])) for name, c in batch]
        yield named
