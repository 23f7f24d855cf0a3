r"""Numbers in text: where an answer stands, what it is worth, and its one canonical spelling.

"$1,234.50", "1234.5", "+1.2345e3" and "2469/2" are one answer, and are spelled "1234.5". Values are exact
fractions, so nothing is equal by rounding: 0.333 is not 1/3. A percent sign is a unit, like a currency: 50%
is 50, as in GSM8K's targets. A comma groups thousands; "1.234,50" is not read as one number.
"""

import re
from decimal import Decimal, localcontext
from fractions import Fraction

MAX_DIGITS = 400  # of a number or an exponent's value: past it, text is no answer but an attack on the reader

# A text of nothing but markers is not read for ever: the last so many count, with so many characters each.
MAX_MARKERS, MAX_LINE = 20, 1000

# Quantifiers are possessive (`++`), so that a refused number is not tried again one digit shorter.
_UNSIGNED = r"(?:\d{1,3}(?:,\d{3}){1,200}+(?!\d)(?:\.\d++)?+|\d++(?:\.\d++)?+|\.\d++)(?:[eE][-+]?\d++)?+"
_NUMBER = re.compile(
    rf"""
    (?<![\w.^]) (?<!\^\{{) (?<![\d)]\*\*) (?<!\d/)  # not inside a word, a decimal, an exponent, a date
    (?P<sign>[-+]?) (?:[$€£¥]\s?)? (?P<inner>[-+]?)
    (?: (?:(?P<whole>\d++)[ ])? (?P<top>\d++)\s?/\s?(?P<bottom>\d++) (?![\d.]*/\s?\d)
      | (?P<plain>{_UNSIGNED}) )
    (?! \s?\^ | \*\*[\d(+-] )                    # not the base of a power
    """,
    re.VERBOSE,
)

_MARKER = re.compile(
    r"""
    (?P<hash>\#{4})
    | \\boxed\s?(?P<boxed>\{)
    | \banswer(?:\ \w{1,20}){0,5}?\ (?P<is>is|equals)\b
    | (?P<line>\banswer\s?\*{0,2}\s?: | ^[ \t>*]*A\s?:)
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)

_EXPRESSION = re.compile(r"[\d\s+\-*/×÷().,$=]*=\s*")  # "7 + 8 = ": what is asked, before what it is worth
_BEYOND = re.compile(r"\^|\*\*[\d(]|\\[A-Za-z]")  # powers and LaTeX: more than a number
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TOWER = re.compile(r"(?<!\w)\w++(?:(?:\*\*|\^)\w++)++")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


def canonical(value: Fraction) -> str:
    """The one spelling of a value: digits with a point where that is exact, else "n/d"."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    with localcontext() as context:
        context.prec = 4 * MAX_DIGITS
        digits = f"{Decimal(value.numerator) / Decimal(value.denominator):f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _value(match: re.Match[str]) -> Fraction | None:
    if sum(character.isdigit() for character in match.group()) > MAX_DIGITS:
        return None
    if match["plain"]:
        number = Decimal(match["plain"].replace(",", ""))
        if abs(number.adjusted()) > MAX_DIGITS:
            return None
        value = Fraction(number)
    else:
        if int(match["bottom"]) == 0:
            return None
        value = Fraction(int(match["top"]), int(match["bottom"])) + int(match["whole"] or 0)
    return -value if "-" in (match["sign"], match["inner"]) else value


def _plain(text: str) -> str:
    """Text with LaTeX's and Unicode's spellings of a number turned into the plain ones."""
    text = text.replace("\u2212", "-").replace("\u2013", "-").replace("{,}", ",").replace("\\$", "$")
    text = re.sub(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", text)
    text = re.sub(r"(?<=\d)\s?(?:×|x|\*|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?\{?([-+]?\d{1,9})\}?", r"e\1", text)
    return re.sub(r"(?<=\d) \*\* (?=[\d(])", "**", text)


def _numbers(text: str) -> list[str]:
    values = (_value(match) for match in _NUMBER.finditer(text))
    return [canonical(value) for value in values if value is not None]


def read_number(text: str) -> str | None:
    """The number that the whole text is, in its canonical spelling; None where it is anything else.

    White space, a currency, a percent sign, a trailing dot, dollar signs and a unit's words may stand around
    it: "$15$", "15%", "15 apples".
    """
    text = re.sub(r"\\text\{[^{}]*\}|\\[%!,; ]", " ", _plain(text)).strip().strip("*")
    match = _NUMBER.match(text)
    if match is None or not re.fullmatch(r"\s*[%$]?(?:\s*[^\W\d_]+)*\s*\.?\$?", text[match.end() :][:200]):
        return None
    value = _value(match)
    return None if value is None else canonical(value)


def last_boxed(text: str) -> str | None:
    r"""What stands in the text's last \boxed{…}, braces matched; None where none is closed."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\boxed {"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return text[start:position]
    return None


def find_number(text: str) -> str | None:
    r"""The number that a text gives as its answer, in its canonical spelling, or None.

    The last explicit marker decides: "#### N", "The answer is N", "A: N", "Answer: N", "\boxed{N}"; a text
    that first recites worked examples is thus read by its own answer, not by theirs. After a marker, "7 + 8 =
    15" is 15. Without a marker it is the last number of the text, which is also the N of a final "= N".
    A \boxed{…} that holds more than a number, and the parts of a power such as 9**9, are no number.
    """
    text = _plain(text)
    for marker in reversed(list(_MARKER.finditer(text))[-MAX_MARKERS:]):
        if marker["boxed"]:
            content = last_boxed(text)
            return None if content is None else read_number(content)
        line = text[marker.end() : marker.end() + MAX_LINE].lstrip(" \t\n:*").partition("\n")[0]
        sentence = line if marker["line"] else _SENTENCE_END.split(line, maxsplit=1)[0]
        expression = _EXPRESSION.match(sentence)
        found = _numbers(sentence[expression.end() if expression else 0 :])
        if marker["line"] and len(found) > 1 and not expression:
            found = _numbers(text[marker.end() :])[-1:]  # "A: First, 3 apples and 4 apples …": reasoning follows
        if found:
            return found[0]
        if _BEYOND.search(sentence):
            return None  # the answer is an expression, which `find_expression` finds
    found = _numbers(text)
    return found[-1] if found else None


def find_expression(text: str) -> str | None:
    r"""The expression that a text gives as its answer, as it is written, or None.

    It is what the last \boxed{…} holds, else the sentence after the last marker, else the text itself. A
    sentence with words in it (three letters or more, LaTeX's own aside) is no expression.
    """
    found = last_boxed(text)
    if found is None:
        markers = list(_MARKER.finditer(text))
        found = text[markers[-1].end() :] if markers else text
        found = _SENTENCE_END.split(found.lstrip(" \t\n:*"), maxsplit=1)[0]
    found = re.sub(r"\\text\{[^{}]*\}", " ", found).strip(" \t\n.$").removeprefix("\\(").removesuffix("\\)")
    if not found or _WORD.search(found):
        return None
    # 9**9**9 is 9^{9^{9}}: powers are taken from the right, which LaTeX's readers do not do by themselves.
    return _TOWER.sub(_braces, found).replace("**", "^")


def _braces(tower: re.Match[str]) -> str:
    levels = re.split(r"\*\*|\^", tower.group())
    return "^{".join(levels) + "}" * (len(levels) - 1)
