"""The tokens of an answer with their probabilities and what was likely in their place, as text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.engines.base import Engine, TokenScore
from workbench.errors import UserError
from workbench.types import Request

TOP = 5
"""Alternatives told of each token."""

_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Alternative:
    """A token that could stand in another's place; empty text is a control token, as that which ends an answer."""

    text: str
    probability: float


@dataclass(frozen=True)
class Token:
    """One token of an answer; a character of several tokens is the last one's text, the others have none.

    Attributes:
        text: exactly.
        probability: given all before it, before temperature.
        alternatives: the likeliest in its place, itself among them where it is one.
    """

    text: str
    probability: float
    alternatives: tuple[Alternative, ...] = ()


def tokens_of(engine: Engine, request: Request, text: str) -> tuple[Token, ...]:
    """The tokens of an answer to a request, whose texts joined are the answer.

    Raises:
        UserError: the engine tells no probabilities, or not the text of its tokens.
    """
    [(_, scores)] = [one for batch in engine.token_logprobs([request], [text], TOP) for one in batch]
    if scores.error:
        raise UserError(f"The probabilities cannot be had: {scores.error}")
    ids = sorted({id for score in scores.tokens for id in (score.token, *(other for other, _ in score.top))})
    told = dict(zip(ids, engine.detokenize([[id] for id in ids]), strict=True))
    pieces = _pieces(engine, [score.token for score in scores.tokens], told)
    return tuple(
        _token(score, piece, told) for score, piece in zip(scores.tokens, _fitted(pieces, text), strict=True)
    )


def begun_anew(tokens: Sequence[Token], at: int, choice: int) -> str:
    """The answer up to a token, with one of the alternatives in its place.

    Raises:
        UserError: there is no such token or alternative, or the alternative has no text to go on with.
    """
    if not 0 <= at < len(tokens) or not 0 <= choice < len(tokens[at].alternatives):
        raise UserError("There is no such alternative. Choose a token first.")
    chosen = tokens[at].alternatives[choice].text
    if not chosen:
        raise UserError("This token ends the answer, so there is nothing to go on with.")
    return "".join(token.text for token in tokens[:at]) + chosen


def _token(score: TokenScore, piece: str, told: dict[int, str]) -> Token:
    others = tuple(
        # Part of a character cannot be put into a text, so nothing can go on behind it.
        Alternative("" if _BROKEN in told[id] else told[id], math.exp(logprob))
        for id, logprob in score.top
    )
    return Token(piece, math.exp(score.logprob), others)


def _pieces(engine: Engine, ids: Sequence[int], told: dict[int, str]) -> list[str]:
    """Each token's text; a run of tokens that are parts of characters has its text at its last token."""
    runs: list[list[int]] = []
    for place, id in enumerate(ids):
        if _BROKEN in told[id]:
            if runs and runs[-1][-1] == place - 1:
                runs[-1].append(place)
            else:
                runs.append([place])
    pieces = [told[id] for id in ids]
    for run, text in zip(runs, engine.detokenize([[ids[place] for place in run] for run in runs]), strict=True):
        for place in run:
            pieces[place] = ""
        pieces[run[-1]] = text
    return pieces


def _fitted(pieces: list[str], text: str) -> list[str]:
    """The pieces without blanks of the prompt's end that the first of them took, which must then be the text.

    Raises:
        UserError: they are another text.
    """
    joined = "".join(pieces)
    more = len(joined) - len(text)
    if more < 0 or joined[more:] != text or joined[:more].strip():
        raise UserError(
            "The model's tokenizer does not give this answer back as it is: its tokens cannot be shown."
        )
    for place, piece in enumerate(pieces):
        pieces[place], more = piece[more:], max(0, more - len(piece))
    return pieces
