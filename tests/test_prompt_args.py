"""Values of a prompt's own variables from the command line: in the System, its hash and the run's id."""

from dataclasses import replace
from pathlib import Path

import pytest

from workbench.engines import EngineConfig
from workbench.errors import UserError
from workbench.identity import from_json, system_hash, to_json
from workbench.prompts import render
from workbench.runs import list_runs
from workbench.session import Session, Setup, pairs
from workbench.types import Example, System

MINE = """
name: mine
purpose: test
for: a test
source: this test
style: chat
variables: [input, role, level]
defaults: {role: a cook}
messages: [{role: user, content: "{{ role }}: {{ input }} ({{ level }})"}]
"""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "mine.yaml").write_text(MINE)
    return Setup(
        task_args=("practice=4", "dev=2", "test=3"),
        model="fake",
        prompt=str(tmp_path / "mine.yaml"),
        prompt_args=("level=a child",),
        engine=EngineConfig("fake"),
        runs=tmp_path / "runs",
        quiet=True,
    )


def opened(setup: Setup) -> tuple[str, System]:
    with Session("zero_shot", setup, setup) as session:
        return session.run.id, session.system()


def test_the_value_is_what_the_model_reads_and_an_examples_own_comes_first(setup: Setup) -> None:
    _, system = opened(replace(setup, prompt_args=("level=a=b", "role=a judge", "level=a child")))
    assert render(system.prompt, Example.make("Why?", "so"))[0].content == "a judge: Why? (a child)"
    own = Example.make("Why?", "so", variables={"level": "me"})
    assert render(system.prompt, own)[0].content == "a judge: Why? (me)"
    assert from_json(to_json(system)) == system


def test_other_values_are_another_system_and_another_run(setup: Setup) -> None:
    first = opened(setup)
    assert opened(setup) == first
    others = [
        opened(replace(setup, prompt_args=arguments))
        for arguments in [("level=all",), ("level=a child", "role=a judge"), ("level=a child", "role=")]
    ]
    assert len({first[0], *(id for id, _ in others)}) == 4
    assert len({system_hash(first[1]), *(system_hash(system) for _, system in others)}) == 4


def test_a_run_can_be_measured_with_them(setup: Setup) -> None:
    with Session("zero_shot", setup, setup) as session:
        assert session.measure(session.system()).total == 3
    with Session("zero_shot", setup, setup) as session, pytest.raises(UserError, match=r"--prompt-args level=…"):
        session.measure(replace(session.system(), prompt=replace(session.prompt, defaults=())))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("rule=x", r"The prompt 'mine' has no variable 'rule' to be given\. It has: role, level\."),
        ("input=x", "no variable 'input'"),
        ("target=x", "no variable 'target'"),
        ("level", "--prompt-args takes name=value, as in --prompt-args level='a beginner'; 'level' is not that"),
    ],
)
def test_a_mistake_is_told_before_a_run_is_made(setup: Setup, argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(replace(setup, prompt_args=(argument,)))
    assert list_runs(setup.runs) == []


def test_the_flag_in_the_message_is_the_one_that_was_given() -> None:
    with pytest.raises(UserError, match="--task-args takes name=value, as in --task-args agreement=all"):
        pairs("--task-args", ("=3",))
