"""Scores of continuations token by token: each token as the next one behind all that is before it.

vLLM tells the log-probabilities of given tokens as the next one (`logprob_token_ids`), for several prompts a
request. Continuations that begin alike share what is behind the beginning: labels of one token cost one prompt.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from workbench.engines.answers import read_next

MAX_PROMPTS = 32
"""Prompts in one HTTP request for scores."""

MAX_IDS = 128
"""Tokens whose log-probability one HTTP request may ask for (vLLM's own bound)."""

Tokens = tuple[int, ...]
Step = tuple[Tokens, int]
"""A token, behind those that are before it."""

Next = Callable[[Sequence[Tokens], dict[str, Any]], Awaitable[tuple[dict[str, Any], float]]]
"""Asks what is said of the token behind each of these, told so by the fields; the answer, and its seconds."""

ONE_TOKEN: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "return_tokens_as_token_ids": True}
"""What every such request says besides."""


def steps_of(prompt: list[int], own: list[int]) -> list[Step]:
    """A continuation's tokens, each behind all that is before it."""
    return [(tuple(prompt + own[:i]), token) for i, token in enumerate(own)]


async def score_steps(ask: Next, steps: Sequence[Step]) -> tuple[dict[Step, float], float]:
    """The log-probability of each step's token behind what is before it, and the seconds of it.

    Raises:
        ServerError: one of them is not told.
    """
    wanted: dict[Tokens, set[int]] = {}
    for before, token in steps:
        wanted.setdefault(before, set()).add(token)
    told: dict[Step, float] = {}
    seconds = 0.0
    for befores, ids in parts(wanted):
        answer, share = await ask(befores, {"logprobs": 0, "logprob_token_ids": ids})
        seconds += share
        for before, logprobs in zip(befores, read_next(answer, len(befores), ids), strict=True):
            told |= {(before, token): logprob for token, logprob in logprobs.items()}
    return told, seconds


def parts(wanted: Mapping[Tokens, set[int]]) -> Iterator[tuple[list[Tokens], list[int]]]:
    """(what is before, the tokens that are asked for behind each of these), as many as one request may hold."""
    befores: list[Tokens] = []
    ids: set[int] = set()
    for before, token in ((before, token) for before, tokens in wanted.items() for token in sorted(tokens)):
        fresh = not befores or befores[-1] != before
        if len(befores) + fresh > MAX_PROMPTS or len(ids | {token}) > MAX_IDS:
            yield befores, sorted(ids)
            befores, ids, fresh = [], set(), True
        if fresh:
            befores.append(before)
        ids.add(token)
    if befores:
        yield befores, sorted(ids)
