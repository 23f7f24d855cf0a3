"""The store: every completion ever paid for, in one SQLite file (`runs/completions.sqlite`).

A *stream* is one kind of completion: a model's identity, a prompt, sampling parameters, an engine's version.
Its key is interned as a small number; a completion is found by stream, question id and sample index. Whatever
is not in the key can never tell two completions apart, so whatever may change a text belongs in it.

What a failure costs:

- `kill -9`: the batch in flight. Every `append` is one transaction in the write-ahead log (WAL), and what is
  in the log outlives the process. `synchronous=NORMAL` is enough for that and saves an fsync a batch; only a
  power cut can take the last batches with it, and then they are drawn again.
- a damaged or truncated file: opening checks the whole file (0.2 s for a million rows), copies every row that
  can still be read into a fresh file, keeps the damaged one beside it and says so on stderr.
- a truncated log: SQLite drops what follows the first broken frame; opening says so. A log that was cut right
  after a batch cannot be told from one that never had the next batch.

In every case the rows that are left are whole, and `missing` names the ones to draw again.
"""

import json
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from workbench.errors import UserError
from workbench.identity import to_json
from workbench.salvage import COLUMNS, PATIENCE, copy_readable, primary_code, warn_of_cut_log
from workbench.types import Completion, Finish

# Append-only: a released migration is never edited; the next one is added below it. Texts are BLOBs, because
# SQLite's TEXT is UTF-8 and stops at NUL in places, and a completion may hold a lone surrogate. Rows lie in
# the order of their writing (rowid), so that a file cut short loses the latest; question ids are interned,
# which halves the time to write a million rows (4 s against 7 s) and saves a fifth of the file (103 MB).
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE streams (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE)",
        "CREATE TABLE questions (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE)",
        """CREATE TABLE completions (
            stream INTEGER NOT NULL, question INTEGER NOT NULL, idx INTEGER NOT NULL, text BLOB NOT NULL,
            prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
            logprob REAL, seconds REAL NOT NULL, finish TEXT NOT NULL,
            UNIQUE (stream, question, idx))""",
        """CREATE TABLE looks (task_hash TEXT, split TEXT, system_hash TEXT,
            PRIMARY KEY (task_hash, split, system_hash)) WITHOUT ROWID""",
    ),
)


class Store:
    """One open store file. Use it from the thread that opened it; any number of processes may share the file.

    Opening a damaged file repairs it, with a warning on stderr (see `salvage`).

    Raises:
        UserError: the file was written by a newer version, or cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One opener at a time: the switch to WAL, the migrations and a repair do not bear company.
            with FileLock(f"{self.path}.lock"):
                self._db = _open_sound(self.path)
                _migrate(self._db, self.path)

    def stream(self, key: Mapping[str, Any]) -> int:
        """The number of the stream with this key: equal keys have one number, in any order of fields."""
        canonical = json.dumps(to_json(key), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        find = ("SELECT id FROM streams WHERE key = ?", (_encode(canonical),))
        with _explained(self.path):
            row = self._db.execute(*find).fetchone()
            if row is None:
                with self._transaction():
                    self._db.execute("INSERT OR IGNORE INTO streams (key) VALUES (?)", find[1])
                    row = self._db.execute(*find).fetchone()
        return int(row[0])

    def append(self, stream: int, batch: Sequence[tuple[str, Completion]]) -> None:
        """Store a batch of (question id, completion) in one transaction; when it returns, the batch is safe.

        The first writer of a sample wins: a second completion of the same index is left out, so that everyone
        who reads a sample reads the same one. A log-probability of NaN is stored as None.

        Raises:
            ValueError: a completion finished with an error; a failed request is never stored.
            UserError: the disk is full; nothing of this batch was stored.
        """
        for question, c in batch:
            if c.finish is Finish.ERROR or c.error is not None:
                raise ValueError(f"sample {c.index} of question {question!r} failed ({c.error}): not stored")
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO questions (name) VALUES (?)",
                [(name,) for name in dict.fromkeys(_encode(question) for question, _ in batch)],
            )
            self._db.executemany(
                f"INSERT OR IGNORE INTO completions (stream, question, {COLUMNS}) "
                "VALUES (?, (SELECT id FROM questions WHERE name = ?), ?, ?, ?, ?, ?, ?, ?)",
                [(stream, _encode(question), *_row(c)) for question, c in batch],
            )

    def read(self, stream: int, question_ids: Sequence[str], n: int) -> dict[str, list[Completion]]:
        """The stored completions with an index below n, in index order; questions without any are absent."""
        found = {}
        for question in question_ids:
            rows = self._select(COLUMNS, stream, question, n)
            if rows:
                found[question] = [_completion(row) for row in rows]
        return found

    def missing(self, stream: int, question_ids: Sequence[str], n: int) -> dict[str, tuple[int, ...]]:
        """The indices below n that are not stored, by question; questions that have them all are absent."""
        gaps = {}
        for question in question_ids:
            have = {idx for (idx,) in self._select("idx", stream, question, n)}
            if len(have) < n:
                gaps[question] = tuple(i for i in range(n) if i not in have)
        return gaps

    def record_look(self, task_hash: str, split: str, system_hash: str) -> None:
        """Note that a System was measured on a split of a task; measuring it again adds nothing."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO looks VALUES (?, ?, ?)", (task_hash, split, system_hash))

    def looks(self, task_hash: str, split: str) -> int:
        """How many different Systems were measured on that split."""
        with _explained(self.path):
            row = self._db.execute(
                "SELECT count(*) FROM looks WHERE task_hash = ? AND split = ?", (task_hash, split)
            ).fetchone()
        return int(row[0])

    def streams(self) -> Iterator[tuple[int, dict[str, Any], int]]:
        """Every stream: its number, its key and how many completions it has."""
        with _explained(self.path):
            counts = dict(self._db.execute("SELECT stream, count(*) FROM completions GROUP BY stream"))
            for number, key in self._db.execute("SELECT id, key FROM streams ORDER BY id"):
                yield number, json.loads(_decode(key)), counts.get(number, 0)

    def rows(self, stream: int) -> Iterator[tuple[str, Completion]]:
        """Every completion of a stream, by question in the order of their first appearance, then by index."""
        with _explained(self.path):
            for name, *row in self._db.execute(
                f"SELECT name, {COLUMNS} FROM completions JOIN questions ON questions.id = question "
                "WHERE stream = ? ORDER BY question, idx",
                (stream,),
            ):
                yield _decode(name), _completion(row)

    def close(self) -> None:
        """Close the file; the last to close it folds the log into it."""
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _select(self, columns: str, stream: int, question: str, n: int) -> list[Any]:
        with _explained(self.path):
            return self._db.execute(
                f"SELECT {columns} FROM completions WHERE stream = ? "
                "AND question = (SELECT id FROM questions WHERE name = ?) AND idx < ? ORDER BY idx",
                (stream, _encode(question), n),
            ).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE takes the write lock at once, where waiting is possible; a transaction that starts by
        # reading and turns to writing is refused ("database is locked") when another writer was faster.
        with _explained(self.path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield


def salvage(path: str | Path) -> int:
    """Replace a damaged store by a fresh one with every row that can still be read; returns their number.

    Opening a store calls this where it must. The damaged file and its log are kept, as
    `completions.damaged-<n>.sqlite`. No other process may have the file open: what it writes from then on
    goes to the file that was set aside.
    """
    path = Path(path)
    aside = next(
        p for n in range(1, 10**6) if not (p := path.with_name(f"{path.stem}.damaged-{n}{path.suffix}")).exists()
    )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".salvage-") as folder:
        fresh = Path(folder) / path.name
        with Store(fresh) as store, store._transaction():
            kept = copy_readable(path, store._db)
        for suffix in ("-wal", "-shm"):  # before the file itself: a fresh file must never meet an old log
            log = path.with_name(path.name + suffix)
            if log.exists():
                log.replace(f"{aside}{suffix}")
        path.replace(aside)
        fresh.replace(path)
    print(
        f"warning: {path} was damaged. {kept} completions could be read and were kept; the damaged file is "
        f"now {aside}. What is missing will be drawn again; `workbench export` writes out what there is.",
        file=sys.stderr,
    )
    return kept


def _open_sound(path: Path) -> sqlite3.Connection:
    """Open a store, repaired if need be."""
    if path.exists() and path.stat().st_size == 0:  # cut to nothing; SQLite would take it for a new one
        salvage(path)
    db = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA journal_mode = WAL")
        warn_of_cut_log(db, path)
        if db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
            return db
    except sqlite3.DatabaseError as error:
        if primary_code(error) not in _DAMAGED:
            db.close()
            raise
    db.close()
    salvage(path)
    return _open_sound(path)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        db.close()
        raise UserError(
            f"{path} was written by a newer version of the workbench (its format is {version}, this version "
            f"knows up to {len(MIGRATIONS)}). Upgrade, or use another runs folder."
        )
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        with db:
            db.execute("BEGIN IMMEDIATE")
            for statement in statements:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what a person can mend about a file into a `UserError`; anything else is a bug and passes."""
    try:
        yield
    except OSError as error:
        raise UserError(f"The store {path} cannot be opened: {error.strerror or error}.") from error
    except sqlite3.DatabaseError as error:
        code = primary_code(error)
        if code in _DAMAGED:
            raise UserError(
                f"The store {path} is damaged ({error}). Run the same command again: opening it keeps every "
                f"row that can be read, and draws again what is missing. `workbench export` writes them out."
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise UserError(
                f"The disk is full: the last batch was not stored in {path}; those before it are intact. "
                f"Free some space, then run the same command again: it goes on where it stopped."
            ) from error
        if code in _UNUSABLE:
            raise UserError(f"The store {path} cannot be used: {error}.") from error
        raise


_FINISH = {finish.value: finish for finish in Finish}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_UNUSABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _row(c: Completion) -> tuple[Any, ...]:
    counts = (c.prompt_tokens, c.completion_tokens)
    return c.index, _encode(c.text), *counts, c.logprob, c.seconds, c.finish.value


def _completion(row: Sequence[Any]) -> Completion:
    index, text, prompt_tokens, completion_tokens, logprob, seconds, finish = row
    return Completion(index, _decode(text), prompt_tokens, completion_tokens, logprob, seconds, _FINISH[finish])
