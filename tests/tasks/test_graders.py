import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from workbench.errors import UserError
from workbench.killable import Killed
from workbench.tasks.base import Grade
from workbench.tasks.checker import Checker, shared_checker
from workbench.tasks.graders import grade_exact, grade_number, label_grader, regex_grader
from workbench.types import Example

LABELS = ("negative", "neutral", "positive")
UNANSWERED = Grade(None, False)
UNCHECKED = Grade(None, False, checked=False)  # the check was killed


def example(target: str) -> Example:
    return Example.make("question", target)


@contextmanager
def hurried(checker: Checker) -> Iterator[None]:
    """Half a second for what would never end. What must be answered has the usual limit: a machine may be busy."""
    usual, checker.limit = checker.limit, 0.5
    try:
        yield
    finally:
        checker.limit = usual


def test_numbers_are_compared_as_numbers():
    assert grade_number("The answer is 1,234.50", example("1234.5")) == Grade("1234.5", True)
    assert grade_number("The answer is 1/2", example("0.5")) == Grade("0.5", True)
    assert grade_number("The answer is 3", example("4")) == Grade("3", False)


def test_no_answer_is_never_right():
    assert grade_number("no idea", example("4")) == UNANSWERED
    assert grade_number("no idea", example("no idea")) == UNANSWERED
    assert grade_exact(" ", example(" ")) == UNANSWERED


def test_latex_goes_to_math_verify():
    assert grade_number("\\boxed{2\\sqrt{3}}", example("\\sqrt{12}")) == Grade("2*sqrt(3)", True)
    assert grade_number("so \\boxed{\\sqrt{16}}", example("4")) == Grade("4", True)
    assert grade_number("The answer is 2**3.", example("8")) == Grade("8", True)
    assert grade_number("The answer is 10^2", example("8")) == Grade("100", False)


@pytest.mark.parametrize("text", ["9**9**9", "\\boxed{" + "\\frac{1}{" * 1500 + "2" + "}" * 1501])
def test_a_hanging_check_is_killed_and_the_next_one_works(text):
    checker = shared_checker()
    assert checker.search("b", "abc") == "b"
    worker = checker.worker._process
    with hurried(checker):
        assert grade_number(text, example("8")) == UNCHECKED
    assert checker.worker._process is None and worker.returncode != 0, "it was ended, and did not answer"
    assert grade_number("\\boxed{\\sqrt{16}}", example("4")).correct


def test_a_killed_check_leaves_no_process():
    checker = Checker()
    assert checker.search("b", "abc") == "b"
    worker = checker.worker._process.pid
    with hurried(checker), pytest.raises(Killed):
        checker.search("(a+)+$", "a" * 60 + "b")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert checker.search("b", "abc") == "b"
    assert checker.worker._process.pid != worker
    checker.close()


def test_one_worker_serves_many_calls_and_threads():
    checker = Checker()
    found: list[str | None] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(checker.search(r"\d+", f"x {n}"))) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == list(range(20))
    worker = checker.worker._process.pid
    assert checker.search("\ud800?z", "z") == "z"  # a lone surrogate goes through the pipe
    assert checker.worker._process.pid == worker
    checker.close()


def test_exact_folds_white_space_only():
    assert grade_exact(" New\n York ", example("New York")) == Grade("New York", True)
    assert not grade_exact("new york", example("New York")).correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Positive.", "positive"),
        ("It is NEGATIVE, clearly negative", "negative"),
        ("positively great", None),
        ("negative or positive", None),  # it has not decided
        ("It could be negative, but the answer is positive.", "positive"),
        ("Sentiment: neutral\n\nSentence: x\nSentiment: positive", "positive"),
        ("**Label:** neutral (not positive)", "neutral"),
        ("The answer is hard to say, negative?", "negative"),
        ("The answer is unclear. Perhaps neutral", "neutral"),
        ("", None),
    ],
)
def test_labels(text, answer):
    assert label_grader(LABELS)(text, example("positive")) == Grade(answer, answer == "positive")


def test_the_longest_of_overlapping_labels():
    grade = label_grader(("positive", "very positive"))
    assert grade("very positive", example("very positive")) == Grade("very positive", True)


def test_labels_must_differ():
    with pytest.raises(UserError, match="labels"):
        label_grader(("a", "A"))


def test_patterns():
    grade = regex_grader(r"is (\w+)")
    assert grade("one is a, one is b", example("b")) == Grade("b", True)
    assert grade("none", example("b")) == UNANSWERED
    with hurried(shared_checker()):
        assert regex_grader("(a+)+$")("a" * 60 + "b", example("a")) == UNCHECKED
    with pytest.raises(UserError, match="no regular expression"):
        regex_grader("(")
