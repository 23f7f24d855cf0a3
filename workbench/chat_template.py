"""A model's own chat template, rendered so that a hostile one can neither reach Python nor run for ever.

A chat template comes with a model and is a program: unlike the prompts in `prompts/`, it needs loops. It
runs in Jinja's sandbox, as in transformers, and here also in a process of its own with a limit on time and
memory: `{% set x = x ~ x %}` fills a machine's memory in forty steps, and no check from inside ends one
endless step in C.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workbench.errors import UserError
from workbench.types import Message

_SECONDS = 2.0  # a conversation takes well under a millisecond
_START_SECONDS = 60.0  # for the process to start, on a machine that is busy
_MEMORY = 1 << 30  # bytes of address space
_MAX_CHARACTERS = 50_000_000


def render_chat_template(template: str, messages: Sequence[Message], tokens: Mapping[str, str]) -> str:
    """The conversation as the model's template writes it, up to where the assistant's answer begins.

    Args:
        template: the template's source.
        messages: the conversation.
        tokens: the special tokens that a template may name (`bos_token`, `eos_token`, …).

    Raises:
        UserError: the template is broken, reaches for what the sandbox forbids, or does not end in time.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text, problem = _worker.ask([template, turns, dict(tokens)])
    if problem:
        raise UserError(f"The model's chat template failed: {problem}")
    assert isinstance(text, str)
    return text


class _Worker:
    """The process that renders, started when it is first needed. Threads share it: calls go one by one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        atexit.register(self.close)

    def ask(self, question: list[Any]) -> tuple[str | None, str | None]:
        """(the text, None), or (None, what went wrong)."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():  # a fork does not share its parent's
                self._process, self._owner = _start(), os.getpid()
                self._exchange(self._process, ["", [], {}], _START_SECONDS)
            answer = self._exchange(self._process, question, _SECONDS)
            if answer is None:
                self.close()
                return None, f"it did not end within {_SECONDS:g} seconds, or took too much memory."
            return answer[0], answer[1]

    def _exchange(
        self, process: "subprocess.Popen[str]", question: list[Any], limit: float
    ) -> list[str | None] | None:
        """One line there and one line back; None from a process that was too late, or died."""
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # Ctrl-C: a reply that nobody read would be taken for the next call's
            self.close()
            raise
        finally:
            timer.cancel()
        # A line without its end was cut off by the kill.
        return json.loads(line) if line.endswith("\n") else None

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
            self._process = None


_worker = _Worker()


def _start() -> "subprocess.Popen[str]":
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from workbench.chat_template import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
    )


# --- the process's side -----------------------------------------------------------------------------


def serve() -> None:
    """Answer the lines of standard input until it ends. Run only in the process that renders."""
    import faulthandler

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # Windows has no such limit; the time limit holds there too
    for line in sys.stdin:
        template, turns, tokens = json.loads(line)
        # If our parent dies in the middle, nobody is left to kill us: then we end ourselves.
        faulthandler.dump_traceback_later(2 * _SECONDS, exit=True)
        reply = _render(template, turns, tokens)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), flush=True)


def _render(template: str, turns: list[dict[str, str]], tokens: dict[str, str]) -> list[str | None]:
    try:
        # `tools` and `documents` are what transformers passes where there are none.
        text = _compile(template).render(
            messages=turns, tools=None, documents=None, add_generation_prompt=True, **tokens
        )
    except Exception as error:  # whatever a template can bring about is the template's failure
        return [None, f"{type(error).__name__}: {error}"[:1000]]
    if len(text) > _MAX_CHARACTERS:
        return [None, f"it wrote {len(text):,} characters; that is no conversation."]
    return [text, None]


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks what the assistant says; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's own content."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    # The settings, functions and filters that transformers gives to chat templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
