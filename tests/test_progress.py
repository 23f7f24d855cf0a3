"""Progress: nothing when quiet or quick, plain lines without a terminal, a bar on one."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import workbench.progress
from workbench.progress import Bar


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(workbench.progress, "time", clock)
    return clock


def test_plain_lines_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("questions", quiet=False) as bar:
        bar.show(10, 100)  # ten were there before
        for done in range(11, 51):
            clock.now += 1
            bar.show(done, 100)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "questions: 25 of 100, about 75 s left",
        "questions: 40 of 100, about 60 s left",
    ]


def test_a_note_stands_beside_the_count(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("samples", quiet=False) as bar:
        bar.show(0, 64, "")
        clock.now += 16
        bar.show(32, 64, "312 tokens/s")
    assert capsys.readouterr().err == "samples: 32 of 64, 312 tokens/s, about 16 s left\n"


def test_nothing_when_quick_or_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, step in ((True, 60.0), (False, 0.1)):
        with Bar("questions", quiet=quiet) as bar:
            for done in range(10):
                bar.show(done, 10)
                clock.now += step
    assert capsys.readouterr() == ("", "")


def test_no_progress_yet_promises_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("questions", quiet=False) as bar:
        bar.show(10, 100)
        clock.now += 20
        bar.show(10, 100)
    assert capsys.readouterr().err == "questions: 10 of 100\n"


def test_a_bar_on_a_terminal() -> None:
    code = (
        "import workbench.progress as p; p._PATIENCE = 0.0\n"
        "with p.Bar('questions', quiet=False) as bar:\n"
        "    bar.show(0, 4); p.time.sleep(0.2); bar.show(2, 4, '312 tokens/s')"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, stderr=theirs, check=False)
    os.set_blocking(ours, False)
    drawn = os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0
    assert b"questions:   0%|" in drawn
    assert b"312 tokens/s" in drawn
