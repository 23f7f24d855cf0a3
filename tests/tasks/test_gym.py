import importlib.util
from dataclasses import replace

import pytest

from workbench.errors import UserError
from workbench.tasks import load_task
from workbench.tasks.base import Grade, open_test, split_of
from workbench.tasks.gym import find_answer

installed = importlib.util.find_spec("reasoning_gym") is not None
needs_gym = pytest.mark.skipif(not installed, reason="reasoning-gym is missing: pip install 'llm-workbench[gym]'")
SIZES = {"practice": "30", "dev": "10", "test": "10"}


@needs_gym
def test_splits_are_disjoint_and_the_same_every_time():
    arguments = {"dataset": "products", "max_digits": "2", **SIZES}
    task = load_task("gym", arguments)
    splits = {"practice": task.practice, "dev": task.dev, "test": open_test(task)}
    assert [len(examples) for examples in splits.values()] == [30, 10, 10]
    assert all(split_of(e) == name for name, examples in splits.items() for e in examples)
    assert task.hash == load_task("gym", arguments).hash != load_task("gym", arguments | {"seed": "1"}).hash


@needs_gym
@pytest.mark.parametrize("dataset", ["products", "chain_sum", "leg_counting", "spell_backward", "countdown"])
def test_the_scorer_of_the_generator_grades(dataset):
    task = load_task("gym", {"dataset": dataset, **SIZES})
    for e in task.dev:
        assert task.grade(e.target, e).correct
        assert task.grade(f"Let me see: 1. <answer>{e.target}</answer>", e).correct
        assert not task.grade("I do not know", e).correct
        answer = task.grade(e.target, e).answer
        assert task.grade(e.target, replace(e, id="")) == Grade(answer, False), "read, and not scored"


@needs_gym
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "product"}, "Did you mean 'products'"),
        ({"dataset": "products", "max_digit": "2"}, "Did you mean 'max_digits'"),
        ({"dataset": "products", "max_digits": "two"}, "max_digits.*whole number"),
        ({"dataset": "products", "max_digits": "0"}, "refuses its settings"),
        ({"dataset": "products", "max_digits": "1"}, "only .* different questions for practice"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        load_task("gym", arguments)


@pytest.mark.skipif(installed, reason="reasoning-gym is installed")
def test_a_missing_package_says_what_to_type():
    with pytest.raises(UserError, match=r"pip install 'llm-workbench\[gym\]'"):
        load_task("gym", {"dataset": "products"})


def test_the_generator_must_be_named():
    with pytest.raises(UserError, match="needs the argument 'dataset'"):
        load_task("gym")


@pytest.mark.parametrize(
    ("text", "target", "answer"),
    [
        ("It is 1,234.", "1234", "1234"),
        ("first <answer>3</answer>, no: <answer>4</answer>", "7", "4"),
        ("The answer is cba.", "abc", "cba"),
        ("cba", "abc", "cba"),
        ("no number", "7", None),
        ("", "abc", None),
    ],
)
def test_the_answer_of_a_text(text, target, answer):
    assert find_answer(text, target) == answer
