"""A conversation in the terminal: commands, what is shown and told, Ctrl-C, lines from a pipe."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workbench.chat_terminal import piped_lines, talk
from workbench.chatting import Speaker
from workbench.conversation import Conversation
from workbench.decodes import Sampling
from workbench.engines.fake import FakeEngine
from workbench.tasks.rows import iterate_rows, turns_field
from workbench.types import Completion, Finish, Model, Request

ROOT = Path(__file__).resolve().parents[1]


class Talk:
    """A conversation with a script in place of a model."""

    def __init__(self, script: Callable[[Request, int], str], max_tokens: int = 50) -> None:
        self.engine = FakeEngine(Model("fake"), script)
        self.speaker = Speaker(lambda: self.engine, Sampling(max_tokens=max_tokens))
        self.conversation = Conversation()
        self.shown: list[str] = []
        self.told: list[str] = []

    def __call__(self, *lines: str, quiet: bool = False, typed: bool = True) -> int:
        waiting = iter(lines)
        read = lambda: next(waiting, None)  # noqa: E731
        return talk(self.speaker, self.conversation, read, self.shown.append, self.told.append, quiet, typed)

    @property
    def text(self) -> str:
        return "".join(self.shown)


def echo(request: Request, index: int) -> str:
    return f"{len(request.messages)}: {request.messages[-1].content}"


def test_answers_are_shown_as_they_are_and_counted() -> None:
    chat = Talk(lambda request, index: "  two\n\tlines\n" if index else "one")
    assert chat("a", "", "  ", "b") == 0
    assert chat.text == "one\n  two\n\tlines\n"
    assert len(chat.told) == 2 and re.fullmatch(r"\[1 tokens, [\d.]+ tokens/s\]", chat.told[0])


def test_quiet_leaves_the_counts_out_and_not_the_failures() -> None:
    def script(request: Request, index: int) -> str:
        if request.messages[-1].content == "b":
            raise RuntimeError("the pipe \x1b burst")
        return "one"

    chat = Talk(script)
    assert chat("a", "b", "c", quiet=True) == 1
    assert chat.told == [
        "The answer failed and is not part of the conversation: RuntimeError: the pipe ⟨U+001B⟩ burst"
    ]
    assert [turn.question for turn in chat.conversation.turns] == ["a", "c"]


def test_what_a_terminal_obeys_is_spelled_out() -> None:
    chat = Talk(lambda request, index: "\x1b]0;owned\x07\x1b[2J a\r\x00\x9b\u202e\ud800 👩\u200d💻\te")
    chat("a")
    assert chat.text == (
        "⟨U+001B⟩]0;owned⟨U+0007⟩⟨U+001B⟩[2J a⟨U+000D⟩⟨U+0000⟩⟨U+009B⟩⟨U+202E⟩⟨U+D800⟩ 👩\u200d💻\te\n"
    )
    assert chat.conversation.turns[0].answer.startswith("\x1b]0;owned\x07")


def test_what_was_cut_off_says_why() -> None:
    chat = Talk(lambda request, index: "word " * 20, max_tokens=3)
    chat("a")
    assert chat.told[-1].endswith("; cut off at --max-tokens 3]")
    chat.engine.context = 6
    chat("/reset", "a b c d")
    assert chat.told[-1].endswith("; cut off: the context of 6 tokens is full. /reset begins anew]")
    chat("b c d e")
    assert "has 10 tokens, and the model reads 6" in chat.told[-1]
    assert [turn.answer.split() for turn in chat.conversation.turns] == [["word", "word"]]


def test_an_empty_answer_is_told_and_not_kept() -> None:
    chat = Talk(lambda request, index: "")
    chat("a", quiet=True)
    assert chat.text == "\n" and chat.told == ["[an empty answer; the question is not kept]"]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chat = Talk(echo)
    asked = ("/save c.jsonl", "/help", "/nonsense here", "one", "/etc/passwd is a file", "two", "/save c.jsonl")
    assert chat(*asked) == 2, "what was refused"
    assert chat.text == "1: one\n3: /etc/passwd is a file\n5: two\n"
    told = [line for line in chat.told if not line.startswith("[")]
    assert told[0] == "There is nothing to save yet."
    assert told[1].startswith("/reset ")
    assert told[2].startswith("There is no command /nonsense. There are:\n/reset ")
    assert told[3] == "Saved as a row of c.jsonl."
    chat("/reset", "three", "/save c.jsonl", "/save", "/save c.txt", "/save .", "/quit", "never asked")
    assert chat.text.endswith("1: three\n")
    assert chat.told[-1] == "'.' is no name of a .jsonl file; type /save conversations.jsonl."
    rows = [turns_field("c", number, row, "messages") for number, row in iterate_rows("c.jsonl")]
    assert [len(row) for row in rows] == [6, 2]


def test_saving_keeps_texts_exactly_and_what_is_there(tmp_path: Path) -> None:
    chat = Talk(lambda request, index: " \x1b\ud800\n")
    path = tmp_path / "c.jsonl"
    path.write_text('{"a": 1}')  # whoever wrote it forgot the line's end
    chat("é", f"/save {path}")
    first, second = path.read_bytes().decode().splitlines()
    assert first == '{"a": 1}'
    assert [m["content"] for m in json.loads(second)["messages"]] == ["é", " \x1b\ud800\n"]


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    chat = Talk(echo)
    assert chat("one", "/save ~/c.jsonl", "/save ~nobody-at-all/c.jsonl") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert (tmp_path / "home" / "c.jsonl").is_file()
    assert chat.told[-1].startswith("'~nobody-at-all/c.jsonl' cannot be saved to: ")


class Waiting(FakeEngine):
    """Half an answer for "long" and then Ctrl-C, a whole one for all else."""

    def __init__(self, chat: Talk) -> None:
        super().__init__(Model("fake"))
        self.chat = chat

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        if request.messages[-1].content == "long":
            yield "half "
            while not self.chat.shown:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(2)
            yield "never heard"
        yield "whole"
        yield Completion(0, "whole", 1, 1, finish=Finish.STOP)


def test_ctrl_c_ends_a_conversation_that_nobody_types() -> None:
    chat = Talk(echo)
    chat.engine = Waiting(chat)
    with pytest.raises(KeyboardInterrupt):
        chat("long", "next", typed=False)
    assert chat.text == "half \n"


def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    chat = Talk(echo)
    chat.engine = Waiting(chat)
    started = time.monotonic()
    chat("long", "/help")
    assert time.monotonic() - started < 1
    assert chat.text == "half \n"
    assert re.fullmatch(r"\[stopped after 0\.\d s; what came is kept\]", chat.told[0])
    assert [(turn.answer, turn.end) for turn in chat.conversation.turns] == [("half ", "stopped")]


def test_lines_from_a_pipe() -> None:
    read = piped_lines(io.BytesIO("é\r\n\n last".encode()))
    assert [read(), read(), read(), read()] == ["é", "", " last", None]
    chat = Talk(echo)
    lines = piped_lines(io.BytesIO(b"\xff\xfe\nfine\n"))
    assert talk(chat.speaker, chat.conversation, lines, chat.shown.append, chat.told.append) == 1
    assert chat.told[0] == "The line is not UTF-8 and was not sent."
    assert chat.text == "1: fine\n"


FAKE = [sys.executable, "-m", "recipes", "chat", "--engine", "fake", "--model", "fake:1"]


def test_the_command_with_a_pipe() -> None:
    done = subprocess.run(
        FAKE, cwd=ROOT, input=b"What is 2 + 2?\nWhat is 3 * 3?\n", capture_output=True, check=True
    )
    assert done.stdout.decode() == "The answer is 4.\nThe answer is 9.\n"
    assert done.stderr.decode().count(" tokens/s]") == 2
    done = subprocess.run([*FAKE, "--quiet"], cwd=ROOT, input=b"\xff\n", capture_output=True, check=False)
    assert done.returncode == 2
    assert "1 line failed; what went wrong is told above." in done.stderr.decode()


IN_TORCH = """
import itertools, sys
import torch
import recipes.chat
from workbench import chatting
from workbench.command import run_command
from workbench.engines.fake import FakeEngine

def stream(self, request, sampling):  # a piece, and then no more: as in a long prompt's forward pass
    yield "half "
    with torch.inference_mode():
        for _ in itertools.count():
            torch.ones(32, 32) @ torch.ones(32, 32)

FakeEngine.stream = stream
chatting._PATIENCE = 0.3
sys.exit(run_command(recipes.chat.main, recipes.chat.Config, ["--engine", "fake", "--model", "fake"], "chat"))
"""


def test_a_process_ends_in_order_though_a_thread_is_in_torch() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TORCH],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(b"one\ntwo\n")
        process.stdin.flush()
        assert process.stdout.read1(5) == b"half "  # type: ignore[attr-defined]
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, told.decode()) == (130, "\nInterrupted.\n")


def test_the_command_on_a_terminal() -> None:
    """Ctrl-C at the prompt ends nothing, Ctrl-D ends it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(FAKE, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = ""

    def until(words: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while words not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 0.5)[0]:
                seen += os.read(ours, 10_000).decode()
            else:
                meanwhile()

    try:
        until("> ")
        assert "fake:1 (fake 1). /help tells the commands." in seen
        # Again and again: one that comes just before `input` starts to wait is seen after the next line only.
        until("/quit or Ctrl-D ends the conversation.", lambda: process.send_signal(signal.SIGINT))
        os.write(ours, b"What is 2 + 2?\n")
        until("The answer is 4.")
        until(" tokens/s]")
        os.write(ours, b"/quit\n")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
