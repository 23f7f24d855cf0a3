"""From a server's JSON to completions: what is missing or unfinished becomes an error, never an answer."""

import math
from collections.abc import Sequence
from typing import Any

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
        share = usage["completion_tokens"] // len(run)  # for a server that gives no log-probabilities
        return [
            _read_sample(index, choices.get(place), usage["prompt_tokens"], share, seconds / len(run))
            for place, index in enumerate(run)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServerError(f"The answer lacks what it must have ({error!r}): {str(answer)[:200]}") from None


def _read_sample(
    index: int, choice: dict[str, Any] | None, prompt_tokens: int, share: int, seconds: float
) -> Completion:
    if choice is None:
        error = "The server gave fewer samples than were asked for."
        return Completion(index, "", finish=Finish.ERROR, error=error)
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    reason = choice["finish_reason"]
    if reason not in FINISHES or not isinstance(text, str):
        error = f"The sample ended with {reason!r} and {'text' if isinstance(text, str) else 'no text'}."
        return Completion(index, "", finish=Finish.ERROR, error=error)
    told = choice.get("logprobs") or {}
    chat = told.get("content") or ()
    # One per token, the end-of-turn token among them: `usage` has only the sum over the samples.
    scores = [token["logprob"] for token in chat] or told.get("token_logprobs") or []
    return Completion(
        index=index,
        text=text,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(scores) or share,
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


def _finite(logprob: float) -> float:
    if not math.isfinite(logprob):
        raise ValueError(f"a log-probability is {logprob}")
    return logprob
