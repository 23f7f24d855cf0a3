"""ROUGE-L between instructions (Lin 2004), for near-duplicates: the F measure over words, without a stemmer.

Words are those of Google's rouge-score: lower case, runs of a–z and 0–9. The longest common subsequence is
rapidfuzz's: rouge-score's own is Python, needs NLTK, and is published as source only.
"""

import re
from collections.abc import Iterable, Sequence

from rapidfuzz.distance import LCSseq

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
        scores = ((id, rouge_l(own, other)) for id, other in self._words.items())
        return max(scores, key=lambda pair: pair[1], default=("", 0.0))


def largest(texts: Iterable[str]) -> float | None:
    """The largest ROUGE-L between any two of the texts; None where there are no two."""
    all_words = [words(text) for text in texts]
    pairs = (rouge_l(a, b) for i, a in enumerate(all_words) for b in all_words[:i])
    return max(pairs, default=None)
