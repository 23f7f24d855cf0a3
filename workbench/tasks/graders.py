r"""Graders: from a text that a model wrote to the answer it gives, and whether that is right.

Each grader reads one answer, spells equal answers equally (so that votes can be counted), and says None where
there is none; None is never right, and equals nothing.
"""

import re
from collections.abc import Callable, Sequence

from workbench.errors import UserError
from workbench.killable import Killed
from workbench.tasks.base import Grade
from workbench.tasks.checker import shared_checker
from workbench.tasks.numbers import MAX_LINE, MAX_MARKERS, find_expression, find_number, read_number
from workbench.types import Example

Grader = Callable[[str, Example], Grade]

NO_ANSWER = Grade(None, False)
UNCHECKED = Grade(None, False, checked=False)

_EXPLICIT = re.compile(r"\b(?:answer|label|class|category|sentiment)(?: is\b|\W{0,4}:)", re.IGNORECASE)


def grade_number(text: str, example: Example) -> Grade:
    r"""The number that the text gives, compared with the target as a number (see `numbers.find_number`).

    An answer that is more than a number, and any answer where the target is no number, is an expression and
    goes to math-verify. A check that had to be killed is no answer.
    """
    target = read_number(example.target)
    answer = find_number(text) if target is not None else None
    if answer is not None:
        return Grade(answer, answer == target)
    expression = find_expression(text)
    if expression is None:
        return NO_ANSWER
    try:
        spelling, correct = shared_checker().math(expression, example.target)
    except Killed:
        return UNCHECKED
    # An expression worth a plain number votes with those who wrote the number.
    spelling = None if spelling is None else read_number(spelling) or spelling
    return Grade(spelling, spelling is not None and correct)


def grade_exact(text: str, example: Example) -> Grade:
    """The whole text, white space folded, is the answer. Upper and lower case differ."""
    answer = " ".join(text.split())
    return Grade(answer, answer == " ".join(example.target.split())) if answer else NO_ANSWER


def label_grader(labels: Sequence[str]) -> Grader:
    """A grader that finds one of the labels as a whole word, in any case; of overlapping ones the longest.

    The last label that follows "answer is", "label:", "sentiment:" or the like in its sentence decides.
    Without such words the text must name one label only: one that names two has not decided.

    Raises:
        UserError: there are fewer than two labels, or two differ by case only.
    """
    spelling = {label.casefold(): label for label in labels}
    if len(spelling) < 2 or len(spelling) < len(labels):
        raise UserError(f"labels is {', '.join(labels)!r}; it must be two or more different labels.")
    longest_first = sorted(labels, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)

    def grade(text: str, example: Example) -> Grade:
        for marker in reversed(list(_EXPLICIT.finditer(text))[-MAX_MARKERS:]):
            sentence = re.split(r"[.!?\n]", text[marker.end() : marker.end() + MAX_LINE].lstrip(), maxsplit=1)[0]
            if match := pattern.search(sentence):
                break
        else:
            found = {match.group().casefold() for match in pattern.finditer(text)}
            match = pattern.search(text) if len(found) == 1 else None
        if match is None:
            return NO_ANSWER
        answer = spelling[match.group().casefold()]
        return Grade(answer, answer.casefold() == example.target.casefold())

    return grade


def regex_grader(pattern: str) -> Grader:
    """A grader whose answer is the pattern's last match (its first group, if it has one), as exact text.

    The search runs under the checker's time limit: a pattern may need exponential time on some texts.

    Raises:
        UserError: the pattern is no regular expression.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"The pattern {pattern!r} is no regular expression: {error}.") from None

    def grade(text: str, example: Example) -> Grade:
        try:
            answer = shared_checker().search(pattern, text)
        except Killed:
            return UNCHECKED
        return grade_exact(answer or "", example)

    return grade
