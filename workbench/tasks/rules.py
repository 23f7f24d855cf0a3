"""Rules that a text follows or not, told without a judge: after IFEval (Zhou et al. 2023, arXiv 2311.07911, §2).

Theirs are checked on the text as it is ("strict"); so are these, but for white space at the ends of lines. What
is a word, a sentence, a paragraph or an item of a list is decided here, for people's writing and for Markdown.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

_GAP = re.compile(r"[\s—–/…]+|--+")
_BLANK = re.compile(r"\n\s*\n")
_BULLET = re.compile(r"^[ \t]*[-*+•–][ \t]+(.*)$", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(\d{1,4})[.)][ \t]+(.*)$", re.MULTILINE)
_LISTED = re.compile(r"\n(?=[ \t]*(?:[-*+•–]|\d{1,4}[.)])[ \t])")  # a line's end before an item of a list
_LABEL = re.compile(r"^[ \t]*(?:[-*+•–]|\d{1,4}[.)])[ \t]+")
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t].*$", re.MULTILINE)
_END = re.compile(r"[。！？]+|(?<![.!?…])([.!?…]++)[\"'”’»)\]*_]*(?=\s|$)")
_POSTSCRIPT = re.compile(r"^[^\w\n]*p\.[ ]?s\.", re.MULTILINE | re.IGNORECASE)
_TITLE = re.compile(r"<<([^<>\n]+)>>")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\](?!\()")  # a Markdown link is none
_FENCE = re.compile(r"^```[a-z]*\n(.*)\n```$", re.DOTALL)

NEVER_LAST = {"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "p.s"}
SOMETIMES_LAST = {"etc", "a.m", "p.m", "u.s", "u.k", "inc", "ltd", "jr", "sr"}  # a sentence's, before a capital
COMMAS = frozenset(",،，、﹐︐")


def normal(text: str) -> str:
    """The text that is judged: composed characters (NFC), no white space around it or at the ends of its lines."""
    return "\n".join(line.rstrip() for line in unicodedata.normalize("NFC", text).splitlines()).strip()


def words(text: str) -> list[str]:
    """The words, case folded, without marks around them: white space and dashes part them, a hyphen does not."""
    folded = unicodedata.normalize("NFC", text).replace("’", "'").casefold()
    return [word for part in _GAP.split(folded) if (word := _bare(part))]


def _bare(part: str) -> str:
    inside = [place for place, character in enumerate(part) if character.isalnum()]
    return part[inside[0] : inside[-1] + 1] if inside else ""


def sentences(text: str) -> int:
    """How many sentences: . ! ? … end them, as do paragraphs and items of lists; a heading is none.

    A full stop behind a title, an initial or a common abbreviation is no end, and neither is … or a question
    mark where a small letter follows.
    """
    count = 0
    for paragraph in paragraphs(_HEADING.sub("\n", text)):
        for block in _LISTED.split(paragraph):
            rest = _LABEL.sub("", block)
            start = 0
            for end in _END.finditer(rest):
                if not _goes_on(rest, end) and words(rest[start : end.end()]):
                    count += 1
                    start = end.end()
            count += bool(words(rest[start:]))
    return count


def _goes_on(text: str, end: re.Match[str]) -> bool:
    """Whether a sentence goes on behind what could have ended it."""
    following = text[end.end() :].lstrip()[:1]
    mark = end.group(1)
    if not following or mark is None:
        return False
    if mark != ".":
        return following.islower()
    last = text[max(0, end.start() - 9) : end.start()].rpartition(" ")[2].rpartition("\n")[2].lstrip("\"'“‘(*_[")
    if len(last) == 1 and last.isupper() and last != "I":
        return True
    known = last.casefold()
    return known in NEVER_LAST or (known in SOMETIMES_LAST and not following.isupper())


def paragraphs(text: str) -> list[str]:
    """What blank lines part, less what has no word, such as a rule of hyphens."""
    return [part for part in _BLANK.split(text) if words(part)]


# --- the rules --------------------------------------------------------------------------------------


def begin(text: str, value: str) -> bool:
    """The first word is this one. Marks around words do not count, here and in `end` and `repeat`."""
    return words(text)[:1] == words(value)


def end(text: str, value: str) -> bool:
    """The last words are these."""
    return words(text)[-len(words(value)) :] == words(value)


def keywords(text: str, value: str) -> bool:
    """Each of the words, parted by commas, is there as a whole word, in any case."""
    return all(_has_word(text, word) for word in value.split(", "))


def avoid(text: str, value: str) -> bool:
    """The word is not there as a whole word, in any case."""
    return not _has_word(text, value)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text.casefold()) is not None


def repeat(text: str, value: str) -> bool:
    """The words of the request come first, and more follows."""
    said, asked = words(text), words(value)
    return said[: len(asked)] == asked and len(said) > len(asked)


def lowercase(text: str, _: str = "") -> bool:
    """Letters, and no capital among them."""
    return text.islower()


def capitals(text: str, _: str = "") -> bool:
    """Letters, and no small one among them."""
    return text.isupper()


def bullets(text: str, value: str) -> bool:
    """So many lines are bullet points with words; other lines may stand around them."""
    return sum(bool(words(item)) for item in _BULLET.findall(text)) == int(value)


def numbered(text: str, value: str) -> bool:
    """So many lines are numbered from 1, in order, and have words; other lines may stand around them."""
    items = [(int(number), bool(words(item))) for number, item in _ITEM.findall(text)]
    return items == [(place, True) for place in range(1, int(value) + 1)]


def yes_no(text: str, _: str = "") -> bool:
    """Nothing but yes or no."""
    return words(text) in (["yes"], ["no"])


def json_object(text: str, value: str) -> bool:
    """One JSON object with these keys, parted by commas, and no other; a code fence may be around it."""
    fenced = _FENCE.match(text)
    try:
        pairs = json.loads(fenced.group(1) if fenced else text, object_pairs_hook=_Pairs, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(pairs, _Pairs) and sorted(key for key, _ in pairs) == sorted(value.split(", "))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written, so that a key that is there twice is seen."""


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def quoted(text: str, _: str = "") -> bool:
    """One pair of double quotation marks, straight or curly, is around everything; others may be nested in it."""
    if len(text) < 3 or (text[0], text[-1]) not in (('"', '"'), ("“", "”")):
        return False
    inner = text[1:-1]
    first = re.search('["“”]', inner)
    nested = (
        first is None or first.group() == "“" or (first.group() == '"' and inner[: first.start()][-1:] in " \n(")
    )
    return nested and bool(words(inner))


def no_commas(text: str, _: str = "") -> bool:
    """No comma of any script."""
    return COMMAS.isdisjoint(text)


def title(text: str, _: str = "") -> bool:
    """A title with a word in it stands between << and >> on one line."""
    return any(words(found) for found in _TITLE.findall(text))


def placeholder(text: str, _: str = "") -> bool:
    """Square brackets with a word in them, which are no link."""
    return any(words(found) for found in _PLACEHOLDER.findall(text))


def postscript(text: str, _: str = "") -> bool:
    """A line begins with P.S.; words stand before it and behind it."""
    found = list(_POSTSCRIPT.finditer(text))
    return bool(found and words(text[: found[-1].start()]) and words(text[found[-1].end() :]))


RULES: dict[str, Callable[[str, str], bool]] = {
    "begin": begin,
    "end": end,
    "keywords": keywords,
    "avoid": avoid,
    "sentences": lambda text, value: sentences(text) == int(value),
    "most_words": lambda text, value: len(words(text)) <= int(value),
    "least_words": lambda text, value: len(words(text)) >= int(value),
    "lowercase": lowercase,
    "capitals": capitals,
    "bullets": bullets,
    "numbered": numbered,
    "yes_no": yes_no,
    "json": json_object,
    "quoted": quoted,
    "no_commas": no_commas,
    "repeat": repeat,
    "title": title,
    "paragraphs": lambda text, value: len(paragraphs(text)) == int(value),
    "placeholder": placeholder,
    "postscript": postscript,
}
"""By name; each takes a `normal` text and the rule's value, "" where it has none."""
