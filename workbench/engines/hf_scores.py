"""Texts scored by the embedded engine: continuations as branches of packed sequences, summed or token by token.

Prompts that begin alike are put together, and what all of them begin with is computed once.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache

from workbench.engines.base import Batch, TokenScore, TokenScores, check_top
from workbench.engines.encode import Encoder, common_prefix
from workbench.engines.forward import packed_logits, prefix_cache
from workbench.engines.hf_stream import failed
from workbench.engines.kv import buffers_from
from workbench.engines.packing import Branch, Packed, pack, questions_that_fit
from workbench.errors import UserError
from workbench.types import Completion, Finish, Request

Work = list[tuple[Request, list[Branch]]]


class Loaded(Protocol):
    """What scoring needs of the engine: `HfEngine` has it."""

    weights: Any
    encoder: Encoder
    device: str
    labels: tuple[str, ...]  # of a classification head; none otherwise
    soft: Cache | None  # keys and values of a soft prompt
    virtual: int  # positions that a soft prompt takes

    def unfit(self, prompt: int, more: int) -> str | None:
        """Why a prompt of so many tokens, and `more` behind it, cannot be run."""


def text_scores(
    engine: Loaded, requests: Sequence[Request], continuations: Sequence[Sequence[str]]
) -> Iterator[Batch]:
    """`Engine.logprobs`: each continuation with the sum of its tokens' log-probabilities."""
    work: Work = []
    for request, texts in zip(requests, continuations, strict=True):
        branches = [_branch(engine, request, text) for text in texts]
        if not branches:
            continue
        if problem := _unfit(engine, branches):
            yield [(request.id, failed(i, len(branch.prompt), problem)) for i, branch in enumerate(branches)]
            continue
        work.append((request, branches))
    yield from _told(engine, work, lambda packed, logits: _sums(packed, _of_targets(packed, logits)))


def self_certainties(engine: Loaded, requests: Sequence[Request], texts: Sequence[str]) -> Iterator[Batch]:
    """`HfEngine.self_certainty`: each text with the mean over its tokens of how far from uniform the model was."""
    work: Work = []
    for request, text in zip(requests, texts, strict=True):
        branch = _branch(engine, request, text)
        if problem := _unfit(engine, [branch]):
            yield [(request.id, failed(0, len(branch.prompt), problem))]
            continue
        work.append((request, [branch]))

    def means(packed: Packed, logits: torch.Tensor) -> torch.Tensor:
        # KL(uniform ‖ p) = −log V − mean log p; a token's log p is its logit less the logsumexp of all.
        each = logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])
        return _sums(packed, each) / _sums(packed, torch.ones_like(each))

    yield from _told(engine, work, means)


def _told(engine: Loaded, work: Work, values: Callable[[Packed, torch.Tensor], torch.Tensor]) -> Iterator[Batch]:
    """Each continuation as a completion whose `logprob` is its number among those of its pass."""
    started = time.perf_counter()
    for batch, packed, logits in _passes(engine, work):
        told = values(packed, logits).tolist()
        scored = [(request, i, branch) for request, branches in batch for i, branch in enumerate(branches)]
        seconds = (time.perf_counter() - started) / len(scored)  # the prefix's are the first batch's
        yield [
            (
                request.id,
                Completion(
                    index=index,
                    text=branch.text,
                    prompt_tokens=engine.virtual + len(branch.prompt),
                    completion_tokens=len(branch.continuation),
                    logprob=logprob,
                    seconds=seconds,
                    finish=Finish.SCORED,
                ),
            )
            for (request, index, branch), logprob in zip(scored, told, strict=True)
        ]
        started = time.perf_counter()


def token_scores(
    engine: Loaded, requests: Sequence[Request], continuations: Sequence[str], top: int
) -> Iterator[list[tuple[str, TokenScores]]]:
    """`Engine.token_logprobs`: each token of each continuation, with the `top` most likely in its place."""
    check_top(top)
    work: Work = []
    for request, text in zip(requests, continuations, strict=True):
        branch = _branch(engine, request, text)
        if problem := _unfit(engine, [branch]):
            yield [(request.id, TokenScores((), problem))]
            continue
        work.append((request, [branch]))
    for batch, packed, logits in _passes(engine, work):
        own = zip(packed.targets.tolist(), _of_targets(packed, logits).tolist(), strict=True)
        likely, ids = logits.topk(min(top, logits.shape[-1]), dim=-1)
        likely = likely - logits.logsumexp(-1, keepdim=True)
        tops = (zip(*pair, strict=True) for pair in zip(ids.tolist(), likely.tolist(), strict=True))
        scores = [TokenScore(*pair, tuple(beside)) for pair, beside in zip(own, tops, strict=True)]
        tokens: list[list[TokenScore]] = [[] for _ in batch]
        for owner, score in zip(packed.owner.tolist(), scores, strict=True):
            tokens[owner].append(score)
        yield [(request.id, TokenScores(tuple(of))) for (request, _), of in zip(batch, tokens, strict=True)]


def _branch(engine: Loaded, request: Request, text: str) -> Branch:
    """A continuation's tokens behind the prompt's, or its label's number where a head scores labels."""
    if not engine.labels:
        return Branch(*engine.encoder.encode_pair(request, text))
    label = text if text in engine.labels else text.removeprefix(" ")  # as `decoding/ask.py` puts it
    if label not in engine.labels:
        raise UserError(f"The model's head has no label {text!r}. It has: {', '.join(engine.labels)}.")
    return Branch(engine.encoder.encode(request), [engine.labels.index(label)], text)


def _unfit(engine: Loaded, branches: list[Branch]) -> str | None:
    more = max(len(branch.continuation) for branch in branches)
    return engine.unfit(min(len(branch.prompt) for branch in branches), more)


def _passes(engine: Loaded, work: Work) -> Iterator[tuple[Work, Packed, torch.Tensor]]:
    """The work in batches, each with its packed sequence and the logits [M, V] where that is read."""
    work = sorted(work, key=lambda item: (item[1][0].prompt, item[0].id))  # neighbours share the longest prefixes
    questions = [branches for _, branches in work]
    # What every prompt begins with is computed once for all batches, where there are several.
    cached = 0
    if questions_that_fit(questions) < len(work):
        cached = common_prefix([branch.prompt for branches in questions for branch in branches])
    start = prefix_cache(engine.weights, questions[0][0].prompt[:cached], engine.soft) if work else None
    while work:
        taken = questions_that_fit([branches for _, branches in work], cached=cached)
        batch, work = work[:taken], work[taken:]
        packed = pack([branches for _, branches in batch], engine.device, virtual=engine.virtual, cached=cached)
        yield batch, packed, packed_logits(engine.weights, packed, _room(engine, start, cached, packed))


def _room(engine: Loaded, start: Cache | None, cached: int, packed: Packed) -> Cache | None:
    """Room for a batch behind a copy of what all batches share; None where they share nothing."""
    if not engine.virtual + cached:
        return None
    first = torch.zeros(1, dtype=torch.long, device=engine.device)
    return buffers_from(start, first, packed.mask.shape[-1])


def _sums(packed: Packed, each: torch.Tensor) -> torch.Tensor:
    """What is told of each token that is read, [M], summed over each continuation, [count]."""
    return torch.zeros(packed.count, device=each.device).index_add_(0, packed.owner, each)


def _of_targets(packed: Packed, logits: torch.Tensor) -> torch.Tensor:
    """The log-probability of each token that is read, [M]."""
    return logits.gather(-1, packed.targets[:, None]).squeeze(-1) - logits.logsumexp(-1)
