"""Each reason for which an instruction or an instance is left out, and what just passes."""

import pytest

from workbench.instructing.filters import KEYWORDS, instance_faults, instruction_fault, joined, repeats_itself
from workbench.instructing.seeds import Instance
from workbench.instructing.similarity import Pool

FAULTY_INSTRUCTIONS = {
    "Name three birds": "too short",
    "word " * 151: "too long",
    "Describe what the image shows.": "keyword",
    "Read the FILES that are given.": "keyword",
    "Say how to go to the station.": "keyword",
    "write a program that sorts numbers.": "asks for a program",
    "- Name three birds of prey.": "begins with punctuation",
    "“Name three” birds of prey.": "begins with non-ASCII",
    "Écris un poème sur la mer.": "begins with non-ASCII",
    "Name \ufffd birds of prey.": "broken characters",
    "Name three \ud800 of prey.": "broken characters",
    "Say the word the the the the the.": "repeats itself",
}


@pytest.mark.parametrize(("text", "reason"), FAULTY_INSTRUCTIONS.items())
def test_an_instruction_is_left_out(text: str, reason: str) -> None:
    assert instruction_fault(text, False) == reason


@pytest.mark.parametrize(
    "text",
    [
        "Name three birds please.",
        " ".join(f"w{i}" for i in range(150)),
        "Explain what photography and imagery have in common.",  # no keyword as a whole word
        "Explain a filed complaint and a mapped road.",
        "Rewrite a program in plain words.",
        "Name a café in the USA.",
    ],
)
def test_an_instruction_is_kept(text: str) -> None:
    assert instruction_fault(text, False) is None


def test_what_was_cut_off_is_left_out_first() -> None:
    assert instruction_fault("Name", True) == "cut off"
    assert instruction_fault("Name three birds of prey.", True) == "cut off"


@pytest.mark.parametrize("word", KEYWORDS)
def test_every_keyword(word: str) -> None:
    assert instruction_fault(f"Please take the {word.upper()} with you.", False) == "keyword"


def faults(*read: tuple[str | None, str], cut_off: bool = False) -> list[str | None]:
    exemplars = Pool()
    exemplars.add("seed 0", joined(Instance("Win a free phone today", "yes")))
    return instance_faults("Write a few words about the sea.", read, cut_off, exemplars)


@pytest.mark.parametrize(
    ("given", "output", "reason"),
    [
        ("", "The sea is wide.", None),
        ("tide", "The sea comes and goes.", None),
        ("sea", "no", None),
        (None, "yes", "no input"),
        ("tide", "", "no output"),
        ("tide", "...", "output says nothing"),
        ("tide", "tide", "output equals input"),
        ("tide:", "It is high.", "ends in a colon"),
        ("tide", "Here it is:", "ends in a colon"),
        ("", " ".join(f"w{i}" for i in range(301)), "output too long"),
        ("", "sea sea sea sea", "repeats itself"),
        ("a b a b a b a b a b a b", "The sea.", "repeats itself"),
        ("", "Dear [Your name], hello.", "placeholder"),
        ("<insert text>", "The sea.", "placeholder"),
        ("", "Lorem ipsum dolor.", "placeholder"),
        ("", "Write a few words about the sea!", "echoes the instruction"),
        ("write few words about the sea", "The sea.", "echoes the instruction"),
        ("", "It is to write a few words about the sea.", "echoes the instruction"),
        ("", "Write a few blue words about the sea.", None),  # a word of its own
        ("Win a free phone today!", "yes", "copies an exemplar"),
        ("", "half \ufffd", "broken characters"),
        ("\x00", "The sea.", "broken characters"),
    ],
)
def test_an_instance(given: str | None, output: str, reason: str | None) -> None:
    assert faults((given, output)) == [reason]


def test_a_cut_off_answer_loses_its_last_instance_only() -> None:
    assert faults(("a", "one thing"), ("b", "another"), cut_off=True) == [None, "cut off"]
    assert faults(("a", "one thing"), ("a", "one th"), cut_off=True) == [None, "cut off"]
    assert faults(cut_off=True) == []


def test_instances_among_each_other() -> None:
    assert faults(("a", "x1"), ("b", "x2"), ("a", "x1")) == [None, None, "duplicate"]
    several = "one input, several outputs"
    assert faults(("a", "x1"), ("b", "x2"), ("a", "x3")) == [several, None, several]
    assert faults(("", "one"), ("", "another")) == [None, None]  # two poems about the sea are no contradiction


def test_of_an_instruction_s_instances_the_first_five_are_kept() -> None:
    read = [(letter, f"x{letter}") for letter in "abcdefg"]
    assert faults(*read) == [None] * 5 + ["one of too many"] * 2
    assert faults(("z", ""), read[0], *read) == [
        "no output",
        None,
        "duplicate",
        *[None] * 4,
        *["one of too many"] * 2,
    ]
    assert faults(*read, ("h", ""))[-1] == "no output"


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("", False),
        ("no no no", False),
        ("no no no yes", True),
        ("yes no yes no", False),
        ("one two three four five six seven eight nine ten", False),
        ("the sea is blue and the sea is deep and the sky is high", False),
        ("it is the sea, it is the sea, it is the sea, it is the sea", True),
    ],
)
def test_repetition(text: str, repeats: bool) -> None:
    assert repeats_itself(text) is repeats
