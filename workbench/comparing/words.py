"""Word-level differences between two answers; their texts can be put together again from them, exactly."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

MOST_WORDS = 3000
"""Words of a text up to which differences are looked for: the time grows with their square."""


@dataclass(frozen=True)
class Difference:
    """A stretch of two texts: equal words where both are there and `same`, else what only one of them has.

    Attributes:
        before: the first text's part.
        after: the second text's part; blanks may differ from the first's where the words are equal.
        same: whether the words are equal.
    """

    before: str
    after: str
    same: bool


def differences(before: str, after: str) -> list[Difference] | None:
    """What to delete and insert to make the second text of the first; None where they are too long.

    The parts of each text, joined, are that text. Words are compared without the blanks around them.
    """
    first, second = _words(before), _words(after)
    if max(len(first), len(second)) > MOST_WORDS:
        return None
    matcher = SequenceMatcher(None, [w.strip() for w in first], [w.strip() for w in second], autojunk=False)
    return [
        Difference("".join(first[i:j]), "".join(second[k:m]), kind == "equal")
        for kind, i, j, k, m in matcher.get_opcodes()
    ]


def _words(text: str) -> list[str]:
    """Each word with the blanks behind it; blanks at the beginning are a word of their own."""
    return re.findall(r"\S+\s*|^\s+", text)
