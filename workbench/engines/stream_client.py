"""One sample as it comes from a server: server-sent events, pieces of text, and the completion that they make.

A stream that breaks off, or ends without saying why it ended, is an error with the text that came, and no answer.
"""

import json
import math
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from workbench.engines.answers import FINISHES, token_scores
from workbench.engines.base import Piece
from workbench.engines.client import ServerError, Servers
from workbench.types import Completion, Finish

STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
"""What a request says that wants its answer in pieces, and at the end what the server counted."""

END = "[DONE]"


class _Sample:
    """What has come of one sample."""

    def __init__(self) -> None:
        self.text = ""
        self.scores: list[float] = []
        self.prompt_tokens = 0
        self.completion_tokens: int | None = None  # as the server counts
        self.reason: str | None = None

    def take(self, data: str) -> str:
        """Add one event; its piece of text is given back.

        Raises:
            ServerError: it is none, or says that the server failed.
        """
        try:
            event = json.loads(data)
            if "error" in event:
                raise ServerError(f"the server said {str(event['error'])[:300]}")
            if usage := event.get("usage"):
                self.prompt_tokens, self.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            piece = "".join(self._choice(choice) for choice in event["choices"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ServerError(f"it holds what is no part of an answer ({error!r}): {data[:200]}") from None
        self.text += piece
        return piece

    def _choice(self, choice: dict[str, Any]) -> str:
        said = choice["delta"].get("content") if "delta" in choice else choice["text"]
        reason = choice.get("finish_reason")
        if not isinstance(said, str | None) or not isinstance(reason, str | None):
            raise TypeError("no text")
        scores = token_scores(choice)
        if not all(math.isfinite(score) for score in scores):
            raise ValueError("a log-probability is not finite")
        self.scores += scores
        self.reason = reason or self.reason
        return said or ""

    def completion(self, index: int, seconds: float, problem: str | None) -> Completion:
        """The whole, by the server's own counts where it tells them."""
        if problem is None and self.reason not in FINISHES:
            problem = f"it ended with the finish_reason {self.reason!r}"
        return Completion(
            index=index,
            text=self.text,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.scores) if self.completion_tokens is None else self.completion_tokens,
            logprob=math.fsum(self.scores) if self.scores else None,
            seconds=seconds,
            finish=FINISHES[str(self.reason)] if problem is None else Finish.ERROR,
            error=None if problem is None else f"The answer is incomplete: {problem}.",
        )


async def read_pieces(servers: Servers, response: httpx.Response, index: int) -> AsyncGenerator[str | Completion]:
    """Each piece of text as it comes, the completion last."""
    sample = _Sample()
    problem: str | None = f"the stream ended without {END}"
    started = time.perf_counter()
    try:
        async for data in _events(response):
            if data == END:
                problem = None
                break
            if piece := sample.take(data):
                yield Piece(piece, len(sample.scores))  # a server tells the score of each token
    except httpx.RequestError as error:
        problem = f"the stream broke off ({servers.words(error)})"
    except ServerError as error:
        problem = servers.scrub(str(error))
    yield sample.completion(index, time.perf_counter() - started, problem)


async def _events(response: httpx.Response) -> AsyncGenerator[str]:
    """The data of each event, as it comes; comments and other fields are left out.

    Lines end at a line feed and nowhere else: text within an event may hold other characters that part lines.
    """
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode(errors="replace")
