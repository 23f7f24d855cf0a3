"""Atomic writes: a reader finds the old file or the new one, whatever happens in between."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workbench.errors import UserError
from workbench.files import append_line, atomic_file, json_bytes, read_json, write_atomic, write_json


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.txt"
    write_atomic(file, "old é")
    assert file.read_bytes() == "old é".encode()
    write_atomic(file, b"\0new")
    assert file.read_bytes() == b"\0new"
    assert file.stat().st_mode & 0o400
    assert list(file.parent.iterdir()) == [file]


def test_an_exception_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_atomic(file, "old")
    with pytest.raises(KeyboardInterrupt), atomic_file(file) as output:
        output.write(b"half")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    for path in (tmp_path / "file" / "below.json", tmp_path / "folder"):
        with pytest.raises(UserError, match=f"{path} could not be written"):
            write_json(path, {})
    with pytest.raises(UserError, match="could not be written"):
        append_line(tmp_path / "folder", b"line")


ON_A_FULL_DISK = """
import sys
from workbench.errors import UserError
from workbench.files import append_line, write_atomic
for write in (write_atomic, append_line):
    try:
        write(sys.argv[1], b"new " * 1_000_000)
    except UserError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    limit = "" if mounted.returncode == 0 else "import resource, signal; signal.signal(signal.SIGXFSZ, "
    if limit:  # not root: a limit on the size of files fails in the same place, with EFBIG for ENOSPC
        limit += "signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
    try:
        file = tmp_path / "checkpoint.json"
        file.write_bytes(b"old")
        code = [sys.executable, "-c", limit + ON_A_FULL_DISK, str(file)]
        done = subprocess.run(code, capture_output=True, text=True, check=True)
        assert "checkpoint.json could not be written: the disk is full" in done.stdout
        assert "the file that was there is intact" in done.stdout
        assert len(done.stdout.splitlines()) == 2
        assert file.read_bytes().startswith(b"old")
        assert list(tmp_path.iterdir()) == [file]
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(tmp_path)], check=True)


KILLED = """
import sys
from workbench.files import write_json
print("ready", flush=True)
for number in range(10**9):
    write_json(sys.argv[1], [number] * 20_000)
"""


def test_a_kill_never_leaves_half_a_file(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    for delay in (0.05, 0.11, 0.17):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(file)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        try:
            writer.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            writer.kill()
            writer.wait()
        assert not file.exists() or len(set(read_json(file))) == 1


@given(st.text(st.characters(exclude_categories=())))
@example("\t\0\r\n\u2028\u202e")
def test_any_text_survives_json(text: str) -> None:
    data = json_bytes({"text": text})
    assert b"\n" not in data
    # Two lone surrogates that happen to form a pair are one character to every JSON reader.
    assert json.loads(data.decode("utf-8"))["text"] == text.encode("utf-16", "surrogatepass").decode(
        "utf-16", "surrogatepass"
    )


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"näme": [1, None, 0.1]})
    assert "näme" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"näme": [1, None, 0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"nonsense"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json could not be read"):
        read_json(tmp_path / "b.json")
