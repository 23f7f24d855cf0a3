"""What instructions are about, by a rule and not by a parser: the paper's figure of verbs and objects (§2.3).

The verb is an instruction's first word, behind words like `please` and `can you`; the object is the first word
after it that is no function word. What begins with a word that asks, or with a function word, is counted apart.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

QUESTION, OTHER = "(a question)", "(other)"
_ASKING = """what which who whom whose when where why how is are was were do does did has have had will would
    should may might am"""
_LEADING = "please can could you now then first let us lets let's given kindly"
_FUNCTION = """a an the this that these those some any all each every both your my our his her its their me us you
    it him them of in on at to for from with by as about into between and or if whether what which who how why
    where when following given short brief simple new one two three four five ten few several more most least many
    much is are be been was were i there not no so up out"""
ASKING, LEADING, FUNCTION = (frozenset(words.split()) for words in (_ASKING, _LEADING, _FUNCTION))


@dataclass(frozen=True)
class Verb:
    """A verb with what it is done to.

    Attributes:
        name: the verb, `QUESTION` or `OTHER`.
        count: instructions with it.
        objects: the commonest, with how many instructions each has; an instruction may have none.
    """

    name: str
    count: int
    objects: tuple[tuple[str, int], ...]


def verb_and_object(instruction: str) -> tuple[str, str]:
    """(verb, object) in lower case, by the rule above; the object of none is empty."""
    words = re.findall(r"[^\W\d_]+(?:[-'][^\W\d_]+)*", instruction.lower().replace("’", "'"))
    while words and words[0] in LEADING:
        words = words[1:]
    if not words:
        return "", ""
    if words[0].split("'")[0] in ASKING:  # what's
        return QUESTION, ""
    if words[0] in FUNCTION:
        return OTHER, ""
    return words[0], next((word for word in words[1:] if word not in FUNCTION), "")


def verbs(instructions: Iterable[str], most: int, objects: int) -> list[Verb]:
    """The commonest verbs with their commonest objects, by count and then by name."""
    pairs = [verb_and_object(text) for text in instructions]

    def ranked(counted: Counter[str], limit: int) -> list[tuple[str, int]]:
        return sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]

    return [
        Verb(name, count, tuple(ranked(Counter(o for v, o in pairs if v == name and o), objects)))
        for name, count in ranked(Counter(verb for verb, _ in pairs if verb), most)
    ]


def pair_count(instructions: Iterable[str]) -> int:
    """How many different pairs of a verb and an object there are."""
    return len({pair for pair in map(verb_and_object, instructions) if all(pair)})
