"""`workbench ui` with a fake engine that is slow and says hostile things; for the browser's test, as a process."""

import sys
import time
from collections.abc import Iterator

from test_report import HOSTILE

import recipes.ui
from workbench.command import run_command
from workbench.decodes import Sampling
from workbench.engines.fake import FakeEngine
from workbench.types import Completion, Request

ANSWER = "  two\n\ttab &lt; ![x](http://evil.example/x.png) **a** [l](javascript:alert(1)) \x1b[31m "


def stream(self: FakeEngine, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
    """Hostile text where it is asked for, else words without end."""
    if "hostile" in request.messages[-1].content:
        text = ANSWER + HOSTILE + "${document.title='owned'}"
        yield from (text[:40], text[40:])
        yield Completion(0, text, 10, 20)
        return
    for i in range(10_000):
        yield f"word{i} "
        time.sleep(0.02)


if __name__ == "__main__":
    FakeEngine.stream = stream  # type: ignore[method-assign,assignment]
    sys.exit(run_command(recipes.ui.main, recipes.ui.Config, sys.argv[1:], "ui"))
