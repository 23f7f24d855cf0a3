"""Which exemplars a question sees: the nearest first, in a stable order, and never the question itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from workbench.engines.fake import FakeEngine
from workbench.exemplars import choose
from workbench.types import Example, Model, Order, Selection, Shots

POOL = tuple(
    Example.make(text, "?")
    for text in ("What is 7 + 8?", "What is 7 + 9?", "What is 70 × 3?", "The cat sat.", "The cat sat down again.")
)
ENGINE = FakeEngine(Model("fake"))


def asked(text: str) -> Example:
    return Example.make(text, "?")


def chosen(
    text: str, k: int, selection: Selection, order: Order = Order.NEAREST_FIRST, pool: Sequence[Example] = POOL
) -> list[str]:
    [found] = choose(Shots(tuple(pool), k, selection, order), [asked(text)], ENGINE)
    return [example.input for example in found]


@pytest.mark.parametrize("selection", [Selection.BM25, Selection.EMBEDDING])
def test_neighbours_share_words_with_the_question(selection: Selection) -> None:
    near = chosen("What is 7 + 10?", 2, selection)
    assert set(near) == {"What is 7 + 8?", "What is 7 + 9?"}
    assert set(chosen("A cat sat down", 2, selection)) == {"The cat sat.", "The cat sat down again."}


@pytest.mark.parametrize("selection", [Selection.BM25, Selection.EMBEDDING])
def test_the_order_is_nearest_first_or_the_reverse(selection: Selection) -> None:
    first = chosen("The cat sat down again, what is 7?", 4, selection)
    assert first[0] == "The cat sat down again."
    assert chosen("The cat sat down again, what is 7?", 4, selection, Order.NEAREST_LAST) == first[::-1]


@pytest.mark.parametrize("selection", list(Selection))
def test_the_question_itself_is_left_out(selection: Selection) -> None:
    found = chosen("What  is 7 + 8?", 4, selection)  # the same question, its white space aside
    assert sorted(found) == sorted(example.input for example in POOL[1:])


@pytest.mark.parametrize("selection", [Selection.BM25, Selection.EMBEDDING])
def test_equally_near_exemplars_stand_in_the_order_of_the_pool(selection: Selection) -> None:
    same = [Example.make(text, "?") for text in ("b a", "a b", "a  b a b")][:2]
    assert chosen("a b c", 2, selection, pool=same) == ["b a", "a b"]
    assert chosen("a b c", 2, selection, pool=same[::-1]) == ["a b", "b a"]


def test_bm25_of_a_question_that_shares_nothing_takes_the_pool_as_it_stands() -> None:
    assert chosen("Жизнь прекрасна", 2, Selection.BM25) == ["What is 7 + 8?", "What is 7 + 9?"]
    assert chosen(" ", 2, Selection.BM25) == ["What is 7 + 8?", "What is 7 + 9?"]


def test_bm25_is_the_formula() -> None:
    """Lucene's BM25 (k1 = 1.5, b = 0.75) by hand: the rarer word weighs more, the shorter text wins."""
    pool = [Example.make(text, "?") for text in ("x common", "common", "common y z w")]

    def score(words: list[str], query: list[str]) -> float:
        texts = [example.input.split() for example in pool]
        mean = sum(map(len, texts)) / len(texts)
        total = 0.0
        for word in query:
            having = sum(word in text for text in texts)
            idf = np.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            count = words.count(word)
            total += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))
        return total

    expected = sorted(pool, key=lambda e: -score(e.input.split(), ["common", "y"]))
    assert chosen("common y", 3, Selection.BM25, pool=pool) == [example.input for example in expected]


def test_fixed_exemplars_are_the_pool_in_its_order_for_every_question() -> None:
    [one, two] = choose(Shots(POOL[:3], 2), [asked("a"), asked("b")], ENGINE)
    assert one == two == POOL[:2]


def test_embedding_neighbours_by_the_models_own_states(tiny_model: Path) -> None:
    from workbench.engines.hf import HfEngine

    engine = HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu")
    texts = [example.input for example in POOL]
    question = "The cat sat down."
    vectors = engine.embed([*texts, question]).astype(float)
    cosines = [v @ vectors[-1] / np.linalg.norm(v) / np.linalg.norm(vectors[-1]) for v in vectors[:-1]]
    expected = [texts[i] for i in np.argsort(-np.array(cosines), kind="stable")]
    [found] = choose(Shots(POOL, 5, Selection.EMBEDDING), [asked(question)], engine)
    assert [example.input for example in found] == expected
