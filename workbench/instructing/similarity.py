"""ROUGE-L between instructions (Lin 2004), for near-duplicates: the F measure over words, without a stemmer.

Words are those of Google's rouge-score: lower case, runs of a–z and 0–9. The longest common subsequence is
rapidfuzz's: rouge-score's own is Python, needs NLTK, and is published as source only.
"""

import re
from collections.abc import Sequence

from rapidfuzz import process
from rapidfuzz.distance import Indel, LCSseq

LIMIT = 0.7
"""Above it, and not at it, two texts are the same (paper, §2.2)."""


def words(text: str) -> list[str]:
    """The words that ROUGE-L compares."""
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F of precision and recall of the longest common subsequence, 2·LCS/(|a|+|b|); 0 where a side has no word.

    One division of whole numbers is the float nearest to the true value, so that .7 is not above .7.
    """
    return 2 * LCSseq.similarity(a, b) / (len(a) + len(b)) if a and b else 0.0


class Pool:
    """Texts by id, each of which may be the nearest to a new one."""

    def __init__(self) -> None:
        self._words: dict[str, list[str]] = {}

    def add(self, id: str, text: str) -> None:
        """Put a text in."""
        self._words[id] = words(text)

    def nearest(self, text: str) -> tuple[str, float]:
        """(id, ROUGE-L) of the nearest text, the first of several; ("", 0) in an empty pool."""
        own = words(text)
        # Indel's similarity is 2·LCS/(|a|+|b|), but 1 between two texts without words; one call is several times
        # as fast as one a text. Its last digit can be off: `rouge_l` has the number.
        found = process.extractOne(own, self._words, scorer=Indel.normalized_similarity) if own else None
        if found is None:
            return next(iter(self._words), ""), 0.0
        return found[2], rouge_l(own, found[0])
