"""Reading single files of run folders that may be damaged, huge, or links to somewhere else."""

import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.files import read_json
from workbench.identity import from_json
from workbench.run_folder import RunFolder
from workbench.types import Result

DAMAGE = (
    UserError, OSError, TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError, OverflowError,
)  # fmt: skip
"""What reading and drawing a damaged or hostile file leads to."""

MOST = 64 * 2**20
"""Bytes of a file that is read whole."""

MOST_CARD = 200_000  # characters of a model card that are shown


def inside(folder: Path, name: str, most: int = MOST) -> Path | None:
    """The plain file of this name in a run's folder; None where there is none.

    Raises:
        UserError: it is a link out of the folder, or larger than `most` bytes.
    """
    file = folder / name
    if not file.is_file():
        return None
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{name} is a link out of the run's folder and is not followed.")
    if (size := file.stat().st_size) > most:
        raise UserError(f"{name} has {size:,} bytes, more than the {most:,} that are read.")
    return file


def read_run(folder: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        UserError: the folder holds no readable run.
    """
    inside(folder, "config.json", 4 * 2**20)
    run = RunFolder(folder)
    if not isinstance(run.config, dict):
        raise UserError("config.json is damaged: its config is no object.")
    return run


def read_results(run: RunFolder) -> tuple[dict[str, Result], list[str]]:
    """The run's results by name, its own first ("result"), then its rungs'; and what could not be read.

    Rungs come in the order of the run's config, others in the order in which they were finished.
    """
    results, problems = {}, []
    asked = asked_rungs(run)
    rungs = sorted(rung_names(run.path), key=lambda name: asked.index(name) if name in asked else len(asked))
    for name in ["result", *rungs]:
        stem = name if name == "result" else f"rung-{name}"
        try:
            file = inside(run.path, f"{stem}.json")
            if file is not None:
                told = file.stat()
                results[name] = _result(file, told.st_mtime_ns, told.st_size)
        except DAMAGE as error:
            problems.append(f"{stem}.json cannot be read: {error}")
    return results, problems


def asked_rungs(run: RunFolder) -> list[str]:
    """The rungs that a ladder was asked for, in their order; empty where its config names none."""
    ladder = run.config.get("ladder")
    asked = ladder.get("rungs") if isinstance(ladder, dict) else None
    return [name for name in asked if isinstance(name, str)] if isinstance(asked, list) else []


def rung_names(folder: Path) -> list[str]:
    """Names of the rungs that are finished, in the order in which they were."""
    files = [(file.lstat().st_mtime, file.name) for file in folder.glob("rung-*.json")]
    return [name.removeprefix("rung-").removesuffix(".json") for _, name in sorted(files)]


def read_card(run: RunFolder) -> str:
    """The model card's text; empty where the run made none.

    Raises:
        UserError: it is a link out of the folder, or far too long.
    """
    file = inside(run.path, "README.md")
    if file is None:
        return ""
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    more = len(text) - MOST_CARD
    return text if more <= 0 else f"{text[:MOST_CARD]}\n… ({more:,} more characters)"


def read_part(folder: Path, name: str) -> Any:
    """A JSON file of the run, or None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    file = inside(folder, name)
    return None if file is None else read_json(file)


def measured(folder: Path) -> tuple[tuple[str, int], ...]:
    """What tells whether a run has something new to show: its files, with the times of their writing."""
    files = [folder / name for name in ("result.json", "curves.json", "README.md")]
    found = []
    for file in [*files, *sorted(folder.glob("rung-*.json"))]:
        try:
            found.append((file.name, file.stat().st_mtime_ns))
        except OSError:
            continue
    return tuple(found)


def looks(root: Path, task_hash: str, split: str) -> int | None:
    """How many Systems the store says were looked at on a split; None without a store that can be read.

    The store is opened for reading, and where nobody else has it open no file is made beside it either.
    """
    file = root / "completions.sqlite"
    if not file.is_file():
        return None
    alone = not file.with_name(f"{file.name}-wal").exists()
    uri = f"{file.resolve().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as db:
            query = "SELECT count(*) FROM looks WHERE task_hash = ? AND split = ?"
            return int(db.execute(query, (task_hash, split)).fetchone()[0])
    except sqlite3.Error:
        return None


@lru_cache(maxsize=64)
def _result(file: Path, changed: int, size: int) -> Result:
    """The Result in a file, read once for each state of the file."""
    found = from_json(read_json(file))
    if not isinstance(found, Result):
        raise UserError(f"{file.name} is damaged: it holds no Result.")
    return found
