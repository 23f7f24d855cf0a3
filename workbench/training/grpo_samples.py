"""What GRPO asks and what is answered: questions that fit, and samples of the model as it is, drawn right here."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from workbench.decodes import Sampling
from workbench.engines.encode import Encoder
from workbench.engines.hf import HfEngine
from workbench.engines.hf_stream import Row, first_stop
from workbench.engines.packing import Tokens
from workbench.errors import UserError
from workbench.prompts import render
from workbench.training.grpo_loss import Sample
from workbench.types import Example, Finish, Model, Prompt, Request


@dataclass(frozen=True)
class Question:
    """A practice question and its prompt's tokens."""

    example: Example
    prompt: list[int]


@dataclass(frozen=True)
class Answer:
    """One sample.

    Attributes:
        tokens: as they were drawn, the one that ended it among them.
        text: without special tokens and stop strings.
        whole: it was not cut off.
        logprobs: of the tokens, as a server tells them; None where it was drawn here.
    """

    tokens: list[int]
    text: str
    whole: bool
    logprobs: list[float | None] | None = None


class Sampler(Protocol):
    """Whoever draws answers from the model as it is."""

    def draw(self, questions: Sequence[Question], step: int) -> list[list[Answer]]:
        """The samples of each question, for the update that comes after `step`."""


class HfSampler:
    """The embedded engine around the weights that learn.

    A sample depends on the seed, the update, its question and its index alone, so a training that goes on draws
    what it would have drawn.

    Args:
        weights: with the adapter, if one learns.
        encoder: the model's.
        model: what the weights are, in words for errors.
        sampling: how tokens are drawn, and the training's seed.
        count: samples a question.
        autocast: gives what passes run under.

    Raises:
        UserError: the engine cannot run the architecture.
    """

    def __init__(
        self, weights: Any, encoder: Encoder, model: Model, sampling: Sampling, count: int,
        autocast: AbstractContextManager[Any],
    ) -> None:  # fmt: skip
        self._engine = HfEngine(model, device=str(weights.device), loaded=(weights, encoder))
        self._weights, self._sampling, self._count = weights, sampling, count
        self._autocast = autocast

    def draw(self, questions: Sequence[Question], step: int) -> list[list[Answer]]:
        """As in `Sampler`; the weights are in evaluation mode afterwards."""
        self._weights.eval()
        groups = [
            [Row(Request(f"{step}:{q.example.id}", ()), i, list(q.prompt)) for i in range(self._count)]
            for q in questions
        ]
        with self._autocast:
            self._engine.complete([row for rows in groups for row in rows], self._sampling)
        return [[self._answer(row) for row in rows] for rows in groups]

    def _answer(self, row: Row) -> Answer:
        text = text_of(self._engine.encoder, row.tokens, self._sampling.stop)
        return Answer(row.tokens, text, row.finish is Finish.STOP)


def text_of(encoder: Encoder, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """What an answer's tokens say, up to the first stop string."""
    text = encoder.decode(tokens)
    return text[: first_stop(text, stop)]


def questions_of(
    examples: Sequence[Example], prompt: Prompt, encoder: Encoder, longest: int
) -> tuple[list[Question], int]:
    """The examples as questions, and how many are left out because they have more than `longest` tokens.

    Raises:
        UserError: none is left.
    """
    questions = [
        Question(example, encoder.encode(Request(example.id, render(prompt, example), style=prompt.style)))
        for example in examples
    ]
    kept = [question for question in questions if 2 <= len(question.prompt) <= longest]
    if not kept:
        raise UserError(
            f"No question of {len(questions)} leaves room for an answer: prompts may have {longest} tokens. Raise "
            "--max-length, or lower --longest."
        )
    return kept, len(questions) - len(kept)


def row_of(prompt: Sequence[int], answer: Sequence[int]) -> Tokens:
    """An answer behind its prompt, with the answer's tokens as what is read."""
    ids = [*prompt, *answer]
    return Tokens(ids, list(range(len(prompt), len(ids))))


def spare(question: Question) -> Sample:
    """What passes where a process has nothing to learn from: it counts nothing."""
    return Sample(question.prompt[:-1], question.prompt[-1:], 0.0, [0.0])
