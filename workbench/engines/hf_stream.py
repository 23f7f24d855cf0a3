"""A sample in the making, and its text in pieces as its tokens come.

A piece never ends inside a character: bytes that a later token may make one of are kept back. Nor does it hold
any of a stop string: what may be the beginning of one is kept back until it is told.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from workbench.engines.base import Piece
from workbench.types import Completion, Finish, Request

BROKEN = "\ufffd"
"""What a tokenizer writes for bytes that are no whole character, or not yet."""


@dataclass
class Row:
    """One sample in the making."""

    request: Request
    index: int
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish: Finish | None = None

    def completion(self, text: str, virtual: int, seconds: float) -> Completion:
        """What it has become, behind a prompt of `virtual` tokens and its own."""
        return Completion(
            index=self.index,
            text=text,
            prompt_tokens=virtual + len(self.prompt),
            completion_tokens=len(self.tokens),
            logprob=self.logprob,
            seconds=seconds,
            finish=self.finish or Finish.LENGTH,
        )


def failed(index: int, prompt_tokens: int, problem: str) -> Completion:
    """A sample that was never begun."""
    return Completion(index, "", prompt_tokens=prompt_tokens, finish=Finish.ERROR, error=problem)


def first_stop(text: str, stop: Sequence[str], keep: bool = False) -> int:
    """Where the first stop string begins, or with `keep` ends; the text's length where there is none."""
    found = [(at, -len(s)) for s in stop if (at := text.find(s)) >= 0]
    if not found:
        return len(text)
    at, length = min(found)  # of several that begin there, the longest
    return at - length if keep else at


def in_pieces(
    row: Row,
    steps: Iterator[None],
    decode: Callable[[Sequence[int]], str],
    stop: Sequence[str],
    virtual: int,
) -> Iterator[str | Completion]:
    """Pieces of a sample's text as its tokens come, its completion last.

    Args:
        row: the sample, which each step gives a token.
        steps: ends when the sample does.
        decode: tokens to text, as they stand behind other text.
        stop: strings that end the answer, and of which no part is given out.
        virtual: positions that a soft prompt takes.
    """
    said: list[str] = []
    kept = ""  # text that may yet turn out to be the beginning of a stop string
    first = 0  # of the tokens whose text has not been taken whole
    taken = 0  # characters of that text
    seconds = 0.0
    started = time.perf_counter()
    for _ in steps:
        fresh = decode(row.tokens[first:])
        certain = fresh if row.finish else fresh.rstrip(BROKEN)
        kept += certain[taken:]
        first, taken = (len(row.tokens), 0) if certain == fresh else (first, len(certain))
        if row.finish:
            kept = kept[: first_stop(kept, stop)]
        piece = kept if row.finish else kept[: len(kept) - _begun(kept, stop)]
        kept = kept[len(piece) :]
        if piece:
            said.append(piece)
            seconds += time.perf_counter() - started
            yield Piece(piece, len(row.tokens))
            started = time.perf_counter()  # what the reader does with a piece is not the sample's time
    yield row.completion("".join(said), virtual, seconds + time.perf_counter() - started)


def _begun(text: str, stop: Sequence[str]) -> int:
    """How many of the text's last characters may be the beginning of a stop string."""
    lengths = (n for s in stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n]))
    return max(lengths, default=0)
