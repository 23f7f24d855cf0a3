"""Forgetting: what a tuned model lost on general text, and on other tasks, measured before and after.

Biderman et al. 2024 (arXiv 2405.09673, §4.2): "LoRA learns less and forgets less" is seen on what was not tuned
on. Here that is the loss on held-out text, by default `general_text.txt`, written for this project and so in
nobody's training data, and on request the accuracy on the dev split of other tasks.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.stats import ratio_interval
from workbench.types import Interval, Message, Request

GENERAL_TEXT = Path(__file__).parent / "general_text.txt"
FEWEST = 8  # paragraphs: the interval resamples them

Losses = list[tuple[float, int]]
"""Of each paragraph the sum of its tokens' losses in nats, and how many tokens were predicted."""


def read_paragraphs(path: str | Path | None = None) -> tuple[str, ...]:
    """A text's paragraphs, which blank lines part; None is the project's own text of 48 paragraphs.

    Raises:
        UserError: the file cannot be read as UTF-8, has fewer than 8 paragraphs, or one of a single word.
    """
    source = Path(path or GENERAL_TEXT)
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 ({error}); save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"The text {source} could not be read: {error.strerror or error}.") from error
    paragraphs = tuple(part.strip() for part in re.split(r"\n[ \t]*\n", text) if part.strip())
    if len(paragraphs) < FEWEST:
        raise UserError(
            f"{source} has {len(paragraphs)} paragraphs; it needs {FEWEST}, parted by blank lines, because the "
            "interval of the loss is found by resampling them."
        )
    for number, paragraph in enumerate(paragraphs, start=1):
        if len(paragraph.split()) < 2:
            raise UserError(
                f"Paragraph {number} of {source} is the single word {paragraph[:40]!r}; its first word is only "
                "read, so that a paragraph needs two."
            )
    return paragraphs


def text_losses(engine: Engine, paragraphs: Sequence[str]) -> Losses:
    """The negative log-likelihood of each paragraph under a model, teacher-forced, in the paragraphs' order.

    The first word is read, behind whatever the tokenizer puts before a text, and the rest is predicted.

    Args:
        engine: the model's.
        paragraphs: of two words or more.

    Raises:
        UserError: the engine tells no log-probabilities, or a paragraph is longer than the model's context.
    """
    requests, rests = [], []
    for place, paragraph in enumerate(paragraphs):
        first = paragraph.split(maxsplit=1)[0]
        requests.append(Request(str(place), (Message("user", first),), style="text"))
        rests.append([paragraph[len(first) :]])
    found = {int(name): completion for batch in engine.logprobs(requests, rests) for name, completion in batch}
    losses = []
    for place in range(len(paragraphs)):
        scored = found[place]
        if scored.error is not None:
            raise UserError(f"Paragraph {place + 1} of the text could not be scored: {scored.error}.")
        if scored.logprob is None or not math.isfinite(scored.logprob):
            raise UserError(
                f"The loss of paragraph {place + 1} of the text is unknown: the engine gave the log-probability "
                f"{scored.logprob}."
            )
        losses.append((-scored.logprob, scored.completion_tokens))
    return losses


def mean_loss(losses: Losses) -> Interval:
    """Loss in nats a token over all paragraphs, with its interval by bootstrap over paragraphs."""
    return ratio_interval([loss for loss, _ in losses], [tokens for _, tokens in losses])


def perplexity(losses: Losses) -> Interval:
    """e to the mean loss, and to its interval's ends."""
    loss = mean_loss(losses)
    return replace(loss, value=math.exp(loss.value), low=math.exp(loss.low), high=math.exp(loss.high))
