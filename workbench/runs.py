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
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from filelock import Timeout

from workbench.errors import UserError
from workbench.files import append_line, json_bytes, read_json, write_atomic, write_json
from workbench.identity import short_hash, to_json
from workbench.launch import is_helper, scratch_folder
from workbench.run_folder import (
    RunFolder,
    RunInfo,
    State,
    checked_name,
    find_run,
    folder_lock,
    list_runs,
    map_model_paths,
)
from workbench.types import Result, System

__all__ = ["Run", "RunFolder", "RunInfo", "State", "find_run", "list_runs"]

# Where one of these folders is, a recipe has nothing left to train; others make `adapter`.
_TRAINED = {
    "sft": ("model",),
    "reward_model": ("reward_model",),
    "dpo": ("adapter", "model"),
    "grpo": ("adapter", "model"),
}
_PACKAGES = ("torch", "transformers", "accelerate", "trl", "peft", "bitsandbytes", "datasets", "vllm")


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
        path = Path(root) / checked_name(name or f"{recipe}-{short_hash([recipe, plain])}")
        if is_helper():
            made = any((path / name).is_dir() for name in _TRAINED.get(recipe, ("adapter",)))
            if made and not overwrite:  # nothing is left to train, and the first process knows
                raise SystemExit(0)
            path = scratch_folder() / path.name
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
        write_json(self.path / "system.json", map_model_paths(to_json(system), self._relative))

    def write_result(self, result: Result, name: str = "result") -> None:
        """Write `<name>.json`."""
        write_json(self.path / f"{checked_name(name)}.json", to_json(result))

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
            interrupted = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
            self.state = "done" if kind is None else "interrupted" if interrupted else "failed"
        finally:
            self.close()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The run's folder {path} cannot be made: {error.strerror or error}.") from error


def _contents(path: Path) -> list[str]:
    # Besides what a process that was killed while making the folder leaves: the lock, temporary files.
    return [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]


def _acquire(path: Path) -> Any:
    # Two seconds, because whoever reads a run's state holds its lock for an instant.
    lock = folder_lock(path, timeout=2)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"Another process is working in {path}. Wait for it, stop it, or give this run another --name."
        ) from error
    except OSError as error:
        raise UserError(f"The run's folder {path} cannot be written to: {error.strerror or error}.") from error
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


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
