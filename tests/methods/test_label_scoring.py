"""How labels are scored: which decode fills the slot, and what cannot be."""

from typing import Any

import pytest

from workbench.decodes import CONTENT_FREE, Decode, Greedy, LabelLikelihood
from workbench.errors import UserError
from workbench.methods.label_scoring import Config, adapt
from workbench.prompts import load_prompt
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import label_grader
from workbench.types import Example, Model, System

ARITHMETIC = load(ArithmeticConfig(practice=3, dev=3, test=3))
SYSTEM = System(Model("fake"), load_prompt("question"), Greedy())


def labelled(*labels: str) -> Task:
    examples = tuple(Example.make(label, label) for label in labels)
    return make_task(
        "labelled",
        settings={},
        splits={"practice": examples, "dev": examples, "test": examples},
        grade=label_grader(labels),
        prompt="classify",
        labels=labels,
        max_tokens=8,
    )


COLOURS = labelled("red", "blue")
NESTED = labelled("no", "not sure", "yes")


@pytest.mark.parametrize(
    ("settings", "decode"),
    [
        ({}, LabelLikelihood()),
        ({"calibrate": True}, LabelLikelihood(content_free=("N/A", "[MASK]", ""))),
        ({"scoring": "mean-likelihood"}, LabelLikelihood(normalize=True)),
        ({"scoring": "mean-likelihood", "calibrate": True}, LabelLikelihood(True, CONTENT_FREE)),
        ({"scoring": "generated"}, Greedy(COLOURS.max_tokens)),
    ],
)
def test_only_the_decode_slot_changes(settings: dict[str, Any], decode: Decode) -> None:
    adapted = adapt(SYSTEM, COLOURS, Config(**settings))
    assert adapted.decode == decode
    assert (adapted.model, adapted.prompt) == (SYSTEM.model, SYSTEM.prompt)


def test_a_task_without_labels_keeps_its_decode_and_takes_no_settings() -> None:
    assert adapt(SYSTEM, ARITHMETIC, Config()) is SYSTEM
    for settings in ({"calibrate": True}, {"scoring": "generated"}):
        with pytest.raises(UserError, match="'arithmetic' has no labels: --scoring and --calibrate are for"):
            adapt(SYSTEM, ARITHMETIC, Config(**settings))  # type: ignore[arg-type]


def test_generated_answers_cannot_be_calibrated() -> None:
    with pytest.raises(UserError, match="no label probabilities to calibrate"):
        Config("generated", calibrate=True)


def test_a_label_that_begins_another_is_refused_where_the_longer_could_never_win() -> None:
    with pytest.raises(UserError, match=r"The label 'no' begins the label 'not sure'.*--scoring mean-likelihood"):
        adapt(SYSTEM, NESTED, Config())
    for fine in (Config("mean-likelihood"), Config("generated"), Config(calibrate=True)):
        adapt(SYSTEM, NESTED, fine)
