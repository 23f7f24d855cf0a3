"""A conversation in the terminal: lines are questions, answers come as they are generated, Ctrl-C stops one.

Answers go to `out`, everything else to `tell`. What a terminal would obey is shown spelled out (see `inert.py`);
a conversation that is saved has every text exactly.
"""

import importlib
import queue
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from workbench.chatting import Speaker
from workbench.conversation import Conversation, Turn
from workbench.errors import UserError
from workbench.files import json_bytes, write_atomic
from workbench.inert import is_utf8, visible

HELP = """/reset            begin anew
/save FILE.jsonl  add the conversation to a file, as a row to tune on
/quit             end (Ctrl-D too)
Ctrl-C stops an answer; what came of it is kept."""

_COMMAND = re.compile(r"/[a-z]+(?=\s|$)")


def talk(
    speaker: Speaker,
    conversation: Conversation,
    read: Callable[[], str | None],
    out: Callable[[str], None],
    tell: Callable[[str], None],
    quiet: bool = False,
    typed: bool = True,
) -> int:
    """Answer line after line until there is none; returns how many lines failed: answers and commands.

    Args:
        speaker: who answers.
        conversation: what was said so far; it grows.
        read: gives the next line, or None at the end. A KeyboardInterrupt in it is passed on.
        out: writes pieces of answers.
        tell: tells the person a line.
        quiet: no line about tokens and speed.
        typed: a person types the lines, whose Ctrl-C stops one answer; else it ends the conversation too.

    Raises:
        KeyboardInterrupt: Ctrl-C, and the lines are not typed.
    """
    failed = 0
    while (line := read()) is not None:
        command = _COMMAND.match(line)
        if command and command.group() == "/quit":
            break
        if command:
            try:
                tell(_obey(command.group(), line[command.end() :].strip(), conversation))
            except UserError as error:
                failed += 1
                tell(str(error))
        elif not is_utf8(line):
            failed += 1
            tell("The line is not UTF-8 and was not sent.")
        elif line.strip():
            turn = _answer(speaker, conversation, line, out, typed)
            failed += turn.end == "error"
            kept = conversation.keep(turn)
            if turn.end == "error":
                tell(f"The answer failed and is not part of the conversation: {visible(turn.error)}")
            elif not kept or not quiet:
                tell(f"[{_told(turn, speaker)}]")
    return failed


def typed_lines(tell: Callable[[str], None]) -> Callable[[], str | None]:
    """Lines that a person types, for `talk`; Ctrl-C there ends nothing."""
    with suppress(ImportError):  # where there is one, `input` has its editing and history
        importlib.import_module("readline")

    def read() -> str | None:
        while True:
            try:
                return input("> ")
            except KeyboardInterrupt:
                tell("\n(/quit or Ctrl-D ends the conversation.)")
            except EOFError:
                return None

    return read


def piped_lines(stream: BinaryIO) -> Callable[[], str | None]:
    """The lines of a file or a pipe, for `talk`."""

    def read() -> str | None:
        line = stream.readline()
        return line.decode("utf-8", "surrogateescape").rstrip("\r\n") if line else None

    return read


def _answer(
    speaker: Speaker, conversation: Conversation, question: str, out: Callable[[str], None], typed: bool
) -> Turn:
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    answer = speaker.answer(conversation.ask(question), pieces.put)
    interrupted = False
    try:
        answer.start()
        while (piece := pieces.get()) is not None:
            out(visible(piece))
    except KeyboardInterrupt:
        interrupted = True
        answer.stop()
        while not pieces.empty():  # what came and is kept is shown
            out(visible(pieces.get() or ""))
    turn = answer.turn()
    out("" if turn.answer.endswith("\n") else "\n")
    if interrupted and not typed:
        raise KeyboardInterrupt
    return turn


def _told(turn: Turn, speaker: Speaker) -> str:
    if turn.end == "stopped":
        kept = "what came is kept" if turn.answer else "nothing came, so nothing is kept"
        tokens = f", {turn.completion_tokens} tokens" if turn.completion_tokens else ""
        return f"stopped after {turn.seconds:.1f} s{tokens}; {kept}"
    if not turn.answer:
        return "an empty answer; the question is not kept"
    told = f"{turn.completion_tokens} tokens, {turn.completion_tokens / max(turn.seconds, 1e-9):.1f} tokens/s"
    if turn.end == "length":
        context = speaker.engine.context
        if context is not None and turn.prompt_tokens + turn.completion_tokens >= context:
            return f"{told}; cut off: the context of {context:,} tokens is full. /reset begins anew"
        return f"{told}; cut off at --max-tokens {speaker.sampling.max_tokens}"
    return told


def _obey(command: str, argument: str, conversation: Conversation) -> str:
    """Do what a command says; returns what to tell.

    Raises:
        UserError: there is no such command, or it cannot be done.
    """
    if command == "/save":
        return save(conversation, argument)
    if command == "/reset":
        conversation.clear()
        return "The conversation begins anew."
    if command == "/help":
        return HELP
    raise UserError(f"There is no command {command}. There are:\n{HELP}")


def save(conversation: Conversation, name: str) -> str:
    """Add the conversation to a .jsonl file, as its last row; returns what to tell.

    Raises:
        UserError: there is nothing to save, the name is none of a .jsonl file, or it cannot be written.
    """
    if not conversation.turns:
        raise UserError("There is nothing to save yet.")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # ~name, and nobody is called so
        raise UserError(f"{name!r} cannot be saved to: {str(error).rstrip('.')}.") from error
    if path.suffix != ".jsonl" or path.is_dir():
        raise UserError(f"{name!r} is no name of a .jsonl file; type /save conversations.jsonl.")
    try:
        there = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if there and not there.endswith(b"\n"):
        there += b"\n"
    write_atomic(path, there + json_bytes(conversation.row()) + b"\n")
    return f"Saved as a row of {path}."
