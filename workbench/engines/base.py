"""What an engine is: something that samples from a model and scores texts under it, a batch at a time.

An engine yields results batch by batch, as they finish, so that the caller can store each batch before the
next one starts: a killed run loses the batch in flight and nothing else.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from workbench.cost import ModelShape
from workbench.types import Completion, Request, Sampling

if TYPE_CHECKING:  # numpy takes a fifth of the time that --help may take
    import numpy as np
    from numpy.typing import NDArray

Batch = list[tuple[str, Completion]]
"""(request id, completion) pairs that finished together."""


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

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Mean-pooled last hidden states, shape [len(texts), width].

        Raises:
            UserError: this engine cannot embed.
        """

    def close(self) -> None:
        """Free what it holds. An engine is not used after it is closed."""


def sample_seed(seed: int, question_id: str, index: int) -> int:
    """The seed of one sample: a block of 2^20 seeds for each (seed, question), then the sample's index.

    Consecutive indices have consecutive seeds, so a server that gives sample i of a request the seed s + i
    (vLLM) draws indices a..b in one request that is sent with `sample_seed(seed, question_id, a)`, and no two
    calls ever share a seed.
    """
    digest = hashlib.sha256(f"{seed}:{question_id}".encode()).digest()
    block = int.from_bytes(digest[:8], "big") >> 22  # 42 bits: the whole stays below 2^62
    return (block << 20) + index
