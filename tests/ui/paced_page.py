"""`workbench ui` with a fake engine that does what a question says, for tests and benchmarks in a browser.

`stamp of 20` answers with the times at which its 20 words left the engine, `forever` with words until it is
stopped, `hostile` with text that would be markup, `broken` fails where the model is fake:0.1, and anything else as
the fake engine does. `recite` answers with all that the model was sent.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from test_report import HOSTILE

import recipes.ui
from workbench.command import run_command
from workbench.decodes import Sampling
from workbench.engines.fake import FakeEngine
from workbench.types import Completion, Finish, Request

BEAT = 0.05
"""Seconds between two words."""

EVIL = (
    "  two\n\ttab &lt; ![x](http://evil.example/x.png) **a** [l](javascript:alert(1)) {{7*7}} \x1b[31m "
    + HOSTILE
    + "${document.title='owned'}"
)

LATE = 0.5
"""Seconds before the first word of an answer that is asked to be late, as a model takes to read its prompt."""

ENDED = "PACED_ENDED"
"""An environment variable with a file, to which the time is added at which an answer without end was ended."""

_usual = FakeEngine.stream


def stream(self: FakeEngine, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
    """What the question says."""
    question = request.messages[-1].content
    if "hostile" in question:
        yield from (EVIL[:40], EVIL[40:])
        yield Completion(0, EVIL, 10, 20)
    elif found := re.search(r"stamp of (\d+)", question):
        text = ""
        time.sleep(LATE if "late" in question else 0)
        for _ in range(int(found[1])):
            time.sleep(BEAT)
            word = f"t{time.time():.4f} "
            text += word
            yield word
        yield Completion(0, text, 3, int(found[1]))
    elif "forever" in question:
        try:
            for i in range(100_000):
                yield f"word{i} "
                time.sleep(BEAT)
        finally:
            if ENDED in os.environ:
                with Path(os.environ[ENDED]).open("a", encoding="utf-8") as file:
                    file.write(f"{time.time()}\n")
    elif "recite" in question:
        text = " / ".join(f"{message.role}: {message.content}" for message in request.messages)
        yield text
        yield Completion(0, text, 3, 3)
    elif "broken" in question and self._name.startswith("fake:0.1"):
        yield "half "
        yield Completion(0, "half ", finish=Finish.ERROR, error="the connection was cut")
    else:
        yield from _usual(self, request, sampling)


if __name__ == "__main__":
    FakeEngine.stream = stream  # type: ignore[method-assign,assignment]
    sys.exit(run_command(recipes.ui.main, recipes.ui.Config, sys.argv[1:], "ui"))
