"""What a damaged store still holds: its readable rows, and whether its log lost its end.

`store.py` asks, and puts a fresh file in the damaged one's place.
"""

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from workbench.types import Finish

COLUMNS = "idx, text, prompt_tokens, completion_tokens, logprob, seconds, finish"
"""A completion's own columns, in the order of a stored row."""

PATIENCE = 600
"""Seconds to wait for another writer's batch. One takes milliseconds; only a stopped process takes longer."""

_FINISHES = frozenset(Finish)


def copy_readable(path: Path, db: sqlite3.Connection) -> int:
    """Copy every row of a damaged store that can still be read into a fresh one; returns the completions.

    Args:
        path: the damaged file; it is only read.
        db: the fresh one, with its tables made and a transaction begun.
    """
    source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    # Reads what is there of a file that is shorter than its header says; SQLite refuses it otherwise.
    source.execute("PRAGMA writable_schema = ON")
    for table, columns in (("streams", "id, key"), ("questions", "id, name")):
        for row in chain(_readable_rows(source, table, columns), _readable_index(source, table, columns)):
            if isinstance(row[2], bytes):
                db.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", row[1:])
    for row in _readable_rows(source, "completions", f"stream, question, {COLUMNS}"):
        # A row whose stream or question was lost must go: their numbers will be given to others.
        if _is_plausible(row[3:]):
            db.execute(
                f"INSERT OR IGNORE INTO completions (stream, question, {COLUMNS}) "
                "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 "
                "WHERE EXISTS (SELECT 1 FROM streams WHERE id = ?1) "
                "AND EXISTS (SELECT 1 FROM questions WHERE id = ?2)",
                row[1:],
            )
    try:
        db.executemany("INSERT OR IGNORE INTO looks VALUES (?, ?, ?)", source.execute("SELECT * FROM looks"))
    except sqlite3.DatabaseError:
        print("warning: the count of systems that were measured on `test` was lost.", file=sys.stderr)
    source.close()
    return int(db.execute("SELECT count(*) FROM completions").fetchone()[0])


def _readable_rows(db: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Every row that can be read, in rowid order, its rowid first; damaged stretches are stepped over."""
    query = f"SELECT rowid, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid"

    def readable_after(rowid: int) -> bool:
        try:
            db.execute(f"{query} LIMIT 1", (rowid,)).fetchone()
        except sqlite3.DatabaseError:
            return False
        return True

    last = 0
    while True:
        try:
            for row in db.execute(query, (last,)):
                last = row[0]
                yield row
            return
        except sqlite3.DatabaseError:
            # Gallop over the hole, then bisect back to its end: logarithmic in the number of lost rows.
            step = 1
            while not readable_after(last + step):
                step *= 2
                if last + step > 2**62:
                    return
            low, high = last + step // 2, last + step
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if readable_after(middle) else (middle, high)
            last = high


def _readable_index(db: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """The same rows from the index of a table's second column, which holds them too, from both of its ends.

    One lost page of `questions` would cost the completions of two hundred questions; here is its second copy.
    """
    for order in ("ASC", "DESC"):
        try:
            yield from db.execute(f"SELECT rowid, {columns} FROM {table} ORDER BY 3 {order}")
        except sqlite3.DatabaseError:
            continue


def _is_plausible(row: Sequence[Any]) -> bool:
    # A damaged page may still parse; what it holds then seldom has the right types.
    kinds: tuple[Any, ...] = (int, bytes, int, int, (float, type(None)), float, str)
    typed = all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))
    return typed and row[-1] in _FINISHES


def warn_of_cut_log(db: sqlite3.Connection, path: Path) -> None:
    """Say so when the log holds more frames than SQLite took for valid: its end was lost or never finished.

    Format: https://www.sqlite.org/walformat.html. SQLite itself is asked for the number of valid frames. The
    `-shm` file has it too, but a process that opens and closes that file (or the store's own) drops every
    lock it holds on it.
    """
    lock = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE)
    try:
        lock.execute("BEGIN IMMEDIATE")  # no other writer is in the middle of a batch now
        _, valid_frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        log = Path(f"{path}-wal").read_bytes()
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_FULL:
            raise
        return  # what is stored can be read on a full disk too
    finally:
        lock.close()
    if valid_frames < 0:  # another process is at its checkpoint, and so has just read the log
        return
    page_size, salt = int.from_bytes(log[8:12], "big"), log[16:24]
    starts = range(32, len(log), 24 + page_size)
    written_frames = next((i for i, s in enumerate(starts) if log[s + 8 : s + 16] != salt), len(starts))
    if written_frames > valid_frames:
        print(
            f"warning: the log of {path} was cut off in the middle of a batch (a kill, a full disk or a "
            f"truncated file). Every batch before it is there; `missing` ones will be drawn again.",
            file=sys.stderr,
        )


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; its extended codes say more in the higher bytes."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
