"""What a teacher's text says: a numbered list of instructions, a kind of task, instances as exemplars show them.

`show` and `read` are each other's inverse: an exemplar's instances are shown as the answer's are read.
"""

import re
from collections.abc import Sequence

from workbench.instructing.seeds import Instance

_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d+[ \t]?[.)](?=\s|$)")
_EXAMPLE = re.compile(r"^[ \t]*Example[ \t]*\d*[.:]?[ \t]*$", re.MULTILINE | re.IGNORECASE)
_MARKER = re.compile(r"^[ \t]*(Class label|Input|Output)[ \t]*\d*[ \t]*:", re.MULTILINE | re.IGNORECASE)
_NOTHING = re.compile(r"(?:none|n/a|<?no ?input>?|no input (?:is )?(?:needed|required))\.?", re.IGNORECASE)


def instructions(text: str) -> list[str]:
    """The items of a numbered list that goes on after a number: ` first\\n10. second`; runs of white space folded.

    The first letter becomes a capital; the rest stays as it is.
    """
    items = (" ".join(item.split()) for item in _NUMBER.split(text))
    return [item[:1].upper() + item[1:] for item in items if item]


KINDS = {True: "label", False: "text"}  # what a decision says of a task that classifies, and of one that does not


def decision(text: str) -> bool | None:
    """Whether the answer's first word says that a task classifies; None where it says neither."""
    word = re.match(r"\W*(\w+)", text)
    said = word[1].lower() if word else ""
    return next((classifies for classifies, name in KINDS.items() if said in (name, f"{name}s")), None)


def show(instances: Sequence[Instance], classification: bool) -> str:
    """Instances as an exemplar has them: labels first in a classification task, inputs first in any other."""
    blocks = []
    for instance in instances:
        if classification:
            blocks.append(f"Class label: {instance.output}\nInput: {instance.input}")
        else:
            given = f"Input: {instance.input}\n" if instance.input else ""
            blocks.append(f"{given}Output: {instance.output}")
    return "\n".join(blocks)


def read(text: str, classification: bool) -> list[tuple[str | None, str]]:
    """(input, output) of every instance in an answer, in its order.

    The input is None where the others have one and this has not, and always in a label without an input. An
    input of `None` or `N/A` is an empty one. An input without output has the output "".
    """
    head, tail = ("class label", "input") if classification else ("input", "output")
    parts = _MARKER.split(_EXAMPLE.sub("", text))
    values = [(name.lower(), value.strip()) for name, value in zip(parts[1::2], parts[2::2], strict=True)]
    found: list[tuple[str | None, str]] = []
    first: str | None = None  # of the pair that is not complete yet

    def end(second: str | None) -> None:
        given, output = (second, first or "") if classification else (first, second or "")
        if not classification and given is None and all(name != "input" for name, _ in values):
            given = ""
        found.append(("" if given is not None and _NOTHING.fullmatch(given) else given, output))

    for name, value in values:
        if name == head:
            if first is not None:
                end(None)
            first = value
        elif name == tail and (first is not None or not classification):
            end(value)
            first = None
    if first is not None:
        end(None)
    return found
