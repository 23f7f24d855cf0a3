"""Preference pairs and their file: one prompt, an answer that is preferred and one that is not.

JSONL, a pair a line:

    prompt     text (the user's turn), or a list of turns, each with `role` and `content`
    chosen     text of the answer that is preferred
    rejected   text of the other one
    margin     optional: how much better it is, at least 0, in the units of whoever judged
    group      optional: the prompt's id, which all pairs of one prompt share; by default a hash of the prompt
    source     optional: where the pair comes from
    style      optional: `text` joins the turns as they are; by default `chat`

Read, but never written, are also TRL's conversational forms (`chosen` and `rejected` as lists of turns: the
assistant's turn alone, or the prompt and that turn; without `prompt` their common beginning is the prompt), the
fields `score_chosen` and `score_rejected` in place of a margin, and CSV and Parquet files of the same columns.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.files import json_bytes, write_atomic
from workbench.prompt_files import STYLES
from workbench.tasks.rows import bad_row, iterate_rows, text_field, turns_field
from workbench.types import Message, text_hash

Turns = tuple[Message, ...]


@dataclass(frozen=True)
class Pair:
    """One preference.

    Attributes:
        prompt: the conversation that both answers follow.
        style: as `Prompt.style`.
        chosen, rejected: the answers' texts, which differ; no token that ends a turn is in them.
        margin: how much better the chosen one is; None where nobody says.
        group: id of the prompt; a split or a batch takes all pairs of a group or none.
        source: where the pair comes from.
    """

    prompt: Turns
    style: str
    chosen: str
    rejected: str
    margin: float | None = None
    group: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", prompt_group(self.prompt, self.style))


def prompt_group(prompt: Turns, style: str = "chat") -> str:
    """The group of a prompt that nobody named: 16 hexadecimal digits, equal for equal prompts."""
    return text_hash(json.dumps([style, *([m.role, m.content] for m in prompt)], ensure_ascii=False))


def read_pairs(path: str | Path) -> list[Pair]:
    """All pairs of a .jsonl, .csv or .parquet file, in their order.

    Raises:
        UserError: the file cannot be read, or a row is no pair: a field is missing or of another kind, both
            answers are the same, one prompt stands in two groups, or two prompts stand in one. File, row and
            field are named.
    """
    source = str(path)
    pairs: list[Pair] = []
    groups: dict[tuple[Turns, str], tuple[str, int]] = {}
    prompts: dict[str, tuple[tuple[Turns, str], int]] = {}
    for number, row in iterate_rows(source):
        pair = _pair(source, number, row)
        group, first = groups.setdefault((pair.prompt, pair.style), (pair.group, number))
        if group != pair.group:
            problem = (
                f"its prompt is that of row {first}, whose group is {group!r}, so it cannot be {pair.group!r}"
            )
            raise bad_row(source, number, problem, "group")
        prompt, first = prompts.setdefault(pair.group, ((pair.prompt, pair.style), number))
        if prompt != (pair.prompt, pair.style):
            problem = f"it is {pair.group!r:.60}, the group of row {first}, whose prompt is another"
            raise bad_row(source, number, problem, "group")
        pairs.append(pair)
    return pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSONL, all at once; `read_pairs` gives them back equal.

    Raises:
        UserError: the file cannot be written.
        ValueError: a margin, or a number of a source, is NaN or infinite.
    """
    write_atomic(path, b"".join(json_bytes(_row(pair)) + b"\n" for pair in pairs))


def conflicts(pairs: Sequence[Pair]) -> int:
    """How many pairs another one contradicts: of one group, with chosen and rejected the other way round."""
    said = {(pair.group, pair.chosen, pair.rejected) for pair in pairs}
    return sum((pair.group, pair.rejected, pair.chosen) in said for pair in pairs)


def distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs without repetitions: of equal prompt, chosen and rejected the first."""
    first: dict[Any, Pair] = {}
    for pair in pairs:
        first.setdefault((pair.prompt, pair.style, pair.chosen, pair.rejected), pair)
    return list(first.values())


def _row(pair: Pair) -> dict[str, Any]:
    plain = pair.style == "chat" and [message.role for message in pair.prompt] == ["user"]
    row: dict[str, Any] = {
        "prompt": pair.prompt[0].content if plain else [vars(message) for message in pair.prompt],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "margin": pair.margin,
        "group": pair.group,
        "source": dict(pair.source),
        "style": pair.style,
    }
    default: dict[str, Any] = {"margin": None, "source": {}, "style": "chat"}
    return {key: value for key, value in row.items() if key not in default or value != default[key]}


def _pair(source: str, number: int, row: dict[str, Any]) -> Pair:
    style = row.get("style") or "chat"
    if style not in STYLES:
        raise bad_row(source, number, f"it is {style!r:.60}; it must be one of {', '.join(STYLES)}", "style")
    said = {name: _turns_or_text(source, number, row, name) for name in ("chosen", "rejected")}
    if row.get("prompt") is not None:
        before = prompt_field(source, number, row)
    elif any(isinstance(answer, str) for answer in said.values()):
        problem = "the row has none, which only chosen and rejected answers that are lists of turns may do without"
        raise bad_row(source, number, problem, "prompt")
    else:
        before = _common(*(answer for answer in said.values() if not isinstance(answer, str)))
        if not before:
            raise bad_row(source, number, "it and 'rejected' have no beginning in common", "chosen")
    chosen, rejected = (_answer(source, number, name, before, answer) for name, answer in said.items())
    if chosen == rejected:
        raise bad_row(source, number, "it is the same as 'chosen', so nothing is preferred", "rejected")
    group = row.get("group")
    return Pair(
        prompt=before,
        style=style,
        chosen=chosen,
        rejected=rejected,
        margin=_margin(source, number, row),
        group="" if group in (None, "") else text_field(source, number, row, "group"),
        source=_origin(row.get("source")),
    )


def prompt_field(source: str, number: int, row: dict[str, Any]) -> Turns:
    """A row's `prompt`: its turns, or the one turn of the user that a text is.

    Raises:
        UserError: it is missing, or neither.
    """
    prompt = _turns_or_text(source, number, row, "prompt")
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def _turns_or_text(source: str, number: int, row: dict[str, Any], name: str) -> str | Turns:
    value = row.get(name)
    listed = isinstance(value, (list, tuple))
    # A table's cell holds turns as JSON; in the other kinds of files a text is a text.
    if listed or (source.endswith(".csv") and str(value).lstrip().startswith('[{"')):
        return turns_field(source, number, row, name)
    return text_field(source, number, row, name)


def _common(chosen: Turns, rejected: Turns) -> Turns:
    """The turns that both begin with; the last turn of each is an answer, even where it is the same."""
    same = 0
    for left, right in zip(chosen[:-1], rejected[:-1], strict=False):
        if left != right:
            break
        same += 1
    return chosen[:same]


def _answer(source: str, number: int, name: str, prompt: Turns, answer: str | Turns) -> str:
    """The text of an answer that was given as a text, as the assistant's turn, or behind the whole prompt."""
    if isinstance(answer, str):
        return answer
    rest = answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer
    if [turn.role for turn in rest] != ["assistant"]:
        problem = "behind the prompt it must be one turn of the assistant: a preference is between two answers"
        raise bad_row(source, number, problem, name)
    return rest[0].content


def _margin(source: str, number: int, row: dict[str, Any]) -> float | None:
    scores = [_number(source, number, row, name) for name in ("score_chosen", "score_rejected")]
    margin = _number(source, number, row, "margin")
    if margin is None and scores[0] is not None and scores[1] is not None:
        margin = scores[0] - scores[1]
    if margin is not None and margin < 0:
        raise bad_row(source, number, f"{margin:g} says that the rejected answer is the better one", "margin")
    return margin


def _number(source: str, number: int, row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":  # an empty cell of a table
        return None
    try:
        if isinstance(value, bool) or not math.isfinite(found := float(value)):
            raise ValueError
    except (TypeError, ValueError):
        raise bad_row(source, number, f"{value!r:.60} is no number", name) from None
    return found


def _origin(value: Any) -> Mapping[str, Any]:
    """A pair's `source`; data sets of others have a word there."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    return {} if value is None or value == "" else {"name": str(value)}


def plain(value: Any) -> Any:
    """A field of a row as JSON has it: a table's dates as text, and nothing for what is no number."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
