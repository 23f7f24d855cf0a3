"""The registry, the split by content, and the closed test split."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.tasks import describe, load_task, task_names
from workbench.tasks.base import Task, make_task, open_test, split_examples, split_of, take
from workbench.tasks.graders import grade_exact
from workbench.types import Example

ROOT = Path(__file__).parents[2]
CLOSED = ("open_test", "_test")


def examples(count: int) -> list[Example]:
    return [Example.make(f"question {n}", str(n)) for n in range(count)]


def test_every_task_describes_itself():
    for name in task_names():
        summary, arguments = describe(name)
        assert summary.endswith(".")
        assert {"practice", "dev", "test"} <= {argument for argument, _, _ in arguments}
    assert ("agreement", "all|75|66|50", "all") in describe("phrasebank")[1]
    assert ("rules", "a,b,…", "all") in describe("following")[1]
    assert ("labels", "a,b,…", "()") in describe("file")[1]


def test_an_unknown_task_names_those_that_exist():
    with pytest.raises(UserError, match=r"Did you mean 'arithmetic'.*gsm8k"):
        load_task("arithmetics")
    with pytest.raises(UserError, match="no task named"):
        describe("poetry")


def test_a_task_shows_no_test_split_but_through_open_test():
    task = load_task("arithmetic", {"test": "5"})
    hidden = open_test(task)
    assert len(hidden) == 5
    public = [getattr(task, name) for name in dir(task) if not name.startswith("_")]
    assert not any(value == hidden for value in public)
    assert all(example.input not in repr(task) for example in hidden)
    assert "test" not in {name for name in dir(task) if not name.startswith("_")}


def test_only_the_harness_names_the_test_split():
    """From the sources themselves: whoever else could open it would tune on it sooner or later."""
    allowed = {ROOT / "workbench/harness.py", ROOT / "workbench/tasks/base.py"}
    sources = [p for folder in ("workbench", "recipes") for p in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 10
    named = []
    for path in set(sources) - allowed:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {
                ast.Name: "id", ast.Attribute: "attr", ast.alias: "name", ast.keyword: "arg",
                ast.Constant: "value", ast.FunctionDef: "name",
            }  # fmt: skip
            field = names.get(type(node))
            if field is not None and getattr(node, field) in CLOSED:
                named.append(f"{path}:{getattr(node, 'lineno', '?')}")
    assert not named


@given(st.text(), st.text(), st.text())
def test_the_split_depends_on_the_question_only(question, target, rationale):
    example = Example.make(question, target, rationale)
    assert split_of(example) == split_of(Example.make(f" {question}\n", "another"))
    assert split_of(example) in ("practice", "dev", "test")


def test_splits_have_their_shares():
    splits = split_examples(examples(4000))
    for name, share in (("practice", 0.6), ("dev", 0.15), ("test", 0.25)):
        assert abs(len(splits[name]) / 4000 - share) < 0.02
    assert sum(map(len, splits.values())) == 4000


def test_repeated_and_conflicting_questions_are_refused():
    with pytest.raises(UserError, match="twice\\."):
        split_examples([Example.make("a", "1"), Example.make(" a ", "1")])
    with pytest.raises(UserError, match="twice with different answers"):
        split_examples([Example.make("a", "1"), Example.make("a", "2")])


def test_sizes_take_the_first_and_no_more_than_there_are():
    splits = split_examples(examples(100))
    assert take(splits, None, 3, None) == {**splits, "dev": splits["dev"][:3]}
    with pytest.raises(UserError, match="dev is 1000"):
        take(splits, None, 1000, None)


def test_an_empty_split_is_refused():
    with pytest.raises(UserError, match="dev split"):
        make_task(
            "x",
            settings={},
            splits={"practice": (examples(1)[0],), "dev": (), "test": ()},
            grade=grade_exact,
            prompt="question",
        )


def test_the_hash_is_of_every_example_and_setting():
    def task(settings: dict[str, int], count: int) -> Task:
        splits = split_examples(examples(count))
        return make_task("x", settings=settings, splits=splits, grade=grade_exact, prompt="question")

    assert task({"a": 1}, 100).hash == task({"a": 1}, 100).hash
    assert len({task({"a": 1}, 100).hash, task({"a": 2}, 100).hash, task({"a": 1}, 101).hash}) == 3
