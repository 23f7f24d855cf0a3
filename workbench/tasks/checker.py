"""The answer checker: LaTeX and users' regular expressions, in a process that can be killed.

`9**9**9`, LaTeX nested a thousand deep and `(a+)+$` keep a thread busy for ever, and math-verify's own
time-outs use SIGALRM, which works in no thread but the main one. A call that takes too long is given up
(`killable.py`), and the answer counts as unchecked.

LaTeX is read and compared by math-verify (Hugging Face, Apache-2.0).
"""

from typing import Any

from workbench.killable import Worker

LIMIT = 5.0  # seconds a check may take; most take milliseconds
MEMORY_LIMIT = 4 << 30  # bytes of address space, so that a huge power fails before the machine does


class Checker:
    """One worker process for all checks. Threads may share it: calls go one by one."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self.worker = Worker("workbench.tasks.checker", MEMORY_LIMIT)

    def math(self, answer: str, target: str) -> tuple[str | None, bool]:
        """Read an answer written in LaTeX or as an expression, and compare it with the target.

        Returns:
            Its spelling (the same for answers that are written differently but simplify to the same), None
            where there is nothing to read; and whether it equals the target.

        Raises:
            Killed: the check was killed.
        """
        spelling, correct = self._ask("math", answer, target)
        return spelling, bool(correct)

    def search(self, pattern: str, text: str) -> str | None:
        """The last match of a pattern in a text (its first group, if it has one), or None.

        Raises:
            Killed: the search was killed.
        """
        found: str | None = self._ask("search", pattern, text)
        return found

    def close(self) -> None:
        """End the worker."""
        self.worker.close()

    def _ask(self, *question: str) -> Any:
        return self.worker.ask(question, self.limit, first=("math", "1", "1"))


def answer(question: list[str]) -> Any:
    """What `Checker` asks for, (kind, first, second). Run in the worker process."""
    kind, first, second = question
    return _math(first, second) if kind == "math" else _search(first, second)


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
