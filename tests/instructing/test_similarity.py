"""ROUGE-L: the worked numbers, what it must be for any texts, and the limit that is itself allowed."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.instructing.similarity import LIMIT, Pool, rouge_l, words

texts = st.lists(st.sampled_from("a b c d e 1".split()), max_size=12)  # noqa: SIM905


def longest_common(a: list[str], b: list[str]) -> int:
    """The textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def test_the_worked_number() -> None:
    a, b = words("write a short poem about the sea"), words("write a poem about the sea at night")
    assert longest_common(a, b) == 6
    assert rouge_l(a, b) == 0.8 > LIMIT


@given(texts, texts)
def test_it_is_the_f_measure(a: list[str], b: list[str]) -> None:
    common = longest_common(a, b)
    expected = Fraction(0)
    if common:
        precision, recall = Fraction(common, len(a)), Fraction(common, len(b))
        expected = 2 * precision * recall / (precision + recall)
    assert rouge_l(a, b) == rouge_l(b, a) == float(expected)
    assert (rouge_l(a, b) > LIMIT) == (expected > Fraction(7, 10))


@pytest.mark.parametrize("times", range(1, 60))
def test_seven_tenths_exactly_is_not_above(times: int) -> None:
    """Of 10 words each 7 are shared, and so on: a float that is off by its last digit would be above."""
    a = ["x"] * (7 * times) + ["a"] * (3 * times)
    b = ["x"] * (7 * times) + ["b"] * (3 * times)
    assert rouge_l(a, b) == LIMIT


def test_words_are_lower_case_letters_and_digits() -> None:
    assert words("Don't re-write 3.14, Ünï!") == ["don", "t", "re", "write", "3", "14", "n"]
    assert words("你好") == []
    assert rouge_l([], []) == 0


def test_no_stemmer() -> None:
    assert rouge_l(words("poems"), words("poem")) == 0


def test_the_nearest_of_a_pool() -> None:
    pool = Pool()
    assert pool.nearest("anything") == ("", 0.0)
    pool.add("a", "Name three birds")
    pool.add("b", "Name three fish")
    pool.add("c", "Name three fish")
    assert pool.nearest("Name three big fish") == ("b", 6 / 7)
    assert pool.nearest("zebra") == ("a", 0.0)


@given(st.lists(texts, max_size=8), texts)
def test_the_nearest_is_the_first_of_the_best(held: list[list[str]], text: list[str]) -> None:
    pool = Pool()
    for place, other in enumerate(held):
        pool.add(str(place), " ".join(other))
    scores = [rouge_l(text, other) for other in held]
    best = max(scores, default=0.0)
    assert pool.nearest(" ".join(text)) == (str(scores.index(best)) if held else "", best)
