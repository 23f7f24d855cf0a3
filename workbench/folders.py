"""A new folder that is there whole or not at all: it is filled under another name, and renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from workbench.errors import UserError
from workbench.files import is_disk_full, usual_mode


def check_free(folder: Path) -> None:
    """See that a folder can be made there; for before hours of work.

    Raises:
        UserError: something is there already that is no empty folder, or it is the working directory.
    """
    if (folder.exists() or folder.is_symlink()) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} exists and is not an empty folder: name another, or move it away.")
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise UserError(f"{str(folder)!r} is the folder that this runs in: name a new one in it.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside `folder`, which becomes `folder` when the block ends without an exception.

    Raises:
        UserError: `folder` exists and is not empty, or cannot be written.
    """
    check_free(folder)
    folder = folder.resolve()  # `x/..` has no name
    scratch = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir(parents=True)
        yield scratch
        for file in scratch.rglob("*"):
            if file.is_file():
                file.chmod(usual_mode())
        if folder.is_dir():
            folder.rmdir()
        scratch.rename(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not isinstance(error, OSError) and not is_disk_full(error):
            raise
        raise UserError(f"{str(folder)!r} could not be written: {error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
