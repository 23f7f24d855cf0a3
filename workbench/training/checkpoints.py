"""Checkpoints that are whole or do not count.

The trainer writes a checkpoint file by file. When the last is written, a list of all files with their sizes is
put beside them; a checkpoint without the list, or whose files do not fit it, is passed over when a run goes on.
"""

import sys
from pathlib import Path

from workbench.errors import UserError
from workbench.files import read_json, write_json

_LIST = "complete.json"


def mark_complete(folder: Path) -> None:
    """Write the list of a checkpoint's files: from now on it counts."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / _LIST]
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    write_json(folder / _LIST, sizes)


def is_complete(folder: Path) -> bool:
    """Whether every file that the checkpoint was written with is there in its full size."""
    try:
        sizes = read_json(folder / _LIST)
    except (UserError, OSError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == n for name, n in sizes.items())


def newest_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint (`checkpoint-<step>`) of a folder; a broken newer one costs a warning."""
    steps = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(steps, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        if is_complete(path):
            return path
        print(f"warning: {path} is incomplete; going on from the one before it.", file=sys.stderr)
    return None
