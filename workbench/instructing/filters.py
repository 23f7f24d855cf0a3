"""Which instructions and instances are left out, each for one named reason; the first that holds is told.

The paper's own filters are in §2.2 and in its authors' code (heuristics on length, keywords, first characters;
outputs that repeat the input; one input with several outputs; five instances at most). Ours are those on text that
repeats itself, says nothing, is unfinished, or is copied from an exemplar or from the instruction, and on labels
without an input. Where one input has several outputs, theirs leaves out every instance of the instruction, ours
those with that input; of more than five, theirs draws five by chance, ours keeps the first.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from workbench.inert import is_utf8
from workbench.instructing.seeds import Instance
from workbench.instructing.similarity import LIMIT, Pool, rouge_l, words
from workbench.instructing.variety import FUNCTION

SHORTEST, LONGEST = 4, 150  # words of an instruction
LONGEST_OUTPUT = 300  # words
MOST_INSTANCES = 5  # of an instruction

# What a model that reads and writes text cannot do, by the authors' list; whole words.
KEYWORDS = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to", "video", "audio", "music", "flowchart", "diagram",
)  # fmt: skip
_KEYWORD = re.compile(rf"\b(?:{'|'.join(KEYWORDS)})\b", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"[\[<](?:insert|your|name|enter)\b[^\]>]*[\]>]|\{\{|lorem ipsum", re.IGNORECASE)

CUT_OFF = "cut off"
NEAR_DUPLICATE = "near-duplicate"
REPEATS = "repeats itself"
NO_OUTPUT = "no output"
NO_INPUT = "no input"
BROKEN = "broken characters"
TOO_MANY = "one of too many"


def instruction_fault(text: str, cut_off: bool) -> str | None:
    """Why an instruction is left out before it is compared with others; None where it is not."""
    count = len(text.split())
    faults = {
        CUT_OFF: cut_off,
        BROKEN: _broken(text),
        "too short": count < SHORTEST,
        "too long": count > LONGEST,
        "keyword": bool(_KEYWORD.search(text)),
        "asks for a program": text.lower().startswith("write a program"),
        "begins with punctuation": text[:1] in string.punctuation,
        "begins with non-ASCII": not text[:1].isascii(),
        REPEATS: repeats_itself(text),
    }
    return next((name for name, holds in faults.items() if holds), None)


def instance_faults(
    instruction: str,
    read: Sequence[tuple[str | None, str]],
    cut_off: bool,
    exemplars: Pool,
) -> list[str | None]:
    """Why each instance of an instruction is left out; None where it is not.

    Args:
        instruction: theirs.
        read: (input, output) as `parsing.read` gives them.
        cut_off: whether the answer broke off, so that the last of them did.
        exemplars: inputs with outputs that the teacher was shown.
    """
    whole = len(read) - cut_off
    outputs: dict[str | None, set[str]] = {}
    for given, output in read[:whole]:
        outputs.setdefault(given, set()).add(output)
    faults: list[str | None] = []
    for place, (given, output) in enumerate(read):
        if place >= whole:
            faults.append(CUT_OFF)
        elif given is None:
            faults.append(NO_INPUT)
        elif (given, output) in read[:place]:
            faults.append("duplicate")
        elif given and len(outputs[given]) > 1:
            faults.append("one input, several outputs")
        else:
            faults.append(_instance_fault(instruction, Instance(given, output), exemplars))
        if faults[-1] is None and faults.count(None) > MOST_INSTANCES:
            faults[-1] = TOO_MANY
    return faults


def joined(instance: Instance) -> str:
    """An instance as one text, to be compared with exemplars."""
    return f"{instance.input} {instance.output}"


def repeats_itself(text: str) -> bool:
    """Whether one word is more than half of four or more, or under 70 % of eight or more word triples differ."""
    all_words = re.findall(r"\w+", text.lower())
    triples = list(zip(all_words, all_words[1:], all_words[2:], strict=False))
    one_word = len(all_words) >= 4 and 2 * Counter(all_words).most_common(1)[0][1] > len(all_words)
    return one_word or (len(triples) >= 8 and 10 * len(set(triples)) < 7 * len(triples))


def _instance_fault(instruction: str, instance: Instance, exemplars: Pool) -> str | None:
    given, output = instance.input, instance.output
    faults = {
        NO_OUTPUT: not output,
        BROKEN: _broken(given) or _broken(output),
        "output says nothing": not re.search(r"\w", output),
        "output equals input": output == given,
        "ends in a colon": given.endswith(":") or output.endswith(":"),
        "output too long": len(output.split()) > LONGEST_OUTPUT,
        REPEATS: repeats_itself(given) or repeats_itself(output),
        "placeholder": bool(_PLACEHOLDER.search(given) or _PLACEHOLDER.search(output)),
        "echoes the instruction": _echoes(given, instruction) or _echoes(output, instruction),
        "copies an exemplar": exemplars.nearest(joined(instance))[1] > LIMIT,
    }
    return next((name for name, holds in faults.items() if holds), None)


def _echoes(text: str, instruction: str) -> bool:
    """Whether a text is an instruction over again: an answer in whole sentences has a word of its own besides."""
    said, told = words(text), words(instruction)
    return rouge_l(said, told) > LIMIT and not set(said) - set(told) - FUNCTION


def _broken(text: str) -> bool:
    """Whether a character is half of one, or stands for one that could not be read."""
    return not is_utf8(text) or "\ufffd" in text or "\x00" in text
