"""Asking in stages: each stage's completions come from the store, and all that a question takes is added up.

A decode that answers step by step asks, looks at what came, and asks again. A sample's name in the store is its
question, the stage and a hash of the conversation, so that a killed run goes on where it stopped. What comes out
is one completion a question, whose tokens and seconds are those of every stage, step, critique and score.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from workbench.cost import ModelShape, inference_flops
from workbench.decodes import Sampling
from workbench.engines.base import Engine
from workbench.identity import model_identity, short_hash, to_json
from workbench.store import Store
from workbench.types import Completion, Finish, Message, Prompt, Request, System

Read = Callable[[str, Completion], str | None]
"""(question id, whole answer) → what the task's grader reads in it; whether that is right is not told."""


@dataclass(frozen=True)
class Want:
    """What one stage asks of one question: n samples behind a conversation, of at most so many tokens each."""

    question: str
    messages: tuple[Message, ...]
    n: int = 1
    max_tokens: int | None = None


@dataclass
class Spent:
    """What one question has taken so far; FLOPs count each request's prompt once for its samples."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def add(self, found: Sequence[Completion], shape: ModelShape | None) -> None:
        """Count the samples, or the scored texts, of one request; failed ones are none."""
        whole = [c for c in found if c.finish is not Finish.ERROR]
        if not whole:
            return
        prompt, said = max(c.prompt_tokens for c in whole), sum(c.completion_tokens for c in whole)
        scored = all(c.finish is Finish.SCORED for c in whole)  # texts that were read, and not generated
        self.prompt_tokens += prompt + (said if scored else 0)
        self.completion_tokens += 0 if scored else said
        self.seconds += sum(c.seconds for c in whole)
        if shape is not None:
            self.flops += inference_flops(shape, prompt, said / len(whole), len(whole))


@dataclass(frozen=True)
class Stepped:
    """What a stepwise decode made of its questions.

    Attributes:
        completions: one a question, by its id: the final answer's text, and the tokens and seconds of all stages.
        flops: of each question, where the model's size is known.
        metrics: figures of the decode.
        notes: what a reader must know.
        rounds: of `Revision`, every round's answer, the first one's before the others.
    """

    completions: dict[str, Completion]
    flops: dict[str, float] | None
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rounds: Mapping[str, Sequence[Completion]] = field(default_factory=dict)


class Stages:
    """The stages of one measurement.

    Args:
        system: whose model answers.
        requests: the questions as they are asked.
        engine: the System's model, ready.
        store: completions are taken from it and put into it.
        progress: called with (done, total) questions after every stage.
    """

    def __init__(
        self,
        system: System,
        requests: Sequence[Request],
        engine: Engine,
        store: Store,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.system, self.engine, self.store = system, engine, store
        self.requests = {request.id: request for request in requests}
        self.spent = {id: Spent() for id in self.requests}
        self._progress = progress

    def ask(
        self, wants: Sequence[Want], sampling: Sampling, stage: str, prompt: Prompt | None = None
    ) -> list[list[Completion]]:
        """The samples of each want, in their order; a failed one finished with `error` and is asked for again.

        Args:
            wants: no conversation of a question twice.
            sampling: how all of them are drawn, the stop strings among it.
            stage: tells apart stages with equal conversations; empty is a question's plain sample, which the other
                decodes share.
            prompt: whose conversations they are; by default the System's.

        Raises:
            UserError: the server died or refuses; what was answered is stored.
        """
        prompt = prompt or self.system.prompt
        stream = self.store.stream(
            {
                "model": model_identity(self.system.model),
                "prompt": {"name": prompt.name, "hash": short_hash(prompt)},
                "how": to_json(sampling, defaults=False),
                "engine": self.engine.version,
            }
        )
        names = [f"{w.question}:{stage}:{short_hash([w.messages, w.max_tokens])}" for w in wants]
        if not stage:
            names = [want.question for want in wants]
        assert len(set(names)) == len(names), names
        missing: list[Request] = []
        for name, want in zip(names, wants, strict=True):
            indices = self.store.missing(stream, [name], want.n).get(name)
            if indices:
                missing.append(Request(name, want.messages, indices, prompt.style, want.max_tokens))
        failed: dict[str, list[Completion]] = {}
        for batch in self.engine.sample(missing, sampling) if missing else ():
            self.store.append(stream, [(id, c) for id, c in batch if c.finish is not Finish.ERROR])
            for id, c in batch:
                if c.finish is Finish.ERROR:
                    failed.setdefault(id, []).append(c)
        found = []
        for name, want in zip(names, wants, strict=True):
            drawn = [*self.store.read(stream, [name], want.n).get(name, []), *failed.get(name, [])]
            found.append(sorted(drawn, key=lambda c: c.index))
            self.spent[want.question].add(drawn, self.engine.shape)
        return found

    def tell(self, done: int) -> None:
        """So many of the questions have their answer."""
        self._progress(done, len(self.requests))

    def answer(self, question: str, last: Completion, text: str, logprob: float | None = None) -> Completion:
        """The question's one completion: this text, which ended as `last` did, at the cost of all stages."""
        spent = self.spent[question]
        whole = replace(
            last,
            index=0,
            text=text,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
            logprob=logprob,
            seconds=spent.seconds,
        )
        return replace(whole, text="") if last.finish is Finish.ERROR else whole

    def result(
        self,
        completions: Mapping[str, Completion],
        metrics: Mapping[str, float] | None = None,
        rounds: Mapping[str, Sequence[Completion]] | None = None,
        notes: Iterable[str] = (),
    ) -> Stepped:
        """The answers with what they took."""
        flops = {id: spent.flops for id, spent in self.spent.items()} if self.engine.shape else None
        whole = {id: completions[id] for id in self.requests}
        return Stepped(whole, flops, dict(metrics or {}), tuple(notes), rounds or {})


def continued(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """The conversation with the start of an answer, which the model goes on with."""
    if not text:
        return tuple(messages)
    if messages[-1].role == "assistant":  # the prompt begins the answer itself
        return (*messages[:-1], Message("assistant", messages[-1].content + text))
    return (*messages, Message("assistant", text))


def failure(found: Sequence[Completion], n: int) -> Completion | None:
    """The first of n samples that failed; one that did not come has failed too."""
    for c in found:
        if c.finish is Finish.ERROR:
            return c
    return Completion(0, "", finish=Finish.ERROR, error="a sample did not come") if len(found) < n else None


def cut_at(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first of the stop strings, None where there is none of them."""
    places = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(places)] if places else None
