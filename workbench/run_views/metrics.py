"""metrics.jsonl as it grows: only what is new is read, and a long training is thinned as it comes."""

import json
import math
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.run_views.reading import DAMAGE, inside, read_part

POINTS = 512
"""The most points that are kept of a metric; then two become their mean."""

FIELDS = 60
"""The most metrics that are followed of one run."""

AT_ONCE = 32 * 2**20
"""Bytes that one look reads at most; the next one goes on."""

_LONGEST = 2**20  # bytes of a line
_RECENT = 20  # updates that the speed is a mean of


@dataclass
class Series:
    """One metric by update.

    Attributes:
        xs, ys: updates and means.
        every: updates of which each point is the mean.
    """

    xs: list[float] = field(default_factory=list)
    ys: list[float] = field(default_factory=list)
    every: int = 1
    _waiting: list[tuple[float, float]] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        """Take a value in. One of an update that has been there replaces what came from there on (a roll-back)."""
        if self.xs and x <= self.xs[-1]:
            keep = next((i for i, known in enumerate(self.xs) if known >= x), len(self.xs))
            del self.xs[keep:], self.ys[keep:]
        while self._waiting and self._waiting[-1][0] >= x:
            self._waiting.pop()
        self._waiting.append((x, y))
        if len(self._waiting) == self.every:
            self.xs.append(self._waiting[-1][0])
            self.ys.append(sum(y for _, y in self._waiting) / self.every)
            self._waiting.clear()
        if len(self.xs) >= POINTS:
            self.xs = self.xs[1::2]
            self.ys = [(a + b) / 2 for a, b in zip(self.ys[::2], self.ys[1::2], strict=False)]
            self.every *= 2


class Feed:
    """What a metrics.jsonl says so far.

    Attributes:
        series: of every number that comes with an update, by its name.
        last: the latest line with an update.
        events: the latest lines with an event.
        lines: whole lines that were read.
        unreadable: of those, how many are no JSON object or longer than a line can be.
        behind: there was more to read than one look takes.
        version: goes up with whatever is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.series: dict[str, Series] = {}
        self.last: dict[str, Any] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=20)
        self.lines = self.unreadable = 0
        self.behind = False
        self._seconds: deque[float] = deque(maxlen=_RECENT)
        self._offset, self._rest, self._skipping = 0, b"", False
        self._file: tuple[int, int] | None = None

    def update(self) -> None:
        """Read what has been written since the last look; a file that is another one now is read anew.

        Raises:
            UserError: the file is a link out of the run's folder.
            OSError: it cannot be read.
        """
        with self._lock:
            path = inside(self.folder, "metrics.jsonl", 2**50)
            if path is None:
                return
            with path.open("rb") as file:
                told = path.stat()
                identity = told.st_dev, told.st_ino
                if self._file != identity or told.st_size < self._offset:  # rewritten, or a torn line cut off
                    self._begin()
                    self._file = identity
                file.seek(self._offset)
                data = file.read(AT_ONCE)
            if not data:
                self.behind = False
                return
            self._offset += len(data)
            self.behind = self._offset < told.st_size
            self.version += 1
            whole, newline, rest = (self._rest + data).rpartition(b"\n")
            self._rest = rest
            for line in whole.split(b"\n") if newline else ():
                self._take(line)
            if len(self._rest) > _LONGEST:
                self._rest, self._skipping = b"", True

    def seconds_an_update(self) -> float | None:
        """Mean seconds of the latest updates; None where none is known."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else None

    def _take(self, raw: bytes) -> None:
        if not raw.strip():
            return
        self.lines += 1
        try:
            line = None if self._skipping or len(raw) > _LONGEST else json.loads(raw)
        except (ValueError, RecursionError):
            line = None
        self._skipping = False
        if not isinstance(line, dict):
            self.unreadable += 1
            return
        if "event" in line:
            self.events.append(line)
            return
        step = number(line.get("step"))
        if step is None:
            return
        self.last = line
        if (seconds := number(line.get("seconds"))) is not None:
            self._seconds.append(seconds)
        for name, value in line.items():
            y = number(value)
            if y is None or name == "step" or (name not in self.series and len(self.series) >= FIELDS):
                continue
            self.series.setdefault(name, Series()).add(step, y)


class Feeds:
    """The feeds of the runs that were looked at lately, shared by all who look."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._feeds: OrderedDict[Path, Feed] = OrderedDict()

    def of(self, folder: Path) -> Feed:
        """The feed of a run's folder, as of now.

        Raises:
            UserError, OSError: as `Feed.update`.
        """
        with self._lock:
            feed = self._feeds.pop(folder, None) or Feed(folder)
            self._feeds[folder] = feed
            if len(self._feeds) > self._most:
                self._feeds.popitem(last=False)
        feed.update()
        return feed


def number(value: object) -> float | None:
    """A finite number as a float; None for whatever else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def parts(folder: Path) -> list[str]:
    """Trainings of a run, latest first: "" is its own, "lora" or "self-improve/round-1" one inside it."""
    found = []
    if (folder / "metrics.jsonl").is_file():
        found.append((folder / "metrics.jsonl", ""))
    for pattern in ("*", "*/*"):
        for file in folder.glob(f"{pattern}/metrics.jsonl"):
            if (file.parent / "config.json").is_file() and file.resolve().is_relative_to(folder.resolve()):
                found.append((file, file.parent.relative_to(folder).as_posix()))
    return [name for _, name in sorted(found, key=lambda part: (-part[0].stat().st_mtime, part[1]))][:100]


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        done: updates that are done.
        total: of how many, or None where that is not known.
        seconds_left: at the speed of the latest updates, or None.
    """

    done: int
    total: int | None
    seconds_left: float | None


def progress(feed: Feed, running: bool) -> Progress | None:
    """How far a training is; None where it has not learned yet."""
    step = number(feed.last.get("step"))
    if step is None:
        return None
    total, each = planned(feed.folder), feed.seconds_an_update()
    left = None
    if running and total is not None and each is not None:
        left = max(0.0, total - step) * each
    return Progress(int(step), total, left)


def planned(folder: Path) -> int | None:
    """Updates that a training will do, from its newest checkpoint; None where it has none (any more)."""
    found = [
        (int(step), file)
        for file in folder.glob("checkpoints/checkpoint-*/trainer_state.json")
        if (step := file.parent.name.removeprefix("checkpoint-")).isdecimal()
    ]
    for _, file in sorted(found, reverse=True):
        try:
            total = number(read_part(folder, file.relative_to(folder).as_posix())["max_steps"])
        except DAMAGE:
            continue
        if total is not None and total > 0:
            return int(total)
    return None
