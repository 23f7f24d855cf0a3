"""The list of runs, read again as often as it is looked at: what has not changed on the disk is not read twice."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from workbench.errors import UserError
from workbench.files import read_json
from workbench.run_folder import RunFolder, State
from workbench.run_views.reading import DAMAGE, inside, read_run, rung_names
from workbench.types import Interval

STATES: tuple[str, ...] = get_args(State)

_HEAD = 64 * 1024  # bytes of a result in which its score stands: the outcomes, which are long, come after it


@dataclass(frozen=True)
class Line:
    """One run of the list.

    Attributes:
        id: the folder's name.
        recipe, state, created: as in `run_folder.RunInfo`.
        score: of its own result with its interval, or None.
        rungs: names of the ladder's rungs that are finished.
        problem: why there is no score although there is a result.
    """

    id: str
    recipe: str
    state: str
    created: str
    score: Interval | None = None
    rungs: tuple[str, ...] = ()
    problem: str = ""


class Listing:
    """The runs below a folder. Any number of threads may ask."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[Any, Line | str]] = {}

    def read(self) -> tuple[list[Line], dict[str, str]]:
        """The runs, latest first, and why other folders were left out, by their names."""
        lines, out = [], {}
        for name in self.names():
            found = self._line(name)
            if isinstance(found, Line):
                lines.append(found)
            else:
                out[name] = found
        return sorted(lines, key=lambda line: (line.created, line.id), reverse=True), out

    def names(self) -> list[str]:
        """Names of the folders that may hold a run, in order; those that begin with a dot are no runs."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(
                    entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry)
                )
        except OSError:
            return []

    def find(self, id: object) -> RunFolder:
        """The run with this id, which is looked up among the folder's names and never opened as a path.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        if not isinstance(id, str) or id not in self.names():
            raise UserError(f"There is no run named {str(id)[:200]!r}. The list shows those that there are.")
        self._check_place(id)
        return read_run(self.root / id)

    def state(self, run: RunFolder) -> str:
        """What the run is doing now, or `unknown` where its folder does not say."""
        try:
            inside(run.path, "state.json", 4096)
            state = run.state
        except DAMAGE:
            return "unknown"
        return state if state in STATES else "unknown"

    def _check_place(self, name: str) -> None:
        if not (self.root / name).resolve().is_relative_to(self.root.resolve()):
            raise UserError("it is a link out of the folder of runs")

    def _line(self, name: str) -> Line | str:
        """What the list says of a folder, or why it says nothing."""
        folder = self.root / name
        seen = tuple(_stamp(folder / part) for part in ("config.json", "state.json", "result.json", "."))
        kept = self._known.get(name)
        if kept is None or kept[0] != seen:
            try:
                self._check_place(name)
                kept = seen, _read(folder, self.state)
            except DAMAGE as error:
                kept = seen, str(error)
            self._known[name] = kept
        found = kept[1]
        if isinstance(found, Line) and found.state == "running":  # a killed process writes nothing
            try:
                return replace(found, state=self.state(read_run(folder)))
            except DAMAGE as error:  # it was moved just now
                return str(error)
        return found


def matching(lines: Sequence[Line], text: str = "", recipe: str = "", state: str = "") -> list[Line]:
    """The runs whose id or recipe has every word of the text in it, of this recipe and in this state, if named."""
    words = text.lower().split()
    return [
        line
        for line in lines
        if (not recipe or line.recipe == recipe)
        and (not state or line.state == state)
        and all(word in f"{line.id} {line.recipe}".lower() for word in words)
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino


def _read(folder: Path, state: Any) -> Line:
    run = read_run(folder)
    line = Line(run.id, run.recipe, state(run), str(run.info["created"]), rungs=tuple(rung_names(folder)))
    try:
        return replace(line, score=_score(folder))
    except DAMAGE:
        return replace(line, problem="damaged")


def _score(folder: Path) -> Interval | None:
    """The score of result.json, of which only the beginning is read where that has it."""
    file = inside(folder, "result.json", 2**40)
    if file is None:
        return None
    with file.open("rb") as opened:
        start = opened.read(_HEAD).decode("utf-8", errors="replace")
    head, cut, _ = start.partition('"outcomes": [')
    try:
        data = json.loads(head.rstrip().rstrip(",") + "}") if cut else None
    except ValueError:
        data = None
    if data is None:
        inside(folder, "result.json")
        data = read_json(file)
    return _interval(data["score"])


def _interval(score: Mapping[str, Any]) -> Interval:
    return Interval(float(score["value"]), float(score["low"]), float(score["high"]))
