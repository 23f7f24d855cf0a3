import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.tasks.numbers import canonical, find_expression, find_number, last_boxed, read_number

SPELLINGS = {
    "1234.5": ["1,234.50", "1234.5", "$1,234.50", "+1.2345e3", "1.2345 × 10^3", "2469/2", "1234 1/2"],
    "-7": ["-7", "−7", "–7", "-7.0", "$-7", "-$7", "-14/2"],
    "50": ["50%", "50 %", "50\\%", "050", "50.", "50 apples", "$50$"],
    "0.75": ["3/4", ".75", "\\frac{3}{4}", "\\dfrac{3}{4}", "75e-2"],
    "1/3": ["1/3", "2/6"],
    "0": ["0", "-0", "0.00"],
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [(v, t) for v, texts in SPELLINGS.items() for t in texts])
def test_spellings_of_a_number_are_one_answer(value, text):
    assert read_number(text) == value


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 72", "72"),
        ("4 + 5 = 9 and 9 * 8 = 72\n#### 1,072\n", "1072"),
        ("The answer is $1,234.50.", "1234.5"),
        ("The answer is 7 + 8 = 15.", "15"),
        ("The final answer is:\n\n**18**", "18"),
        ("The answer to the question is 5 because 3 + 2 is 5", "5"),
        ("A: 15", "15"),
        ("A: 7 + 8 = 15", "15"),
        ("A: First 3 and 4 make 7. Then 7 * 2 = 14. So 14 apples.", "14"),
        ("**Answer:** 12 apples", "12"),
        ("so we get \\boxed{42} in 3 steps", "42"),
        ("\\boxed{15\\text{ cm}}", "15"),
        ("\\boxed{\\frac{1}{2}}", "0.5"),
        ("7 + 8 = 15", "15"),
        ("I add 7 and 8 to get 15.", "15"),
        ("7-8", "8"),
        ("an area of 5 m^2", "5"),
        ("The answer is unknown, of 3 cats", "3"),
        ("The answer is 1,2 or 3", "1"),
        # a recited exemplar comes first, the own answer last
        ("Q: 2 + 2? A: The answer is 4.\nQ: 7 + 8? A: The answer is 15.", "15"),
        ("A: 4\n\nQ: 7 + 8\nA: 7 plus 8 makes 15", "15"),
        ("#### 4\n\n\\boxed{15}", "15"),
        ("9**9**9", None),
        ("The answer is 2^3", None),
        ("\\boxed{2\\sqrt{3}}", None),
        ("3/0", None),
        ("1e999999999", None),
        ("9" * 5000, None),
        ("no number", None),
        ("", None),
    ],
)
def test_answer_of_a_text(text, answer):
    assert find_number(text) == answer


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=4))
def test_any_formatting_of_a_decimal_reads_back_as_that_number(number):
    value = canonical(Fraction(number))
    assert Fraction(value) == Fraction(number)
    sign, size = ("-" if number < 0 else ""), abs(number)
    for text in (
        f"{number:f}",
        f"{number:,f}",
        f"{sign}${size:,f}",
        f"{number:f}%",
        f"{number:e}",
        f"{number:f}.",
    ):
        assert read_number(text) == value, text
        assert find_number(f"It took 3 steps. The answer is {text}") == value, text
        assert find_number(f"Of 12 things: {text}") == value, text


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_any_fraction_reads_back_as_that_number(top, bottom):
    value = canonical(Fraction(top, bottom))
    assert read_number(f"{top}/{bottom}") == value
    assert read_number(value) == value


@given(st.text())
def test_any_text_is_read_without_failing(text):
    for found in (find_number(text), read_number(text)):
        assert found is None or read_number(found) == found
    last_boxed(text)
    find_expression(text)


@pytest.mark.parametrize(
    "piece",
    ["9", "1,", "111,", "1/", "answer ", "answer is ", "A:\n", "\\boxed{", "\\text{", " ", "1.", "9**", "= "],
)
def test_reading_takes_linear_time(piece):
    start = time.process_time()
    for text in (piece * 20_000, piece * 20_000 + "1111"):
        find_number(text)
        read_number(text)
        find_expression(text)
    assert time.process_time() - start < 3


def test_last_boxed_matches_braces():
    assert last_boxed("\\boxed{1} and \\boxed{\\frac{a}{b}}") == "\\frac{a}{b}"
    assert last_boxed("\\boxed{1") is None
    assert last_boxed("nothing") is None


def test_expression_is_what_a_reader_of_latex_can_read():
    assert find_expression("The answer is $2\\sqrt{3}$.") == "2\\sqrt{3}"
    assert find_expression("9**9**9") == "9^{9^{9}}"
    assert find_expression("I do not know") is None


def test_canonical_is_exact():
    assert canonical(Fraction(Decimal("0.1"))) == "0.1"
    assert canonical(Fraction(10**30)) == "1" + "0" * 30
