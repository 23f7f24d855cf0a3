"""Run folders as a reader sees them: what one holds, the list of all, and the one that an id names.

`runs.py` says which files there are, and writes them.
"""

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from workbench.decodes import OWN_SCORERS
from workbench.errors import UserError, unknown_name
from workbench.files import read_json
from workbench.identity import from_json
from workbench.types import Result, System

State = Literal["running", "done", "interrupted", "failed"]

_WINDOWS_NAMES = {"con", "prn", "aux", "nul"} | {f"{p}{i}" for p in ("com", "lpt") for i in range(10)}


class RunFolder:
    """A run as a reader sees it. `config` is what the recipe was called with, `info` all of config.json.

    Raises:
        UserError: the folder holds no readable config.json.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.id = self.path.name
        self.info: dict[str, Any] = read_json(self.path / "config.json")
        missing = {"recipe", "config", "created"} - set(self.info if isinstance(self.info, dict) else ())
        if missing:
            raise UserError(f"{self.path / 'config.json'} is damaged: it has no {sorted(missing)[0]!r}.")
        self.config: dict[str, Any] = self.info["config"]

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return str(self.info["recipe"])

    @property
    def state(self) -> State:
        """What became of the run; a killed one reads as interrupted."""
        file = self.path / "state.json"
        state: State = read_json(file)["state"] if file.exists() else "interrupted"
        return "interrupted" if state == "running" and not self._is_locked() else state

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl in order; a last line that a kill cut off is left out."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        whole, _, _ = file.read_bytes().rpartition(b"\n")
        lines = []
        for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{file} is damaged in line {number}: {error}. Delete that line.") from error
        return lines

    def read_system(self) -> System:
        """The System of system.json, its paths resolved to where the folder lies now.

        Raises:
            UserError: the run has made none yet, or the file is damaged.
        """
        return read_system(self.path / "system.json")

    def read_result(self, name: str = "result") -> Result | None:
        """The Result of `<name>.json`, or None where there is none yet."""
        file = self.path / f"{checked_name(name)}.json"
        if not file.exists():
            return None
        result = from_json(read_json(file))
        if not isinstance(result, Result):
            raise UserError(f"{file} is damaged: it holds no Result.")
        return result

    def _is_locked(self) -> bool:
        if not (self.path / ".lock").exists():  # a copied folder, perhaps one that cannot be written to
            return False
        try:
            with folder_lock(self.path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def _relative(self, path: str) -> str:
        """Paths below the run's folder as `./…`, other local folders as absolute, names as they are."""
        full, home = Path(path).resolve(), self.path.resolve()
        if full.is_relative_to(home):
            return f"./{full.relative_to(home).as_posix()}"
        return str(full) if full.is_dir() else path


@dataclass(frozen=True)
class RunInfo:
    """A line of the list of runs; `created` is UTC in ISO 8601, `score` that of result.json."""

    id: str
    recipe: str
    state: State
    created: str
    score: float | None
    path: Path


def list_runs(root: str | Path) -> list[RunInfo]:
    """The runs below `root`, oldest first. A folder that is not a run, or a damaged one, costs a warning."""
    found = []
    for path in sorted(Path(root).iterdir()) if Path(root).is_dir() else ():
        if not path.is_dir() or path.name.startswith("."):
            continue
        try:
            run = RunFolder(path)
            file = path / "result.json"
            score = float(read_json(file)["score"]["value"]) if file.exists() else None
            found.append(RunInfo(run.id, run.recipe, run.state, str(run.info["created"]), score, path))
        except (UserError, OSError, TypeError, KeyError, ValueError) as error:
            warnings.warn(f"{path} was left out of the list of runs: {error}", stacklevel=2)
    return sorted(found, key=lambda info: (info.created, info.id))


def find_run(root: str | Path, id: str) -> RunFolder:
    """The run with this id, or the only one whose id starts with it.

    Raises:
        UserError: there is none, or several; the message lists them.
    """
    ids = [info.id for info in list_runs(root)]
    matches = [id] if id in ids else [known for known in ids if id and known.startswith(id)]
    if not matches:
        raise unknown_name("run", id, ids, hint="`workbench runs` lists them.")
    if len(matches) > 1:
        raise UserError(f"{id!r} is the start of several runs: {', '.join(matches)}. Type one of them.")
    return RunFolder(Path(root) / matches[0])


def read_system(file: Path) -> System:
    """The System in a file; its paths that begin with `./` are below the folder in which the file lies.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    home = file.parent.resolve()
    data = map_model_paths(read_json(file), lambda path: str(home / path) if path.startswith("./") else path)
    system = from_json(data)
    if not isinstance(system, System):
        raise UserError(f"{file} holds no System.")
    return system


def checked_name(name: str) -> str:
    """A name that is one plain component of a path on every system.

    Raises:
        UserError: it is not.
    """
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,119}", name) and not name.endswith(".")
    if not plain or name.split(".", maxsplit=1)[0].lower() in _WINDOWS_NAMES:
        raise UserError(
            f"{name!r} cannot name a run. Use up to 120 letters, digits and . _ - = +, starting with a "
            f"letter or a digit; names that Windows keeps for devices (con, nul, …) are out."
        )
    return name


def folder_lock(path: Path, timeout: float) -> Any:
    """The lock that whoever works in a run's folder holds; not taken yet."""
    return FileLock(path / ".lock", timeout=timeout, thread_local=False)


def map_model_paths(data: Any, change: Any) -> Any:
    """JSON of a System with each model's `base` and `adapter` and a decode's `scorer` passed through `change`."""
    if isinstance(data, list):
        return [map_model_paths(item, change) for item in data]
    if not isinstance(data, dict):
        return data
    data = {key: map_model_paths(value, change) for key, value in data.items()}
    if data.get("type") in ("Model", "Proxy"):
        data |= {key: change(data[key]) for key in ("base", "adapter") if isinstance(data.get(key), str)}
    if data.get("type") in ("BestOfN", "WeightedVote", "BeamSearch") and data.get("scorer") not in (
        "",
        *OWN_SCORERS,
    ):
        data["scorer"] = change(data["scorer"])
    return data
