import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.tasks import load_task
from workbench.tasks.arithmetic import APPLY, Config, load, solve
from workbench.tasks.base import open_test, split_of
from workbench.tasks.graders import grade_number

ROOT = Path(__file__).parents[2]


def test_splits_have_their_sizes_and_share_no_question():
    task = load(Config())
    splits = {"practice": task.practice, "dev": task.dev, "test": open_test(task)}
    assert [len(examples) for examples in splits.values()] == [400, 100, 200]
    assert len({e.id for examples in splits.values() for e in examples}) == 700
    assert all(split_of(e) == name for name, examples in splits.items() for e in examples)


def test_another_seed_never_moves_a_question_into_another_split():
    first, second = load(Config(seed=1)), load(Config(seed=2))
    assert first.hash != second.hash
    assert not {e.id for e in first.practice} & {e.id for e in open_test(second)}


def test_the_first_questions_do_not_depend_on_the_sizes():
    assert load(Config(practice=10, dev=5, test=7)).dev == load(Config()).dev[:5]


def test_another_process_draws_the_same():
    code = "from workbench.tasks import load_task; print(load_task('arithmetic', {'terms': '3'}).hash)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == load_task("arithmetic", {"terms": "3"}).hash


@pytest.mark.parametrize("form", ["expression", "words"])
def test_questions_and_rationales_give_the_target(form):
    task = load(Config(terms=3, largest_factor=30, form=form))
    for e in task.practice:
        expression = e.input.removeprefix("What is ").removesuffix("?")
        for word, sign in (("×", "*"), ("times", "*"), ("plus", "+"), ("minus", "-")):
            expression = expression.replace(word, sign)
        assert str(eval(expression)) == e.target
        assert task.grade(e.rationale, e).correct
        assert task.grade(e.target, e).correct
        assert not task.grade(str(int(e.target) + 1), e).correct


numbers = st.integers(1, 10**6)


@given(st.lists(st.tuples(st.sampled_from("+-*"), numbers), min_size=1, max_size=6), numbers)
def test_every_step_is_true_and_the_last_gives_the_value(rest, first):
    operations, others = [sign for sign, _ in rest], [n for _, n in rest]
    value, steps = solve([first, *others], operations)
    assert value == eval(f"{first}" + "".join(f"{sign}{n}" for sign, n in rest))
    for step in steps:
        left, sign, right, _, result = step.replace("×", "*").split()
        assert APPLY[sign](int(left), int(right)) == int(result)
    assert steps[-1].endswith(f"= {value}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terms": "1"}, "terms"),
        ({"terms": "two"}, "terms.*whole number"),
        ({"operations": "+/"}, "operations"),
        ({"largest_factor": "0"}, "largest_factor"),
        ({"largest_added": "nan"}, "largest_added"),
        ({"form": "poem"}, "form.*expression"),
        ({"operations": "*"}, "only .* different questions"),
        ({"largest_add": "3"}, "Did you mean 'largest_added'.*operations, terms"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        load_task("arithmetic", arguments)


def test_settings_and_grader():
    task = load(Config())
    assert task.grade is grade_number
    assert (task.prompt, task.max_tokens, task.labels) == ("arithmetic", 32, ())
