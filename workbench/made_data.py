"""A data set that a model made: a file that tuning reads as it is, with where each line comes from, and its card.

`data.jsonl` has the fields `id`, `prompt`, `completion` and `source`; `sft` and `lora` take it as `--data FILE`
and pass over the last. `README.md` beside it is the card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.files import json_bytes, write_atomic
from workbench.inert import is_utf8
from workbench.runs import Run
from workbench.tasks.rows import bad_row, iterate_rows, text_field, turns_field
from workbench.types import Message


@dataclass(frozen=True)
class Made:
    """One example that a model made.

    Attributes:
        id: its own in the data set.
        prompt: a user's turn as text, or the turns that lead to the completion; the last is not the assistant's.
        completion: what is to be learned.
        source: where it comes from, as JSON data: method, teacher, round, scores, …
    """

    id: str
    prompt: str | tuple[Message, ...]
    completion: str
    source: Mapping[str, Any]


def write_made(run: Run, rows: Sequence[Made], card: str) -> Path:
    """Write `README.md` and then `data.jsonl` into the run's folder, each whole; gives the data's path.

    Args:
        run: whose folder it is.
        rows: in the order in which they are written.
        card: Markdown: what made the data, from what, what was left out and why.

    Raises:
        UserError: there is no row, or a file cannot be written.
        ValueError: two rows have one id, or a row has an empty text or broken characters, which no reader takes.
    """
    if not rows:
        raise UserError("Nothing was kept, so there is no data set to write.")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"two rows have the id {row.id!r}")
        seen.add(row.id)
        if not _texts(row) or not all(text.strip() and is_utf8(text) for text in _texts(row)):
            raise ValueError(f"row {row.id!r} has a text that is empty or not UTF-8")
    run.write_card(card)
    path = run.path / "data.jsonl"
    write_atomic(path, b"".join(json_bytes(_as_json(row)) + b"\n" for row in rows))
    return path


def read_made(path: str | Path) -> list[Made]:
    """The rows of a `data.jsonl`, in their order; a row without `source` has an empty one.

    Raises:
        UserError: the file does not exist or is empty, or a row is at fault; the message names row and field.
    """
    source = str(path)
    rows: dict[str, Made] = {}
    for number, row in iterate_rows(source):
        id = text_field(source, number, row, "id")
        if id in rows:
            raise bad_row(source, number, f"another row has the id {id!r}", "id")
        whence = row.get("source", {})
        if not isinstance(whence, dict):
            raise bad_row(source, number, "it must be an object", "source")
        prompt: str | tuple[Message, ...]
        if isinstance(row.get("prompt"), list):
            prompt = turns_field(source, number, row, "prompt")
        else:
            prompt = text_field(source, number, row, "prompt")
        rows[id] = Made(id, prompt, text_field(source, number, row, "completion"), whence)
    return list(rows.values())


def _texts(row: Made) -> list[str]:
    prompt = [row.prompt] if isinstance(row.prompt, str) else [message.content for message in row.prompt]
    return [*prompt, row.completion] if prompt else []


def _as_json(row: Made) -> dict[str, Any]:
    prompt: Any = row.prompt
    if not isinstance(prompt, str):
        prompt = [{"role": message.role, "content": message.content} for message in prompt]
    return {"id": row.id, "prompt": prompt, "completion": row.completion, "source": dict(row.source)}
