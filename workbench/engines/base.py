"""What an engine is: something that samples from a model and scores texts under it, a batch at a time.

An engine yields results batch by batch, as they finish, so that the caller can store each batch before the
next one starts: a killed run loses the batch in flight and nothing else.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from workbench.cost import ModelShape
from workbench.decodes import Sampling
from workbench.errors import UserError
from workbench.types import Completion, Request

if TYPE_CHECKING:  # numpy takes a fifth of the time that --help may take
    import numpy as np
    from numpy.typing import NDArray

Batch = list[tuple[str, Completion]]
"""(request id, completion) pairs that finished together."""


@dataclass(frozen=True)
class TokenScore:
    """One token of a continuation under a model.

    Attributes:
        token: its id.
        logprob: nats, given the prompt and the tokens before it.
        top: the most likely tokens in its place, as (id, log-probability), the likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenScores:
    """Every token of one continuation; none, and an error, where the request failed."""

    tokens: tuple[TokenScore, ...]
    error: str | None = None


class Piece(str):
    """A piece of an answer's text, as it streams.

    Attributes:
        tokens: drawn for the answer until this piece, by the engine or the server; 0 where it does not tell.
    """

    tokens: int

    def __new__(cls, text: str, tokens: int) -> "Piece":
        """The text, and the tokens drawn until it."""
        piece = super().__new__(cls, text)
        piece.tokens = tokens
        return piece


class Engine(Protocol):
    """One model, loaded or reached, ready to answer."""

    @property
    def version(self) -> str:
        """Engine, library versions, precision and device: part of the store's key."""

    @property
    def shape(self) -> ModelShape | None:
        """The model's size, for counting FLOPs; None where it cannot be known."""

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None where it cannot be known."""

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Tokens of each request's prompt, as the model reads it."""

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        """Draw every index of every request. A failed request yields a completion that finished with `error`.

        Sample i of a question depends on (sampling, question id, i) and its seed is `sample_seed`.
        """

    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        """Log-probability (nats, summed over tokens) of each continuation right after its request's prompt.

        Continuation j of a request comes back as a completion with index j, the continuation as its text,
        and `finish` `scored`.
        """

    def token_logprobs(
        self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0
    ) -> Iterator[list[tuple[str, TokenScores]]]:
        """Each token of one continuation a request, right after its prompt, as (request id, scores), in batches.

        The tokens are those whose log-probabilities `logprobs` adds up.

        Args:
            requests: one a continuation.
            continuations: texts, none empty.
            top: how many of the most likely tokens to tell in each place, 0 to 20.

        Raises:
            UserError: `top` is out of its range.
        """

    def detokenize(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """The text of each group of token ids, as it stands behind other text; bytes that are no whole character
        are U+FFFD, and a control token by itself, as that which ends an answer, has none.

        Raises:
            UserError: this engine, or its server, cannot tell.
        """

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        """One sample, the first of the request's indices, as it comes: pieces of its text, the completion last.

        The pieces joined are the completion's text; each is a `Piece` where the engine knows how many tokens have
        been drawn. One that broke off half-way finishes with `error` and has the text that came. Closing the
        iterator ends the generation, at the server too.
        """

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Mean-pooled last hidden states, shape [len(texts), width].

        Raises:
            UserError: this engine cannot embed.
        """

    def close(self) -> None:
        """Free what it holds. An engine is not used after it is closed."""


MAX_TOP = 20
"""Most likely tokens told in one place: as many as a vLLM server tells."""


def check_top(top: int) -> None:
    """Refuse a number of most likely tokens that is none.

    Raises:
        UserError: it is no whole number from 0 to 20.
    """
    if not isinstance(top, int) or isinstance(top, bool) or not 0 <= top <= MAX_TOP:
        raise UserError(f"top is {top!r}; it must be a whole number from 0 to {MAX_TOP}.")


def sample_seed(seed: int, question_id: str, index: int) -> int:
    """The seed of one sample: a block of 2^20 seeds for each (seed, question), then the sample's index.

    Consecutive indices have consecutive seeds, so a server that gives sample i of a request the seed s + i
    (vLLM) draws indices a..b in one request that is sent with `sample_seed(seed, question_id, a)`, and no two
    calls ever share a seed.
    """
    digest = hashlib.sha256(f"{seed}:{question_id}".encode()).digest()
    block = int.from_bytes(digest[:8], "big") >> 22  # 42 bits: the whole stays below 2^62
    return (block << 20) + index
