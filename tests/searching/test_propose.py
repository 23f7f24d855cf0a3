"""Proposals: what is shown for them, what is kept of them, and that nothing is drawn twice."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decodes import Greedy
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.prompts import load_prompt
from workbench.searching import propose
from workbench.searching.propose import clean, draw, from_demonstrations, most_tokens, usable, variations_of
from workbench.store import Store
from workbench.tasks.arithmetic import Config, load
from workbench.types import Completion, Finish, Model, Request, System

TASK = load(Config(practice=20, dev=4, test=2))
TEMPLATE = load_prompt("instruct")
SYSTEM = System(Model("fake"), load_prompt("arithmetic"), Greedy())


def test_demonstrations_come_from_practice_by_seed_and_modes_take_turns() -> None:
    sources = from_demonstrations(TASK, TEMPLATE, "both", 3, 15, seed=1)
    assert [source.mode for source in sources] == ["forward", "reverse", "forward", "reverse"]
    inputs = {example.input for example in TASK.practice}
    for source in sources:
        assert len(source.recited) == 3 and set(source.recited) <= inputs
        for question in source.recited:
            [example] = [e for e in TASK.practice if e.input == question]
            assert f"Input: {question}\nOutput: {example.rationale}" in source.shown.input
    assert sources == from_demonstrations(TASK, TEMPLATE, "both", 3, 15, seed=1)
    assert sources != from_demonstrations(TASK, TEMPLATE, "both", 3, 15, seed=2)
    assert {s.mode for s in from_demonstrations(TASK, TEMPLATE, "reverse", 3, 8, 0)} == {"reverse"}


def test_the_same_demonstrations_are_not_asked_twice() -> None:
    task = load(Config(practice=1, dev=1, test=1))
    assert len(from_demonstrations(task, TEMPLATE, "both", 1, 40, 0)) == 2


def test_a_demonstration_shows_the_target_where_the_template_does() -> None:
    [source] = from_demonstrations(TASK, load_prompt("instruct-label"), "forward", 2, 1, 0)
    [example] = [e for e in TASK.practice if e.input == source.recited[0]]
    assert f"Output: {example.target}\n" in source.shown.input


def test_too_few_practice_examples_are_told() -> None:
    with pytest.raises(UserError, match=r"demonstrations is 21; it must be a number in \[1, 20\]"):
        from_demonstrations(TASK, TEMPLATE, "both", 21, 4, 0)


def said(text: str, finish: Finish = Finish.STOP) -> Completion:
    return Completion(0, text, finish=finish)


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        (" add the two numbers.", "Add the two numbers."),
        ("\n write the sum of both\nand so on", "Write the sum of both."),
        (' "Solve the equation at hand." It was easy.', "Solve the equation at hand."),
        (" find the answer: ", "Find the answer."),
        (" use signs, e.g. a plus sign. Then stop.", "Use signs, e.g. a plus sign."),
        (" work out what is asked! Now", "Work out what is asked!"),
        ('say "yes" or "no"', 'Say "yes" or "no"'),
        (" add them", None),  # two words
        (" 4 - 3 = 1.", None),  # no words at all
        (" answer \"What is it? And then", None),
        (" " + "very " * 40 + "long.", None),
        (" ring the \x07 bell now.", None),
        (" ring the \ufffd bell now.", None),
        (" answer what is  7 + 8? always", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_is_kept_of_a_proposal(text: str, instruction: str | None) -> None:
    assert clean(said(text), ["What is 7 + 8?"]) == instruction


def test_what_was_cut_off_is_kept_to_the_end_of_its_first_sentence() -> None:
    assert clean(said(" add both numbers. Then go", Finish.LENGTH)) == "Add both numbers."
    assert clean(said(" add both numbers and then", Finish.LENGTH)) is None


@given(st.text(max_size=200))
def test_an_instruction_is_one_printable_line_and_is_kept_as_it_is(text: str) -> None:
    found = clean(said(text))
    if found is not None:
        assert found.isprintable() and found == found.strip() and len(found.split()) >= 3
        assert found[-1] in '.!?"”'


def test_proposals_alike_are_one_and_first_samples_come_first() -> None:
    sources = variations_of([(7, "Add the numbers."), (8, "Take them away.")])
    drawn = [
        [Completion(0, "one two three"), Completion(1, "Nine ten eleven")],
        [Completion(0, "ONE  two three."), Completion(1, "four five six"), Completion(2, "", finish=Finish.ERROR)],
    ]
    found = usable(sources, drawn, ["nine ten eleven."])
    assert [(text, source.parent) for text, source in found] == [("One two three.", 7), ("Four five six.", 8)]


def test_more_samples_of_the_same_requests_draw_only_the_new_ones(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    def script(request: Request, index: int) -> str:
        calls.append((request.id, index))
        return f"do thing number {index}"

    engine = FakeEngine(Model("fake"), script)
    sources = from_demonstrations(TASK, TEMPLATE, "both", 2, 8, 0)
    with Store(tmp_path / "s.sqlite") as store:
        few = draw(SYSTEM, sources, 4, 0.8, 0, engine, store, lambda done, total: None)
        many = draw(SYSTEM, sources, 8, 0.8, 0, engine, store, lambda done, total: None)
    assert [each[:4] for each in many] == few
    assert len(calls) == len(set(calls)) == 16
    prompts = sum(each[0].prompt_tokens for each in many)
    assert most_tokens(engine, sources) == prompts + 2 * propose.SAMPLES * propose.MAX_TOKENS
    assert most_tokens(engine, sources, again=True) == 2 * propose.SAMPLES * propose.MAX_TOKENS


def test_where_every_request_fails_it_says_why(tmp_path: Path) -> None:
    def script(request: Request, index: int) -> str:
        raise RuntimeError("down")

    engine = FakeEngine(Model("fake"), script)
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(UserError, match=r"4 requests failed.*down"):
        draw(SYSTEM, variations_of([(0, "Go on.")]), 4, 1.0, 0, engine, store, lambda done, total: None)


def test_a_base_model_is_told_apart(tiny_base_model: Path, tmp_path: Path) -> None:
    from workbench.engines.hf import HfEngine

    engine = HfEngine(Model(str(tiny_base_model)), dtype="float32", device="cpu")
    system = replace(SYSTEM, model=Model(str(tiny_base_model)))
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(UserError, match="no chat template"):
        draw(system, variations_of([(0, "Go on.")]), 1, 1.0, 0, engine, store, lambda done, total: None)
