"""Which exemplars a question sees: the nearest first, in a stable order, and never the question itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.exemplars import choose, choose_fitting, dropped_note
from workbench.types import Example, Message, Model, Order, Prompt, Request, Selection, Shots

POOL = tuple(
    Example.make(text, "?")
    for text in ("What is 7 + 8?", "What is 7 + 9?", "What is 70 × 3?", "The cat sat.", "The cat sat down again.")
)
ENGINE = FakeEngine(Model("fake"))
NEAREST = [Selection.BM25, Selection.EMBEDDING, Selection.SENTENCE]


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence vectors without a model; tests/test_sentence_encoder.py has a real one."""
    monkeypatch.setattr("workbench.exemplars.sentence_vectors", lambda encoder, texts: ENGINE.embed(texts))


def asked(text: str) -> Example:
    return Example.make(text, "?")


def chosen(
    text: str, k: int, selection: Selection, order: Order = Order.NEAREST_FIRST, pool: Sequence[Example] = POOL
) -> list[str]:
    [found] = choose(Shots(tuple(pool), k, selection, order, encoder="encoder"), [asked(text)], ENGINE)
    return [example.input for example in found]


@pytest.mark.parametrize("selection", NEAREST)
def test_neighbours_share_words_with_the_question(selection: Selection) -> None:
    near = chosen("What is 7 + 10?", 2, selection)
    assert set(near) == {"What is 7 + 8?", "What is 7 + 9?"}
    assert set(chosen("A cat sat down", 2, selection)) == {"The cat sat.", "The cat sat down again."}


@pytest.mark.parametrize("selection", NEAREST)
def test_the_order_is_nearest_first_or_the_reverse(selection: Selection) -> None:
    first = chosen("The cat sat down again, what is 7?", 4, selection)
    assert first[0] == "The cat sat down again."
    assert chosen("The cat sat down again, what is 7?", 4, selection, Order.NEAREST_LAST) == first[::-1]


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("selection", list(Selection))
def test_the_question_itself_is_left_out(selection: Selection, order: Order) -> None:
    found = chosen("What  is 7 + 8?", 4, selection, order)  # the same question, its white space aside
    assert sorted(found) == sorted(example.input for example in POOL[1:])


def test_a_fixed_set_that_holds_the_question_shows_one_fewer() -> None:
    assert chosen("What is 7 + 8?", 3, Selection.FIXED, pool=POOL[:3]) == ["What is 7 + 9?", "What is 70 × 3?"]


@pytest.mark.parametrize("selection", NEAREST)
def test_seeded_neighbours_are_the_nearest_shuffled_for_each_question(selection: Selection) -> None:
    questions = [asked(f"The cat sat down again, what is {n} + 7?") for n in range(12)]

    def orders(seed: int) -> list[tuple[Example, ...]]:
        return choose(Shots(POOL, 3, selection, Order.SEEDED, seed, "encoder"), questions, ENGINE)

    plain = choose(Shots(POOL, 3, selection, encoder="encoder"), questions, ENGINE)
    assert orders(1) == orders(1) != orders(2)
    assert [set(shown) for shown in orders(1)] == [set(shown) for shown in plain]
    places = {tuple(near.index(e) for e in shown) for near, shown in zip(plain, orders(1), strict=True)}
    assert len(places) > 1, "each question has a shuffle of its own"
    alone = choose(Shots(POOL, 3, selection, Order.SEEDED, 1, "encoder"), questions[5:6], ENGINE)
    assert alone == orders(1)[5:6], "whatever else is asked"


def test_seeded_fixed_exemplars_are_shuffled_once() -> None:
    questions = [asked("a"), asked("b"), asked(POOL[2].input)]

    def orders(seed: int) -> list[tuple[Example, ...]]:
        return choose(Shots(POOL, 5, order=Order.SEEDED, order_seed=seed), questions, ENGINE)

    first, second, own = orders(1)
    assert first == second and sorted(e.id for e in first) == sorted(e.id for e in POOL)
    assert own == tuple(e for e in first if e != POOL[2])
    assert len({tuple(orders(seed)[0]) for seed in range(10)}) > 5


def test_an_encoder_must_be_named() -> None:
    with pytest.raises(UserError, match="no encoder is named"):
        choose(Shots(POOL, 1, Selection.SENTENCE), [asked("a")], ENGINE)


@pytest.mark.parametrize("selection", NEAREST)
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


# --- the context ------------------------------------------------------------------------------------

# A question of q words behind n exemplars has 2 + 4 n + q tokens: two system words, three words and a target each.
PROMPT = Prompt(
    "p",
    (Message("system", "Be good."), Message("user", "{{ input }}")),
    (Message("user", "{{ input }}"), Message("assistant", "{{ target }}")),
)
THREES = tuple(Example.make(f"word{n} word{n} w{n}", str(n)) for n in range(5))


def fitting(
    context: int | None, questions: Sequence[str], instead: Sequence[str] = (), room: int = 3, **shots: Any
) -> tuple[list[list[str]], list[int]]:
    engine = FakeEngine(Model("fake"))
    engine.context = context
    prompt = replace(PROMPT, shots=Shots(THREES, 4, **shots))
    shown, dropped = choose_fitting(prompt, [asked(q) for q in questions], engine, room, instead)
    return [[e.target for e in several] for several in shown], dropped


def test_fixed_exemplars_leave_from_the_front_until_prompt_and_answer_fit() -> None:
    """2 + 4·4 + 1 + 3 = 22 tokens for the question of one word, 23 for that of two."""
    questions = ["one", "one two", "one two three four five six"]
    assert fitting(None, questions)[1] == fitting(1000, questions)[1] == [0, 0, 0]
    assert fitting(22, questions) == ([["0", "1", "2", "3"], ["1", "2", "3"], ["2", "3"]], [0, 1, 2])
    assert fitting(21, ["one"]) == ([["1", "2", "3"]], [1])
    assert fitting(10, ["one"]) == ([["3"]], [3])
    assert fitting(9, ["one"]) == fitting(1, ["one"]) == ([[]], [4]), "zero-shot: the engine decides"


@pytest.mark.parametrize(
    ("order", "whole", "kept"),
    [
        (Order.NEAREST_FIRST, ["3", "0", "1", "2"], ["3", "0"]),
        (Order.NEAREST_LAST, ["2", "1", "0", "3"], ["0", "3"]),
    ],
)
def test_of_neighbours_the_least_near_leaves_first(order: Order, whole: list[str], kept: list[str]) -> None:
    shots: dict[str, Any] = {"selection": Selection.BM25, "order": order}
    assert fitting(22, ["w3"], **shots) == ([whole], [0])
    assert fitting(14, ["w3"], **shots) == ([kept], [2])


def test_seeded_neighbours_keep_their_order_when_the_least_near_leave() -> None:
    for seed in range(10):
        shots: dict[str, Any] = {"selection": Selection.BM25, "order": Order.SEEDED, "order_seed": seed}
        [whole], _ = fitting(22, ["w3"], **shots)
        assert fitting(14, ["w3"], **shots) == ([[e for e in whole if e in ("3", "0")]], [2])


def test_what_stands_in_the_questions_place_must_fit_too() -> None:
    assert fitting(22, ["one"], instead=["", "two words"]) == ([["1", "2", "3"]], [1])
    assert fitting(22, ["one"], instead=["", "word"]) == ([["0", "1", "2", "3"]], [0])


def test_each_prompt_is_counted_once_and_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    count = FakeEngine.count_tokens

    def counting(self: FakeEngine, requests: Sequence[Request]) -> list[int]:
        counted.append(len(requests))
        assert len({request.messages for request in requests}) == len(requests)
        return count(self, requests)

    monkeypatch.setattr(FakeEngine, "count_tokens", counting)
    fitting(1000, ["a", "b", "c"], instead=["N/A", ""])
    assert counted == [3 + 2], "content-free prompts behind the same exemplars are one"
    counted.clear()
    fitting(12, ["a"])
    assert counted == [1, 1, 1], "four exemplars, then two, then one"


def test_the_note_counts_questions_by_what_they_lost() -> None:
    assert dropped_note([0, 0], 512) == ""
    assert dropped_note([0, 2, 1, 1, 0], 512) == (
        "The context of 512 tokens does not hold all exemplars of 3 of 5 questions: 2 lost 1, 1 lost 2, those "
        "furthest away first."
    )
