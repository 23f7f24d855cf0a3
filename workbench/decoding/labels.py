"""Classification by likelihood: which label the scores of a question say, plain or calibrated.

Contextual calibration (Zhao et al. 2021, arXiv 2102.09690): the question is also asked with texts that say
nothing in the place of its input ("N/A", "[MASK]", ""), behind the same exemplars. What the labels get there
is the prompt's own bias, and the question's label probabilities are divided by it. As in the paper a label's
probability is renormalised over the labels; here a label of several tokens has their product, or their
geometric mean where the decode normalises, while the paper's labels are single tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from workbench.decodes import LabelLikelihood
from workbench.errors import UserError
from workbench.identity import short_hash
from workbench.prompts import render
from workbench.stats import calibrated, label_probabilities
from workbench.types import Completion, Example, Finish, Prompt, Request


def check_labels(decode: LabelLikelihood, task: str, labels: Sequence[str]) -> None:
    """Refuse labels whose likelihoods cannot be compared.

    The likelihood of a label whose tokens begin another's is at least the other's, so that the longer one could
    never be the answer. Tokens are not looked at: a label that begins another one as text is enough. Dividing
    by lengths, or by what content-free inputs get, takes that lead away.

    Raises:
        UserError: the task has no labels, or one of them begins another; both are named.
    """
    if not labels:
        raise UserError(f"The task {task!r} has no labels to score; use another decode than likelihood.")
    if decode.normalize or decode.content_free:
        return
    for short, long in permutations(labels, 2):
        if long.startswith(short):
            raise UserError(
                f"The label {short!r} begins the label {long!r}, so {long!r} can never be the more likely of the "
                "two. Use --scoring mean-likelihood or --scoring generated."
            )


def content_free_requests(
    texts: Sequence[str], prompt: Prompt, question: Example, shown: Sequence[Example]
) -> list[Request]:
    """One request for each content-free text in the place of the question's input, behind its exemplars.

    A request's id is the hash of its conversation, so that questions with the same exemplars share it.
    """
    requests = []
    for text in texts:
        messages = render(prompt, replace(question, input=text), shown)
        requests.append(Request(f"content-free-{short_hash(messages)}", messages, style=prompt.style))
    return requests


def most_likely(
    decode: LabelLikelihood,
    labels: Sequence[str],
    scored: Sequence[Completion],
    content_free: Sequence[Sequence[Completion]],
) -> str | None:
    """The label that the scores say; equally likely ones go to the first. None where a score is missing.

    Args:
        decode: whether to normalise and to calibrate.
        labels: in the order of the completions' indices.
        scored: the question's completions, one a label.
        content_free: those of each content-free request, in any order.
    """
    scores = [_scores(decode, labels, found) for found in (scored, *content_free)]
    whole = [row for row in scores if row is not None]
    if len(whole) < len(scores):  # never an uncalibrated answer where a calibrated one was asked for
        return None
    if not decode.content_free:
        return labels[int(np.argmax(whole[0]))]
    p = label_probabilities(whole)
    return labels[int(np.argmax(calibrated(p[0], p[1:])))]


def first_of_two(scored: Sequence[Completion]) -> float | None:
    """The probability of the first of two texts beside the second, from their log-probabilities.

    None where one is missing or their difference is no number.
    """
    by_index = {c.index: c.logprob for c in scored if c.finish is not Finish.ERROR}
    first, second = by_index.get(0), by_index.get(1)
    if first is None or second is None or not math.isfinite(first - second):
        return None
    return 1 / (1 + math.exp(min(second - first, 700.0)))


def _scores(decode: LabelLikelihood, labels: Sequence[str], found: Sequence[Completion]) -> list[float] | None:
    """Log-probability of each label (nats), divided by its tokens where the decode normalises."""
    rows = {c.index: c for c in found if c.finish is not Finish.ERROR and c.logprob is not None}
    if len(rows) < len(labels):
        return None
    scores = []
    for index in range(len(labels)):
        logprob = rows[index].logprob
        assert logprob is not None
        scores.append(logprob / (rows[index].completion_tokens if decode.normalize else 1))
    return scores
