"""Calls that end in time whatever they meet: made in a worker process that is killed when it is late.

A hostile template, `9**9**9` or `(a+)+$` keep a thread busy for ever, and no check from inside ends one endless
step in C. So one worker process serves call after call over a pipe. A call that takes too long, or too much
memory, costs the worker its life and nothing else: the next call starts another.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_START_SECONDS = 60.0  # for a process to start and import what it needs, on a machine that is busy


class Killed(Exception):
    """The call was not answered: its worker was too late, or died. It says nothing about the question."""


class Worker:
    """A process that answers with a module's function `answer(question)`; questions and answers are JSON.

    It is started when it is first needed. Threads share it: calls go one by one.

    Args:
        module: the module's name.
        memory: bytes of address space that the process may use.
    """

    def __init__(self, module: str, memory: int) -> None:
        self.module, self.memory = module, memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        atexit.register(self.close)

    def ask(self, question: Any, limit: float, *, first: Any = None) -> Any:
        """The answer to a question.

        Args:
            question: JSON data.
            limit: seconds that the answer may take.
            first: a question put to a fresh process before, so that its imports do not count against `limit`.

        Raises:
            Killed: no answer came in time.
        """
        with self._lock:
            if self._process is None or self._owner != os.getpid():  # a fork does not share its parent's
                self._process, self._owner = self._start(), os.getpid()
                self._exchange(self._process, first, _START_SECONDS)
            return self._exchange(self._process, question, limit)

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _exchange(self, process: "subprocess.Popen[str]", question: Any, limit: float) -> Any:
        """One line there and one line back."""
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps([limit, question]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # Ctrl-C: a reply that nobody read would be taken for the next call's
            self.close()
            raise
        finally:
            timer.cancel()
        if not line.endswith("\n"):  # cut off by the kill
            self.close()
            raise Killed(f"it did not end within {limit:g} seconds, or took too much memory")
        return json.loads(line)

    def _start(self) -> "subprocess.Popen[str]":
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        code = (
            f"from workbench.killable import serve; from {self.module} import answer; serve(answer, {self.memory})"
        )
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            start_new_session=True,  # Ctrl-C is for us, who may go on; the worker ends with its standard input
        )


def serve(answer: Callable[[Any], Any], memory: int) -> None:
    """Answer the lines of standard input until it ends. Run only in the worker process."""
    import faulthandler

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ImportError, ValueError, OSError):
        pass  # Windows has no such limit; the time limit holds there too
    for line in sys.stdin:
        limit, question = json.loads(line)
        # If our parent dies in the middle, nobody is left to kill us: then we end ourselves.
        faulthandler.dump_traceback_later(2 * limit, exit=True)
        reply = None if question is None else answer(question)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), flush=True)
