"""From a server's JSON to completions: what is missing or unfinished becomes an error, never an answer."""

import math
from collections.abc import Sequence
from typing import Any

from workbench.engines.base import TokenScore
from workbench.engines.client import ServerError
from workbench.types import Completion, Finish

FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH}


def read_samples(answer: dict[str, Any], run: range, seconds: float) -> list[Completion]:
    """One completion for every index of the run, with `error` where its choice is missing or unfinished.

    Raises:
        ServerError: the answer is not of the form that the OpenAI API describes.
    """
    try:
        choices = {choice["index"]: choice for choice in answer["choices"]}
        usage = answer["usage"]
        told = [token_scores(choices[place]) if place in choices else None for place in range(len(run))]
        counts = token_counts([None if scores is None else len(scores) for scores in told], usage)
        return [
            _read_sample(
                index,
                choices.get(place),
                told[place] or [],
                usage["prompt_tokens"],
                counts[place],
                seconds / len(run),
            )
            for place, index in enumerate(run)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServerError(f"The answer lacks what it must have ({error!r}): {str(answer)[:200]}") from None


def token_scores(choice: dict[str, Any]) -> list[float]:
    """The log-probability of each token of a sample, or of a piece of one, the end-of-turn token among them."""
    told = choice.get("logprobs") or {}
    return [token["logprob"] for token in told.get("content") or ()] or told.get("token_logprobs") or []


def token_counts(scored: Sequence[int | None], usage: dict[str, Any]) -> list[int]:
    """Tokens of each sample, which together are what the server counted.

    A server tells the sum over the samples only. The log-probabilities that it gave, one a token, tell the
    samples' own; where they do not add up to its sum, that sum is shared out in their proportion.

    Args:
        scored: each sample's log-probabilities; 0 where a server gives none, None for a sample that is missing.
        usage: what the server counted.
    """
    total = usage["completion_tokens"]
    if not isinstance(total, int) or total < 0:
        raise ValueError(f"completion_tokens is {total!r}")
    if not any(scored):  # no log-probabilities at all: equal shares
        scored = [None if count is None else 1 for count in scored]
    weights = [count or 0 for count in scored]
    return _shared(total, weights) if any(weights) else weights


def _shared(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to the weights, which add up to the total: by largest remainders."""
    shares = [divmod(total * weight, sum(weights)) for weight in weights]
    left = total - sum(whole for whole, _ in shares)
    ranked = sorted(range(len(weights)), key=lambda place: -shares[place][1])
    return [whole + (place in ranked[:left]) for place, (whole, _) in enumerate(shares)]


def _read_sample(
    index: int, choice: dict[str, Any] | None, scores: list[float], prompt_tokens: int, tokens: int, seconds: float
) -> Completion:
    if choice is None:
        error = "The server gave fewer samples than were asked for."
        return Completion(index, "", finish=Finish.ERROR, error=error)
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    reason = choice["finish_reason"]
    if reason not in FINISHES or not isinstance(text, str):
        error = f"The sample ended with {reason!r} and {'text' if isinstance(text, str) else 'no text'}."
        return Completion(index, "", finish=Finish.ERROR, error=error)
    return Completion(
        index=index,
        text=text,
        prompt_tokens=prompt_tokens,
        completion_tokens=tokens,
        logprob=_finite(math.fsum(scores)) if scores else None,
        seconds=seconds,
        finish=FINISHES[reason],
    )


def read_scores(answer: dict[str, Any], prompt_tokens: int, owns: Sequence[list[int]]) -> list[float]:
    """The sum of each continuation's token log-probabilities, behind those of the prompt.

    Raises:
        ServerError: a log-probability is missing: an empty prompt, or a server that does not echo.
    """
    try:
        told = {choice["index"]: choice["logprobs"]["token_logprobs"] for choice in answer["choices"]}
        lengths = [len(told[place]) - prompt_tokens for place in range(len(owns))]
        if lengths != [len(own) for own in owns]:
            raise ValueError("not one for each token of the prompt and the continuation")
        return [_finite(math.fsum(told[place][prompt_tokens:])) for place in range(len(owns))]
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"The answer lacks log-probabilities ({error!r}): {str(answer)[:200]}") from None


def read_next(answer: dict[str, Any], prompts: int, ids: Sequence[int]) -> list[dict[int, float]]:
    """The log-probability of each of the tokens as the next one, for each prompt.

    Raises:
        ServerError: one is missing, NaN or infinite.
    """
    try:
        told = {choice["index"]: choice["logprobs"]["top_logprobs"][0] for choice in answer["choices"]}
        return [{token: _finite(told[place][f"token_id:{token}"]) for token in ids} for place in range(prompts)]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ServerError(f"The answer lacks log-probabilities ({error!r}): {str(answer)[:200]}") from None


def read_tokens(answer: dict[str, Any], before: int, own: Sequence[int], top: int) -> tuple[TokenScore, ...]:
    """Each token of a continuation, behind `before` tokens of its prompt, with the `top` most likely in its place.

    Raises:
        ServerError: one is missing, or the server does not tell tokens by their ids.
    """
    try:
        [choice] = answer["choices"]
        told = choice["logprobs"]
        scores = told["token_logprobs"][before:]
        if len(scores) != len(own):
            raise ValueError("not one for each token of the prompt and the continuation")
        likely = told["top_logprobs"][before:] if top else [{}] * len(own)
        return tuple(
            TokenScore(token, _finite(score), _likeliest(beside, top))
            for token, score, beside in zip(own, scores, likely, strict=True)
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServerError(f"The answer lacks log-probabilities ({error!r}): {str(answer)[:200]}") from None


def read_likely(answer: dict[str, Any], prompts: int, top: int) -> list[tuple[tuple[int, float], ...]]:
    """The `top` most likely next tokens behind each prompt.

    Raises:
        ServerError: as `read_tokens`.
    """
    try:
        told = {choice["index"]: choice["logprobs"]["top_logprobs"][0] for choice in answer["choices"]}
        return [_likeliest(told[place], top) for place in range(prompts)]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ServerError(f"The answer lacks log-probabilities ({error!r}): {str(answer)[:200]}") from None


def _likeliest(told: dict[str, float], top: int) -> tuple[tuple[int, float], ...]:
    """What a server tells of a place, the likeliest first; it tells the token that stands there in any case."""
    pairs = [(int(name.removeprefix("token_id:")), _finite(logprob)) for name, logprob in told.items()]
    if len(pairs) < top:
        raise ValueError(f"{len(pairs)} tokens instead of {top}")
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:top])


def _finite(logprob: float) -> float:
    if not math.isfinite(logprob):
        raise ValueError(f"a log-probability is {logprob}")
    return logprob
