"""Run folders: `runs/<id>/` holds all that is known about one run of a recipe, in files that people can read.

    config.json    recipe, config, package versions, git state, time, command: enough to run it again
    state.json     running, done, interrupted or failed
    metrics.jsonl  one line a log call
    system.json    the System that the run made; paths inside the folder are relative, so it can be moved
    result.json    what the harness measured
    README.md      the model card

The same recipe with the same config comes back to the same folder and goes on there. One process works in a
folder at a time: it holds a lock that the operating system frees when the process dies, however it dies, so a
run that says "running" while its lock is free was interrupted.
"""

import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from filelock import FileLock, Timeout

from workbench.errors import UserError, unknown_name
from workbench.files import append_line, json_bytes, read_json, write_atomic, write_json
from workbench.identity import from_json, short_hash, to_json
from workbench.types import Result, System

State = Literal["running", "done", "interrupted", "failed"]

_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "vllm")
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
        system = from_json(_map_model_paths(read_json(self.path / "system.json"), self._absolute))
        if not isinstance(system, System):
            raise UserError(f"{self.path / 'system.json'} is damaged: it holds no System.")
        return system

    def read_result(self, name: str = "result") -> Result | None:
        """The Result of `<name>.json`, or None where there is none yet."""
        file = self.path / f"{_checked_name(name)}.json"
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
            with _lock(self.path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    def _absolute(self, path: str) -> str:
        return str(self.path.resolve() / path) if path.startswith("./") else path

    def _relative(self, path: str) -> str:
        """Paths below the run's folder as `./…`, other local folders as absolute, names as they are."""
        full, home = Path(path).resolve(), self.path.resolve()
        if full.is_relative_to(home):
            return f"./{full.relative_to(home).as_posix()}"
        return str(full) if full.is_dir() else path


class Run(RunFolder):
    """A run that this process works in. As a context manager it keeps `state` true, and frees the folder.

    Inside the `with` block SIGTERM ends the run as Ctrl-C does: by a KeyboardInterrupt.
    """

    def __init__(self, path: Path, lock: Any) -> None:
        super().__init__(path)
        self._held_lock = lock
        self._old_handler: Any = None

    @classmethod
    def open(
        cls,
        root: str | Path,
        recipe: str,
        config: Mapping[str, Any],
        *,
        name: str | None = None,
        overwrite: bool = False,
    ) -> "Run":
        """Make the run's folder, or come back to it.

        Args:
            root: the folder of all runs.
            recipe, config: what is run; the run's id is their hash after the recipe's name.
            name: an id of the user's own in place of that.
            overwrite: move what is there aside, to `<id>.old-<n>`, and start anew. Nothing is ever deleted.

        Raises:
            UserError: another process works there, it was made with another config, or the name is bad.
        """
        plain = json.loads(json.dumps(to_json(config), default=str))
        path = Path(root) / _checked_name(name or f"{recipe}-{short_hash([recipe, plain])}")
        _make_folder(path)
        lock = _acquire(path)
        try:
            if overwrite and _contents(path):
                _move_aside(path)
                lock.release()
                _make_folder(path)
                lock = _acquire(path)
            if _contents(path):
                _check_same(RunFolder(path), recipe, plain)
                _cut_torn_line(path / "metrics.jsonl")
            else:
                write_json(path / "config.json", _describe(recipe, plain))
            return cls(path, lock)
        except BaseException:
            lock.release()
            raise

    @property
    def state(self) -> State:
        """What the run is doing now. Setting it writes it down."""
        file = self.path / "state.json"
        state: State = read_json(file)["state"] if file.exists() else "interrupted"
        return state

    @state.setter
    def state(self, state: State) -> None:
        write_json(self.path / "state.json", {"state": state})

    def log(self, **metrics: Any) -> None:
        """Append a line to metrics.jsonl. NaN and infinity become null, and `not_finite` names the fields."""
        line = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}  # numpy, torch scalars
        bad = [k for k, v in line.items() if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            line |= dict.fromkeys(bad) | {"not_finite": bad}
        append_line(self.path / "metrics.jsonl", json_bytes(line))

    def write_system(self, system: System) -> None:
        """Write system.json; an adapter or a model inside the folder is named relative to it."""
        write_json(self.path / "system.json", _map_model_paths(to_json(system), self._relative))

    def write_result(self, result: Result, name: str = "result") -> None:
        """Write `<name>.json`."""
        write_json(self.path / f"{_checked_name(name)}.json", to_json(result))

    def write_card(self, markdown: str) -> None:
        """Write README.md, the model card."""
        write_atomic(self.path / "README.md", markdown)

    def close(self) -> None:
        """Free the folder for other processes."""
        self._held_lock.release()

    def __enter__(self) -> "Run":
        self.state = "running"
        if threading.current_thread() is threading.main_thread():  # elsewhere Python has no signal handlers
            self._old_handler = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        try:
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self.state = "done" if kind is None else "interrupted" if interrupted else "failed"
        finally:
            self.close()


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


def _checked_name(name: str) -> str:
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


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The run's folder {path} cannot be made: {error.strerror or error}.") from error


def _contents(path: Path) -> list[str]:
    # Besides what a process that was killed while making the folder leaves: the lock, temporary files.
    return [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]


def _lock(path: Path, timeout: float) -> Any:
    return FileLock(path / ".lock", timeout=timeout, thread_local=False)


def _acquire(path: Path) -> Any:
    # Two seconds, because whoever reads a run's state holds its lock for an instant.
    lock = _lock(path, timeout=2)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"Another process is working in {path}. Wait for it, stop it, or give this run another --name."
        ) from error
    except OSError as error:
        raise UserError(
            f"The run's folder {path} cannot be written to: {error.strerror or error}."
        ) from error
    return lock


def _move_aside(path: Path) -> None:
    numbers = range(1, 10**6)
    path.rename(next(p for n in numbers if not (p := path.with_name(f"{path.name}.old-{n}")).exists()))


def _check_same(run: RunFolder, recipe: str, config: Any) -> None:
    difference = _first_difference("", {"recipe": run.recipe, **run.config}, {"recipe": recipe, **config})
    if difference:
        field, old, new = difference
        raise UserError(
            f"{run.path} was made with {field} = {old}, and now {field} is {new}. Give this run another "
            f"--name, or --overwrite to start anew there (what is there is kept as {run.id}.old-<n>)."
        )


def _first_difference(field: str, old: Any, new: Any) -> tuple[str, str, str] | None:
    """The dotted name of the first field that differs, with both values as JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
            name = f"{field}.{key}".lstrip(".")
            if key not in old or key not in new:
                return name, json.dumps(old.get(key, "(none)")), json.dumps(new.get(key, "(none)"))
            if found := _first_difference(name, old[key], new[key]):
                return found
        return None
    return None if old == new else (field, json.dumps(old), json.dumps(new))


def _cut_torn_line(file: Path) -> None:
    # Or the next line would be glued to the one that a kill cut off, and both lost.
    if file.exists() and not (data := file.read_bytes()).endswith(b"\n"):
        os.truncate(file, data.rfind(b"\n") + 1)


def _describe(recipe: str, config: Any) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "recipe": recipe,
        "config": config,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "packages": versions,
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the working folder's project and whether it has changes; None outside a project."""
    try:
        commit, status = (
            subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


def _map_model_paths(data: Any, change: Any) -> Any:
    """JSON of a System with every model's `base` and `adapter` passed through `change`."""
    if isinstance(data, list):
        return [_map_model_paths(item, change) for item in data]
    if not isinstance(data, dict):
        return data
    data = {key: _map_model_paths(value, change) for key, value in data.items()}
    if data.get("type") == "Model":
        data |= {key: change(data[key]) for key in ("base", "adapter") if isinstance(data.get(key), str)}
    return data


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
