"""Progress for whoever waits: a bar on a terminal, a plain line now and then elsewhere, nothing when quiet."""

import sys
import time
from types import TracebackType
from typing import Any

_PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal
_PATIENCE = 2.0  # seconds of work before anything is shown


class Bar:
    """Shows (done, total) as a bar with the time left, on stderr. Use it in a `with` block."""

    def __init__(self, label: str, *, quiet: bool) -> None:
        self.label, self.quiet = label, quiet
        self._bar: Any = None
        self._started = self._said = time.monotonic()
        self._first: int | None = None

    def show(self, done: int, total: int, note: str = "") -> None:
        """Called as work gets done; the first call says what was there before. A note is shown beside it."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if self.quiet or now - self._started < _PATIENCE:
            return
        if sys.stderr.isatty():
            self._draw(done, total, note)
        elif now - self._said >= _PLAIN_EVERY:
            rate = (done - self._first) / (now - self._started)
            left = f", about {(total - done) / rate:.0f} s left" if rate > 0 else ""
            note = f", {note}" if note else ""
            print(f"{self.label}: {done} of {total}{note}{left}", file=sys.stderr, flush=True)
            self._said = now

    def _draw(self, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, desc=self.label, leave=False)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
