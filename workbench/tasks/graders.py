"""Graders: from a text that a model wrote to the answer it gives, and whether that is right."""

from workbench.tasks.base import Grade
from workbench.tasks.numbers import find_number, read_number
from workbench.types import Example


def grade_number(text: str, example: Example) -> Grade:
    """Compare the number that the text gives with the target, as numbers."""
    answer = find_number(text)
    return Grade(answer, answer is not None and answer == read_number(example.target))
