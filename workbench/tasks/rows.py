"""Rows of data files: JSONL, CSV and Parquet files and Hub data sets, each row with its number.

A bad row stops the reading, and its error names file, row (1-based; the line it starts on, in a text file) and
field. Text is UTF-8, with or without a byte order mark.
"""

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from workbench.errors import UserError
from workbench.inert import is_utf8
from workbench.prompt_files import ROLES
from workbench.types import Message

Row = tuple[int, dict[str, Any]]

FILES = (".jsonl", ".csv", ".parquet")

_BATCH = 256  # rows of a Parquet file that are made Python objects at once


def bad_row(source: str, number: int, problem: str, field: str | None = None) -> UserError:
    """The error for one row of a data file, or for one field of it."""
    where = f", field {field!r}" if field is not None else ""
    return UserError(f"{source}, row {number}{where}: {problem}.")


def read_rows(path: str) -> list[Row]:
    """All rows of a .jsonl, .csv or .parquet file.

    Raises:
        UserError: the file does not exist, is empty or of another kind, or a row cannot be read.
    """
    return list(iterate_rows(path))


def iterate_rows(path: str) -> Iterator[Row]:
    """The rows of a file one after the other, in little memory however many there are.

    Raises:
        UserError: as `read_rows`, when the row is come to.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    assert readers.keys() == set(FILES)
    file = Path(path)
    if not file.is_file():
        raise UserError(f"There is no data file {path!r}.")
    if file.suffix not in readers:
        raise UserError(f"{path} is not one of {', '.join(readers)}; its name must end in one of them.")
    number = 0
    for number, row in readers[file.suffix](file):
        yield number, row
    if not number:
        raise UserError(f"{path} is empty: it holds no row.")


def hub_rows(name: str, subset: str | None = None, advice: str = "") -> list[Row]:
    """All rows of all splits of a data set on the Hugging Face Hub, or of its copy in the local cache.

    Each row has the name of its split in the field `split`, unless the data set has a field of that name.

    Raises:
        UserError: as `load_hub`.
    """
    loaded = load_hub(name, subset, advice=advice)
    merged = [{"split": split, **row} for split, rows in loaded.items() for row in rows]
    return list(enumerate(merged, start=1))


def load_hub(
    name: str, subset: str | None = None, split: str | None = None, *, stream: bool = False, advice: str = ""
) -> Any:
    """A data set on the Hugging Face Hub, or its copy in the local cache (`datasets`): one split, or all by name.

    Raises:
        UserError: it cannot be loaded: no network and not in the cache, no such data set, or one that needs
            its own code to be run (which is never done). The message ends in `advice`.
    """
    with _hub(name, advice) as datasets:
        return datasets.load_dataset(name, subset, split=split, streaming=stream)


def hub_hash(name: str, subset: str | None = None) -> str:
    """A hash of a Hub data set's files and their revision, without reading them.

    Raises:
        UserError: as `load_hub`.
    """
    with _hub(name) as datasets:
        return str(datasets.load_dataset_builder(name, subset).hash)


@contextmanager
def _hub(name: str, advice: str = "") -> Iterator[Any]:
    """The library; whatever it raises in the block is said in a sentence."""
    import datasets

    try:
        yield datasets
    # The library raises its own errors, the Hub client's and the network's, with no common class.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
        raise UserError(
            f"The Hub data set {name!r} cannot be loaded ({reason}). With a network it is fetched by itself "
            f"and then kept in the cache for use without one. {advice}".rstrip()
        ) from error


def text_field(source: str, number: int, row: dict[str, Any], field: str) -> str:
    """A field of a row as text; numbers are written out.

    Raises:
        UserError: the field is missing or empty, is no text or number, is NaN, or has broken characters.
    """
    if field not in row:
        raise bad_row(source, number, f"the row has no such field; it has {', '.join(map(repr, row))}", field)
    value = row[field]
    if isinstance(value, float) and not math.isfinite(value):
        raise bad_row(source, number, f"{value} is no number", field)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise bad_row(source, number, f"{value!r:.60} is neither text nor a number", field)
    text = str(value)
    if not is_utf8(text):
        raise bad_row(source, number, "the text is not UTF-8", field)
    if not text.strip():
        raise bad_row(source, number, "the field is empty", field)
    return text


def turns_field(source: str, number: int, row: dict[str, Any], field: str) -> tuple[Message, ...]:
    """A field that holds turns, each with `role` and `content`; as JSON text too, as in CSV.

    Raises:
        UserError: it is no such list, a role is unknown, or a content is not as `text_field` wants it.
    """
    turns = row.get(field)
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError) as error:
            raise bad_row(source, number, f"it is not JSON ({error})", field) from None
    if not isinstance(turns, (list, tuple)) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise bad_row(source, number, "it must be a list of turns, each with 'role' and 'content'", field)
    messages = []
    for i, turn in enumerate(turns, start=1):
        role = turn.get("role")
        if role not in ROLES:
            problem = f"the role of turn {i} is {role!r:.60}; it must be one of {', '.join(ROLES)}"
            raise bad_row(source, number, problem, field)
        where = f"{field}, turn {i}, content"
        messages.append(Message(role, text_field(source, number, {where: turn.get("content")}, where)))
    return tuple(messages)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _jsonl(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        for number, data in enumerate(lines, start=1):
            # Bytes that are not UTF-8 become lone surrogates, so that the row and the field can be named.
            line = data.decode("utf-8", "surrogateescape")
            line = line.removeprefix("\ufeff") if number == 1 else line
            if line.strip():
                yield number, _object(file, number, line)


def _object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise bad_row(str(file), number, f"the line is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise bad_row(str(file), number, "the line is no JSON object")
    _check_text(file, number, row)
    return row


def _csv(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        number = 1
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise bad_row(str(file), number, f"the row is not CSV ({error})") from None
            if not header:
                header = values
                _check_header(file, number, header)
            elif values:
                if len(values) != len(header):
                    problem = f"the row has {len(values)} fields where the header has {len(header)}"
                    raise bad_row(str(file), number, problem)
                row = dict(zip(header, values, strict=True))
                _check_text(file, number, row)
                yield number, row
            number = reader.line_num + 1


def _check_header(file: Path, number: int, header: list[str]) -> None:
    if not all(map(is_utf8, header)):
        raise bad_row(str(file), number, "the header is not UTF-8")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise bad_row(str(file), number, "two columns have this name", repeated[0])


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                rows = batch.to_pylist()
                yield from enumerate(rows, start=number + 1)
                number += len(rows)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {error}") from None


def _check_text(file: Path, number: int, row: dict[str, Any]) -> None:
    for field, value in row.items():
        if isinstance(value, str) and not is_utf8(value):
            raise bad_row(str(file), number, "the text is not UTF-8", field)
