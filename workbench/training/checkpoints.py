"""Checkpoints that are whole or do not count.

The trainer writes a checkpoint file by file. When the last is written, a list of all files with their sizes is
put beside them; a checkpoint without the list, or whose files do not fit it, is passed over when a run goes on.
"""

import os
import shutil
import sys
from pathlib import Path

from workbench.errors import UserError
from workbench.files import read_json, write_json

_LIST = "complete.json"


def mark_complete(folder: Path) -> None:
    """Write the list of a checkpoint's files: from now on it counts."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / _LIST]
    for path in files:  # or a power cut could leave files of the right size and nothing in them
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    write_json(folder / _LIST, sizes)


def is_complete(folder: Path) -> bool:
    """Whether every file that the checkpoint was written with is there in its full size."""
    try:
        sizes = read_json(folder / _LIST)
    except (UserError, OSError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == n for name, n in sizes.items())


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints (`checkpoint-<step>`) of a folder, the newest first; a broken one costs a warning."""
    steps = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    whole = []
    for path in sorted(steps, key=step_of, reverse=True):
        if is_complete(path):
            whole.append(path)
        elif not whole:
            print(f"warning: {path} is incomplete; going on from the one before it.", file=sys.stderr)
    return whole


def newest_complete(folder: Path) -> Path | None:
    """The first of `complete`, or None."""
    return next(iter(complete(folder)), None)


def step_of(checkpoint: Path | None) -> int:
    """The update that a checkpoint was written after; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))


def drop_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest whole ones."""
    kept = complete(folder)[:keep]
    for path in folder.glob("checkpoint-*"):
        if path not in kept and kept and step_of(path) < step_of(kept[0]):
            shutil.rmtree(path)
