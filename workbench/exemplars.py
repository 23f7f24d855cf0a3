"""Which exemplars each question sees: the selection that a few-shot prompt's `Shots` describes.

Nearest neighbours are those of KATE (Liu et al. 2021, arXiv 2101.06804): by BM25 over words, or by the cosine
of the model's own mean-pooled hidden states. The pool is made of practice examples; one that asks the very
question is left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.engines.base import Engine
from workbench.types import Example, Order, Selection, Shots


def choose(shots: Shots, questions: Sequence[Example], engine: Engine) -> list[tuple[Example, ...]]:
    """The exemplars of each question, in the order in which the prompt shows them.

    Raises:
        UserError: `embedding` with an engine that cannot embed.
    """
    if shots.selection is Selection.FIXED:
        return [tuple(e for e in shots.pool if e.id != q.id)[: shots.k] for q in questions]
    pool = [example.input for example in shots.pool]
    asked = [question.input for question in questions]
    if shots.selection is Selection.BM25:
        scores_QP = _bm25(pool, asked)
    else:
        scores_QP = _cosines(engine.embed(pool), engine.embed(asked))
    chosen = []
    for question, row in zip(questions, scores_QP, strict=True):
        # A stable sort: equally near exemplars stand in the pool's order.
        nearest = [shots.pool[i] for i in np.argsort(-row, kind="stable")]
        taken = [example for example in nearest if example.id != question.id][: shots.k]
        chosen.append(tuple(taken if shots.order is Order.NEAREST_FIRST else reversed(taken)))
    return chosen


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
