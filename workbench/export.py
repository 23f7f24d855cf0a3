"""Export of stored completions and of runs' outcomes to JSONL, CSV or Parquet; the suffix says which.

JSONL and Parquet hold every text as it is. A CSV is for spreadsheets, which run what looks like a formula: a
text that starts with one of `= + - @`, a tab or a carriage return gets an apostrophe in front (OWASP, "CSV
injection"); numbers stay numbers. UTF-8 has no lone surrogates: in CSV and Parquet they are written as
`\\udc00`, in JSONL as JSON's own escape of the same form. JSON has no infinity: it becomes null there.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import UserError
from workbench.files import atomic_file, json_bytes
from workbench.store import Store
from workbench.types import Result

Row = Mapping[str, Any]

# name → kind, of which Parquet makes column types
COMPLETION_COLUMNS = {
    "stream": int, "key": str, "question": str, "index": int, "text": str, "prompt_tokens": int,
    "completion_tokens": int, "logprob": float, "seconds": float, "finish": str,
}  # fmt: skip
OUTCOME_COLUMNS = {
    "run": str, "system": str, "task": str, "task_hash": str, "split": str, "question": str, "status": str,
    "score": float, "answer": str, "target": str, "samples": int,
}  # fmt: skip


def export_completions(store: Store, path: str | Path) -> int:
    """Write every completion of a store, a row each; `key` is its stream's key as JSON. Returns their number.

    Raises:
        UserError: the suffix is unknown, or the file cannot be written.
    """
    return _export(_completion_rows(store), COMPLETION_COLUMNS, path)


def export_outcomes(results: Mapping[str, Result], path: str | Path) -> int:
    """Write the outcome of every question of every result, a row each; `results` maps run ids to them.

    Raises:
        UserError: the suffix is unknown, or the file cannot be written.
    """
    return _export(_outcome_rows(results), OUTCOME_COLUMNS, path)


def _completion_rows(store: Store) -> Iterator[Row]:
    for stream, key, _ in store.streams():
        key_json = json.dumps(key, sort_keys=True)
        for question, c in store.rows(stream):
            values = (
                c.index,
                c.text,
                c.prompt_tokens,
                c.completion_tokens,
                c.logprob,
                c.seconds,
                c.finish.value,
            )
            yield dict(zip(COMPLETION_COLUMNS, (stream, key_json, question, *values), strict=True))


def _outcome_rows(results: Mapping[str, Result]) -> Iterator[Row]:
    for run, r in results.items():
        for o in r.outcomes:
            values = (o.id, o.status.value, o.score, o.answer, o.target, o.samples)
            head = (run, r.system, r.task, r.task_hash, r.split)
            yield dict(zip(OUTCOME_COLUMNS, (*head, *values), strict=True))


def _export(rows: Iterator[Row], columns: Mapping[str, type], path: str | Path) -> int:
    writer = _WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise UserError(f"The suffix of {str(path)!r} says no format. There are: {', '.join(_WRITERS)}.")
    written = 0

    def counted() -> Iterator[Row]:
        nonlocal written
        for row in rows:
            written += 1
            yield row

    with atomic_file(path) as file:
        writer(counted(), columns, file)
    return written


def _write_jsonl(rows: Iterator[Row], columns: Mapping[str, type], file: BinaryIO) -> None:
    for row in rows:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        file.write(json_bytes(finite) + b"\n")


def _write_csv(rows: Iterator[Row], columns: Mapping[str, type], file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_harmless(value) for value in row.values()] for row in rows)
    text.detach()


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _write_parquet(rows: Iterator[Row], columns: Mapping[str, type], file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with pq.ParquetWriter(file, schema) as writer:
        while block := [{name: _utf8(v) for name, v in row.items()} for row in islice(rows, 50_000)]:
            writer.write_table(pa.Table.from_pylist(block, schema=schema))


def _utf8(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


_WRITERS: dict[str, Callable[[Iterator[Row], Mapping[str, type], BinaryIO], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
