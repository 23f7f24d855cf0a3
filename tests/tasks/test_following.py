"""The generator of rules to follow: targets follow them, splits hold, and it is a task like the others."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recipes.ladder
import recipes.zero_shot
from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.forgetting import open_probe
from workbench.forgetting_flags import Forgetting
from workbench.prompts import load_prompt, prompts_of, render, render_answer
from workbench.rungs import Config as LadderConfig
from workbench.session import Setup
from workbench.tasks import following, load_task
from workbench.tasks.base import Grade, open_test, split_of
from workbench.tasks.following import Config, draw, grade, load
from workbench.tasks.rules import RULES
from workbench.types import Example

ROOT = Path(__file__).parents[2]


def about(example: Example) -> tuple[str, str]:
    found = dict(example.variables)
    return found["rule"], found["value"]


@settings(max_examples=60)
@given(st.integers(0, 2**63 - 1))
def test_a_target_follows_its_rule_and_the_question_shows_the_value(seed: int) -> None:
    rng = random.Random(seed)
    for rule in RULES:
        example = draw(rng, rule)
        assert grade(example.target, example) == Grade(example.target, True)
        assert about(example)[0] == rule
        assert about(example)[1] in example.input
        assert "{" not in example.input


def test_a_target_of_another_rule_is_mostly_wrong() -> None:
    rng = random.Random(0)
    plain = {"avoid", "most_words", "least_words", "no_commas"}  # plain texts follow these
    for rule in sorted(set(RULES) - plain):
        others = [draw(rng, other).target for other in RULES if other != rule for _ in range(5)]
        example = draw(rng, rule)
        assert sum(grade(text, example).correct for text in others) < len(others) / 2, rule


def test_splits_are_those_of_the_content_and_rules_are_drawn_alike() -> None:
    task = load(Config())
    splits = {"practice": task.practice, "dev": task.dev, "test": open_test(task)}
    assert {name: len(examples) for name, examples in splits.items()} == {"practice": 400, "dev": 100, "test": 200}
    assert len({e.id for examples in splits.values() for e in examples}) == 700
    assert all(split_of(e) == name for name, examples in splits.items() for e in examples)
    counts = Counter(about(e)[0] for examples in splits.values() for e in examples)
    assert set(counts) == set(RULES) and 15 < min(counts.values()) <= max(counts.values()) < 60
    assert load(Config(practice=10, dev=5, test=7)).dev == task.dev[:5]
    assert load(Config(seed=1)).hash != task.hash


def test_another_process_draws_the_same() -> None:
    code = "from workbench.tasks import load_task; print(load_task('following').hash)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == load_task("following").hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": "sentence"}, "no rule named 'sentence'.*Did you mean 'sentences'"),
        ({"rules": ""}, "no rule named ''"),
        ({"rules": "json,all"}, "no rule named 'all'"),
        ({"rules": "json, json"}, "rules is json, json; each may be there once"),
        ({"dev": "0"}, "dev is 0"),
        ({"seed": "-1"}, "seed is -1"),
        ({"rules": "yes_no", "practice": "1000"}, "only .* different questions for .*name more rules"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task("following", arguments)


def test_chosen_rules() -> None:
    task = load_task("following", {"rules": "json,quoted", "practice": "20", "dev": "5", "test": "5"})
    assert {about(e)[0] for e in task.practice} == {"json", "quoted"}
    assert task.settings["rules"] == ("json", "quoted")
    assert load_task("following").settings["rules"] == tuple(RULES)
    assert load_task("following", {"rules": ",".join(RULES)}).hash == load_task("following").hash


def test_an_answer_is_the_text_and_equal_answers_are_judged_alike() -> None:
    example = draw(random.Random(0), "paragraphs")
    text = example.target
    assert grade(text.replace("\n\n", " \r\n \r\n") + "  \n", example) == Grade(text, True)
    assert grade(text.replace("\n\n", "\n"), example) == Grade(text.replace("\n\n", "\n"), False)
    for empty in ("", " \n", "...", "👍"):
        assert grade(empty, example) == Grade(None, False)


def test_the_question_said_back_follows_no_rule() -> None:
    rng = random.Random(0)
    for example in [draw(rng, rule) for rule in RULES for _ in range(20)]:
        for echo in (example.input, f"**{example.input.upper()}**\n", f"{example.input}\n\n{example.input}"):
            assert not grade(echo, example).correct, echo


def test_what_stands_beside_a_copy_of_the_question_must_follow_the_rule_too() -> None:
    rng = random.Random(1)
    for rule in ("title", "placeholder", "keywords", "end", "repeat"):
        example = draw(rng, rule)
        assert grade(f"{example.input}\n\n{example.target}", example).correct, rule
        assert not grade(f"{example.input}\n\n...", example).correct
    for rule in ("title", "placeholder", "keywords", "end"):
        example = draw(rng, rule)
        assert not grade(f"You asked: {example.input}\n\nI see.", example).correct, rule


def test_the_floors_are_those_that_the_task_tells() -> None:
    task = load(Config())
    examples = (*task.practice, *task.dev)
    told = " ".join(str(following.__doc__).split())
    for text, share in (("Yes.", 18.6), ("song", 18.2), ("I do not know.", 12.4)):
        assert sum(grade(text, e).correct for e in examples) * 100 / len(examples) == pytest.approx(share)
        assert f'"{text}"' in told and f"{share} %" in told
    assert not any(grade(e.input, e).correct for e in examples)


@pytest.mark.parametrize("name", prompts_of("following"))
def test_tuning_learns_an_answer_that_follows(name: str) -> None:
    prompt = load_prompt(name)
    for example in load(Config(practice=40)).practice:
        assert example.input == render(prompt, example)[-1].content
        assert grade(render_answer(prompt, example), example).correct


SMALL = ("practice=8", "dev=4", "test=6")


def fake(tmp_path: Path) -> Setup:
    return Setup(
        task="following", task_args=SMALL, model="fake", engine=EngineConfig(engine="fake"),
        runs=tmp_path, name="run", quiet=True,
    )  # fmt: skip


def test_it_is_measured_as_other_tasks_are(tmp_path: Path) -> None:
    result = recipes.zero_shot.main(recipes.zero_shot.Config(fake(tmp_path)))
    assert (result.task, result.total, len(result.outcomes)) == ("following", 6, 6)


def test_it_climbs_the_ladder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ladder = LadderConfig(rungs=("zero-shot", "few-shot-random", "majority-vote"))
    recipes.ladder.main(recipes.ladder.Config(fake(tmp_path), ladder))
    assert "6 questions of following, split test" in capsys.readouterr().out


def test_it_can_be_what_a_model_forgets() -> None:
    probe = open_probe(
        Forgetting(forgetting=True, forgetting_tasks=("following,dev=12",)), load_task("arithmetic")
    )
    assert probe is not None
    [(name, task)] = probe.tasks
    assert (name, len(task.dev)) == ("following", 12)
