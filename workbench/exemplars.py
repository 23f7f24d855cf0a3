"""Which exemplars each question sees: the selection that a few-shot prompt's `Shots` describes.

Nearest neighbours are those of KATE (Liu et al. 2021, arXiv 2101.06804): by BM25 over words, by the cosine of
the model's own mean-pooled hidden states, or by that of a sentence-transformers model's vectors. The pool is
made of practice examples; one that asks the very question is left out, so that a fixed set which holds the
question shows one fewer.

A prompt that outgrows the model's context loses exemplars from the far end: the least near of neighbours, of
fixed ones the first in the prompt, which is furthest from the question.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.prompts import render
from workbench.sentence_encoder import sentence_vectors
from workbench.types import Example, Message, Order, Prompt, Request, Selection, Shots


def choose(shots: Shots, questions: Sequence[Example], engine: Engine) -> list[tuple[Example, ...]]:
    """The exemplars of each question, in the order in which the prompt shows them.

    Raises:
        UserError: `embedding` with an engine that cannot embed, or an encoder that cannot be used.
    """
    wanted = zip(questions, _wanted(shots, questions, engine), strict=True)
    return [_arranged(shots, question, kept) for question, kept in wanted]


def choose_fitting(
    prompt: Prompt, questions: Sequence[Example], engine: Engine, room: int, instead: Sequence[str] = ()
) -> tuple[list[tuple[Example, ...]], list[int]]:
    """As `choose`, and as many as the engine's context holds with `room` tokens behind the prompt.

    A question that does not fit without any exemplar is left to the engine, as in zero-shot.

    Args:
        prompt: with its shots.
        questions: what is asked.
        engine: counts tokens; where its context is not known, nothing is dropped.
        room: tokens that the answer may need.
        instead: inputs that must fit in the question's place too, behind the same exemplars.

    Returns:
        The exemplars of each question, and how many each one lost.

    Raises:
        UserError: as `choose`, or an exemplar lacks what the prompt shows.
    """
    shots, context = prompt.shots, engine.context
    assert shots is not None
    if context is None:
        return choose(shots, questions, engine), [0] * len(questions)
    wanted = _wanted(shots, questions, engine)
    tokens: dict[tuple[Message, ...], int] = {}  # content-free prompts behind fixed exemplars are counted once

    def longest(counts: dict[int, int]) -> dict[int, int]:
        """Tokens of the longest prompt of each question, given how many exemplars it shows."""
        prompts = {}
        for place, count in counts.items():
            question = questions[place]
            shown = _arranged(shots, question, wanted[place][:count])
            asked = [question, *(replace(question, input=text) for text in instead)]
            prompts[place] = [render(prompt, example, shown) for example in asked]
        new = list(
            {messages: None for several in prompts.values() for messages in several if messages not in tokens}
        )
        requests = [Request("", messages, style=prompt.style) for messages in new]
        tokens.update(zip(new, engine.count_tokens(requests), strict=True))
        return {place: max(tokens[messages] for messages in several) for place, several in prompts.items()}

    # By halves, for all questions at once: more exemplars are more tokens.
    low, high = [0] * len(questions), [len(kept) for kept in wanted]
    trial = dict(enumerate(high))
    while trial := {place: count for place, count in trial.items() if count > low[place]}:
        for place, length in longest(trial).items():
            if length + room <= context:
                low[place] = trial[place]
            else:
                high[place] = trial[place] - 1
        trial = {place: (low[place] + high[place] + 1) // 2 for place in trial}
    shown = [_arranged(shots, q, kept[:count]) for q, kept, count in zip(questions, wanted, low, strict=True)]
    return shown, [len(kept) - count for kept, count in zip(wanted, low, strict=True)]


def dropped_note(dropped: Sequence[int], context: int | None) -> str:
    """How many questions lost how many exemplars to the context, as a sentence; empty where none did."""
    lost = sorted(Counter(count for count in dropped if count).items())
    if not lost:
        return ""
    each = ", ".join(f"{questions} lost {count}" for count, questions in lost)
    return (
        f"The context of {context} tokens does not hold all exemplars of {sum(n for _, n in lost)} of "
        f"{len(dropped)} questions: {each}, those furthest away first."
    )


def _wanted(shots: Shots, questions: Sequence[Example], engine: Engine) -> list[list[Example]]:
    """The exemplars of each question, the one that is given up last first."""
    if shots.selection is Selection.FIXED:
        order = list(range(len(shots.pool)))
        if shots.order is Order.SEEDED:
            random.Random(shots.order_seed).shuffle(order)
        place = {shots.pool[i].id: at for at, i in enumerate(order)}
        taken = [[e for e in shots.pool if e.id != question.id][: shots.k] for question in questions]
        return [sorted(several, key=lambda e: place[e.id], reverse=True) for several in taken]
    pool = [example.input for example in shots.pool]
    asked = [question.input for question in questions]
    if shots.selection is Selection.BM25:
        scores_QP = _bm25(pool, asked)
    elif shots.selection is Selection.EMBEDDING:
        scores_QP = _cosines(engine.embed(pool), engine.embed(asked))
    else:
        if shots.encoder is None:
            raise UserError("The exemplars are chosen by sentence-transformer, but no encoder is named.")
        vectors = sentence_vectors(shots.encoder, [*pool, *asked])
        scores_QP = _cosines(vectors[: len(pool)], vectors[len(pool) :])
    wanted = []
    for question, row in zip(questions, scores_QP, strict=True):
        # A stable sort: equally near exemplars stand in the pool's order.
        nearest = [shots.pool[i] for i in np.argsort(-row, kind="stable")]
        wanted.append([example for example in nearest if example.id != question.id][: shots.k])
    return wanted


def _arranged(shots: Shots, question: Example, kept: Sequence[Example]) -> tuple[Example, ...]:
    """What is left of a question's `_wanted`, in the order in which the prompt shows it."""
    if shots.selection is Selection.FIXED or shots.order is Order.NEAREST_LAST:
        return tuple(reversed(kept))
    if shots.order is Order.SEEDED:
        # A key for each rank: where the last ranks are dropped, the others keep their order.
        draw = random.Random(f"{shots.order_seed}:{question.id}")
        keys = [draw.random() for _ in kept]
        return tuple(kept[i] for i in sorted(range(len(kept)), key=keys.__getitem__))
    return tuple(kept)


def _bm25(pool: Sequence[str], asked: Sequence[str]) -> NDArray[np.floating]:
    """BM25 scores [questions, pool] (bm25s; Lucene's variant). Every character that is no space counts."""
    import bm25s

    # Numbers and signs are words here: in "What is 7 + 8?" they are all that tells questions apart.
    pattern = r"(?u)\w+|[^\w\s]"
    corpus = bm25s.tokenize(list(pool), stopwords=None, token_pattern=pattern, show_progress=False)
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    queries = bm25s.tokenize(
        list(asked), stopwords=None, token_pattern=pattern, show_progress=False, return_ids=False
    )
    nothing = np.zeros(len(pool))  # for a question without a word
    scores: NDArray[np.floating] = np.stack([index.get_scores(q) if q else nothing for q in queries])
    return scores


def _cosines(pool: NDArray[np.floating], asked: NDArray[np.floating]) -> NDArray[np.floating]:
    def unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
        lengths: NDArray[np.floating] = np.linalg.norm(rows, axis=1, keepdims=True)
        scaled: NDArray[np.floating] = rows / np.maximum(lengths, 1e-12)
        return scaled

    cosines: NDArray[np.floating] = unit(asked) @ unit(pool).T
    return cosines
