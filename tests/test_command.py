"""The command line: flags from fields, and an exit status that says whose turn it is."""

import math
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from workbench.command import Flat, command_typed, run_command
from workbench.errors import UserError, check_range


@dataclass(frozen=True)
class Inner:
    """Settings inside.

    Attributes:
        rank: how many.
    """

    rank: int = 8

    def __post_init__(self) -> None:
        check_range("rank", self.rank, 1, 10)


@dataclass(frozen=True)
class Config:
    """All settings.

    Attributes:
        words: some words.
        inner: the rest.
        other: the same settings for something else.
    """

    words: tuple[str, ...] = ()
    inner: Flat[Inner] = field(default_factory=Inner)
    other: Inner = field(default_factory=Inner)


def test_flat_settings_have_flags_without_a_prefix_and_others_their_fields_name() -> None:
    seen: list[Config] = []
    given = ["--rank", "3", "--words", "a", "b", "--other.rank", "4"]
    assert run_command(seen.append, Config, given, "try") == 0
    assert seen == [Config(("a", "b"), Inner(3), Inner(4))]


def test_a_value_out_of_range_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(print, Config, ["--rank", "11"], "workbench try") == 2
    assert capsys.readouterr() == ("", "workbench try: rank is 11; it must be a number in [1, 10].\n")


@pytest.mark.parametrize("digits", [320, 5000])
@pytest.mark.parametrize("most", [10, math.inf])
def test_a_whole_number_that_no_float_holds_is_out_of_range(digits: int, most: float) -> None:
    for value in (10**digits, -(10**digits)):
        with pytest.raises(UserError, match=r"^rank is a whole number of hundreds of digits; it must be "):
            check_range("rank", value, 1, most)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("No such thing."), 2, "try: No such thing.\n"),
        (UserError("Said:\n\x1b]0;x\x07\u202e"), 2, "try: Said:\n⟨U+001B⟩]0;x⟨U+0007⟩⟨U+202E⟩\n"),
        (KeyboardInterrupt(), 130, "\ntry: interrupted; the same command goes on from here.\n"),
    ],
)
def test_exit_statuses(error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Config) -> None:
        raise error

    assert run_command(main, Config, [], "try") == status
    assert capsys.readouterr().err == said


def test_a_bug_shows_itself() -> None:
    def main(config: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main, Config, [], "try")


def test_a_reader_that_has_gone_costs_no_traceback() -> None:
    root = Path(__file__).resolve().parents[1]
    code = (
        "import sys; from workbench.command import run_command; from dataclasses import make_dataclass\n"
        "def main(config):\n    for i in range(100000): print(i)\n"
        "C = make_dataclass('C', []); C.__module__ = 'workbench.command'\n"
        "sys.exit(run_command(main, C, [], 'try'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


@pytest.mark.parametrize(
    ("program", "typed"),
    [
        ("recipes/__main__.py", "workbench ladder --name 'a b'"),  # python -m recipes ladder
        ("recipes/lora.py", "workbench lora ladder --name 'a b'"),
        (".venv/bin/workbench", "workbench ladder --name 'a b'"),
        ("tests/test_command.py", "test_command.py ladder --name 'a b'"),
        ("elsewhere/recipes/lora.py", "lora.py ladder --name 'a b'"),
    ],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_report_says_what_to_type_again(
    program: str, typed: str, absolute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", [str(root / program) if absolute else program, "ladder", "--name", "a b"])
    assert command_typed() == typed


def test_an_interrupt_inside_an_exec_ends_with_130_too(tmp_path: Path) -> None:
    """CPython ends a `python -m` by SIGINT where a KeyboardInterrupt left an exec, though it was caught."""
    program = """
        import sys
        from dataclasses import dataclass
        from workbench.command import run_command

        @dataclass(frozen=True)
        class Config:
            "None."

        def main(config):
            exec("raise KeyboardInterrupt")

        sys.exit(run_command(main, Config, [], "try"))
    """
    (tmp_path / "interrupted.py").write_text(textwrap.dedent(program))
    command = [sys.executable, "-m", "interrupted"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr == "\ntry: interrupted; the same command goes on from here.\n"
