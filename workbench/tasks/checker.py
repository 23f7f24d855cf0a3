"""The answer checker: LaTeX and users' regular expressions, in a process of its own that can be killed.

`9**9**9`, LaTeX nested a thousand deep and `(a+)+$` keep a thread busy for ever, and math-verify's own
time-outs use SIGALRM, which works in no thread but the main one. So the work is done by one worker process,
which serves call after call over a pipe. A call that takes too long kills it, the answer counts as unchecked,
and the next call starts another.

LaTeX is read and compared by math-verify (Hugging Face, Apache-2.0).
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

LIMIT = 5.0  # seconds a check may take; most take milliseconds
START_LIMIT = 60.0  # seconds for the worker's first call, which imports what the kind of check needs
MEMORY_LIMIT = 4 << 30  # bytes of address space, so that a huge power fails before the machine does


class Unchecked(Exception):
    """The check was killed at its time limit, or its process died. It says nothing about the answer."""


class Checker:
    """One worker process, started when it is first needed. Threads may share it: calls go one by one."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ready: set[str] = set()
        atexit.register(self.close)

    def math(self, answer: str, target: str) -> tuple[str | None, bool]:
        """Read an answer written in LaTeX or as an expression, and compare it with the target.

        Returns:
            Its spelling (the same for answers that are written differently but simplify to the same), None
            where there is nothing to read; and whether it equals the target.

        Raises:
            Unchecked: the check was killed.
        """
        spelling, correct = self._call("math", answer, target)
        return spelling, bool(correct)

    def search(self, pattern: str, text: str) -> str | None:
        """The last match of a pattern in a text (its first group, if it has one), or None.

        Raises:
            Unchecked: the search was killed.
        """
        found: str | None = self._call("search", pattern, text)
        return found

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._ready.clear()

    def _call(self, kind: str, first: str, second: str) -> Any:
        with self._lock:
            if self._process is None:
                self._process = _start(self.limit)
            if kind not in self._ready:
                self._ask(["ready", kind, ""], START_LIMIT)
                self._ready.add(kind)
            return self._ask([kind, first, second], self.limit)

    def _ask(self, question: list[str], limit: float) -> Any:
        """One line there and one line back; a worker that is late is killed, and its line is then empty."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
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
        if not line:
            self.close()
            raise Unchecked(f"The check did not end within {limit:g} s.")
        return json.loads(line)


def _start(limit: float) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from workbench.tasks.checker import serve; serve({limit})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
    )


# --- the worker's side ------------------------------------------------------------------------------


def serve(limit: float) -> None:
    """Answer the lines of standard input until it ends. Run only in the worker process."""
    import faulthandler

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (ImportError, ValueError, OSError):
        pass  # Windows has no such limit; the time limit holds there too
    for line in sys.stdin:
        kind, first, second = json.loads(line)
        if kind == "ready":
            reply: Any = _math("1", "1") if first == "math" else True
        else:
            # If our parent dies in the middle of a check, nobody is left to kill us: then we end ourselves.
            faulthandler.dump_traceback_later(2 * limit, exit=True)
            reply = _math(first, second) if kind == "math" else _search(first, second)
            faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), flush=True)


def _math(answer: str, target: str) -> tuple[str | None, bool]:
    from math_verify import parse, verify

    # Its time-outs are off: this process has its own. Wrapped as LaTeX, because a bare "2^3" is not read.
    found = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    if not found:
        return None, False
    gold = parse(f"\\boxed{{{target}}}", parsing_timeout=None)
    correct = bool(gold) and verify(gold, found, timeout_seconds=None)
    value = found[0]
    simplify = getattr(value, "simplify", None)
    return str(simplify() if callable(simplify) else value), correct


def _search(pattern: str, text: str) -> str | None:
    import re

    found = None
    for match in re.finditer(pattern, text):
        found = match[1] if match.re.groups else match[0]
    return found


_shared = Checker()


def shared_checker() -> Checker:
    """The one checker that all graders of this process use."""
    return _shared
