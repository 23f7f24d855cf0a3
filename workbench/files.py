"""Atomic writes: a reader sees the old file or the new one, never half of either.

The data goes to a temporary file in the same folder, is forced to the disk, and takes the old file's place in
one rename. A process that is killed, or a disk that is full, leaves the old file as it was.
"""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import UserError

# EFBIG is a file-size limit (ulimit -f), EDQUOT a quota: to the person they are the same as a full disk.
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes `path` when the block ends without an exception.

    Raises:
        UserError: the disk is full, or the folder cannot be written to; `path` is then as it was.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:50]}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(usual_mode())
        temporary.replace(target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        intact = "; the file that was there is intact" if target.is_file() else ""
        raise _not_written(target, error, intact) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Write a whole file at once. Text is UTF-8; a lone surrogate in it is a ValueError.

    Raises:
        UserError: as `atomic_file`.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_file(path) as file:
        file.write(content)


def append_line(path: str | Path, line: bytes) -> None:
    """Append a line to a file, handed to the operating system before this returns.

    Raises:
        UserError: the disk is full or the file cannot be written.
    """
    try:
        with Path(path).open("ab") as file:
            file.write(line + b"\n")
    except OSError as error:
        raise _not_written(path, error) from error


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """A value as JSON in UTF-8 that every reader accepts: lone surrogates, which UTF-8 lacks, as escapes.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")  # \udc00 is also JSON's own escape


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented for people, atomically.

    Raises:
        UserError: as `atomic_file`.
        ValueError: a number is NaN or infinite.
    """
    write_atomic(path, json_bytes(value, indent=2) + b"\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file does not exist, cannot be read or is not JSON; the message names it and the line.
    """
    source = Path(path)
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{source} is damaged: it is not JSON ({error}). Delete it or restore it.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is damaged: it is not UTF-8 ({error}). Delete it or restore it.") from error
    except OSError as error:
        raise UserError(f"{source} could not be read: {error.strerror or error}.") from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says so: the system's, safetensors' or torch's."""
    words = str(error).lower()
    return getattr(error, "errno", None) in _FULL or any(
        # The last two are torch's, whose writer forgets the reason.
        sign in words
        for sign in ("no space left", "file too large", "disk quota", "failed writing file", "unexpected pos")
    )


def _not_written(path: str | Path, error: OSError, what_remains: str = "") -> UserError:
    reason = error.strerror or str(error)
    if error.errno not in _FULL:
        return UserError(f"{path} could not be written: {reason}{what_remains}.")
    return UserError(
        f"{path} could not be written: the disk is full ({reason}){what_remains}. "
        f"Free some space on it, then run the same command again."
    )


def usual_mode() -> int:
    """A file's rights as the user's umask has them; mkstemp and safetensors write for their owner's eyes only."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    # Without this a power cut may forget the rename. Windows has no such call and no need of it.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
