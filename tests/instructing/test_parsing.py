"""What a teacher's text says, and what it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.instructing.parsing import KINDS, decision, instructions, read, show
from workbench.instructing.seeds import Instance


def test_a_numbered_list_goes_on() -> None:
    text = " explain DNS to\n  a child.\n10. Write   a haiku.\n\n11) ask\n12 . iPhone or Android?"
    assert instructions(text) == ["Explain DNS to a child.", "Write a haiku.", "Ask", "IPhone or Android?"]
    assert instructions("") == [] and instructions(" \n10. \n11.") == []


def test_capitals_behind_the_first_letter_stay() -> None:
    assert instructions("name a town in the USA.") == ["Name a town in the USA."]


def test_a_number_inside_an_item_is_no_new_item() -> None:
    assert instructions(" Round 3.14 to 3. Then add 2.5 kg.\n10. Add 1.") == [
        "Round 3.14 to 3. Then add 2.5 kg.",
        "Add 1.",
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" label", True),
        ("Label.", True),
        (" labels", True),
        (" text", False),
        (" 'text'", False),
        (" a label", None),
        ("", None),
        (" labelled", None),
        ("?!", None),
    ],
)
def test_a_decision(text: str, kind: bool | None) -> None:
    assert decision(text) is kind


def test_decisions_read_what_exemplars_show() -> None:
    for classifies, word in KINDS.items():
        assert decision(f" {word}") is classifies


def test_inputs_first() -> None:
    text = "Input: 2 + 2\nOutput: 4\n\nExample 2\nInput:\n3 + 3\nOutput:\n6\n = six"
    assert read(text, False) == [("2 + 2", "4"), ("3 + 3", "6\n = six")]
    assert read("Output: a poem", False) == [("", "a poem")]
    assert read("Output: one\nOutput: two", False) == [("", "one"), ("", "two")]


def test_labels_first() -> None:
    text = "Class label: yes\nInput: Win a phone!\nClass label: no\nInput: See you."
    assert read(text, True) == [("Win a phone!", "yes"), ("See you.", "no")]


def test_what_is_missing_is_told() -> None:
    assert read("Input: a\nInput: b\nOutput: c\nInput: d", False) == [("a", ""), ("b", "c"), ("d", "")]
    assert read("Input: a\nOutput: b\nOutput: c", False) == [("a", "b"), (None, "c")]
    assert read("Class label: yes\nClass label: no\nInput: x", True) == [(None, "yes"), ("x", "no")]
    assert read("Class label: yes", True) == [(None, "yes")]
    assert read("Input: x", True) == []
    assert read("An answer in a form of its own.", False) == []


@pytest.mark.parametrize("said", ["None", "N/A", "n/a.", "<noinput>", "No input", "no input needed."])
def test_an_input_that_says_none_is_empty(said: str) -> None:
    assert read(f"Input: {said}\nOutput: x", False) == [("", "x")]


texts = st.text(alphabet="ab .,:\n{<1", min_size=1).map(str.strip).filter(bool)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.booleans())
def test_what_is_shown_is_read_back(pairs: list[tuple[str, str]], classification: bool) -> None:
    instances = [Instance(given, output) for given, output in pairs]
    assert read(show(instances, classification), classification) == pairs


@given(st.lists(texts, min_size=1, max_size=4))
def test_outputs_alone_are_read_back(outputs: list[str]) -> None:
    assert read(show([Instance("", output) for output in outputs], False), False) == [("", o) for o in outputs]
