"""Recipes as processes of their own: started, followed by their log, stopped, gone on with, found again.

A job is a folder: `job.json` (what was started, by whom), `process.json` (which process it is), `log` (what it
says), `end.json` (its exit status). A keeper process, which this file is when it is run, starts the recipe and
writes the last one, so that a job outlives the page that started it and still tells how it ended.
"""

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from workbench.errors import UserError
from workbench.files import read_json, write_json

State = Literal["running", "stopping", "done", "interrupted", "failed", "lost"]

AT_ONCE = 6
"""Jobs that may run at the same time on one machine, whoever started them."""

KEPT = 200
"""Jobs that are remembered, the latest; those that run besides."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_PATIENCE = 5.0  # seconds between two of them
_ASIDE = re.compile(r"\.old-\d+$")  # of a run that another has taken the place of


@dataclass(frozen=True)
class Job:
    """A recipe that was started.

    Attributes:
        id: 16 hexadecimal digits, the folder's name.
        owner: who started it; nobody else is shown it.
        label: what a person calls it.
        recipe, arguments: its command line.
        runs, name: where its run is and how it is called, as far as its flags say; None for an estimate.
        started: UTC in ISO 8601.
        cwd: the folder that it works in.
        folder: of the job.
    """

    id: str
    owner: str
    label: str
    recipe: str
    arguments: tuple[str, ...]
    runs: str | None
    name: str | None
    started: str
    cwd: str
    folder: Path

    @property
    def command(self) -> str:
        """As a shell takes it."""
        return shlex.join(["workbench", self.recipe, *self.arguments])


class Jobs:
    """The jobs of a folder, which several pages may share.

    Args:
        folder: where they are kept; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[str, str] = {}
        self._lock = threading.Lock()

    def start(
        self,
        owner: str,
        recipe: str,
        arguments: list[str],
        runs: Path | None = None,
        name: str | None = None,
        label: str = "",
    ) -> Job:
        """Start a recipe in a process group of its own. What the arguments are is as in `Job`.

        Raises:
            UserError: too many run, or this system has no process groups.
        """
        id = secrets.token_hex(8)
        job = Job(
            id=id,
            owner=owner,
            label=label or recipe,
            recipe=recipe,
            arguments=tuple(arguments),
            runs=None if runs is None else str(runs.resolve()),
            name=name,
            started=_now(),
            cwd=str(Path.cwd()),
            folder=self._folder / id,
        )
        return self._launched(job)

    def again(self, job: Job) -> Job:
        """Start a job's command anew, but without --overwrite: a run that was interrupted goes on.

        Raises:
            UserError: it is running, or as `start`.
        """
        if is_at_work(job):
            raise UserError("It is running.")
        cwd = Path(job.cwd)
        if not cwd.is_dir():
            raise UserError(f"The folder {cwd}, in which it worked, is gone.")
        id = secrets.token_hex(8)
        changed = {"id": id, "folder": self._folder / id, "started": _now(), "arguments": _kept_run(job.arguments)}
        return self._launched(Job(**{**vars(job), **changed}))

    def of(self, owner: str) -> list[Job]:
        """Someone's jobs, the latest first."""
        return [job for job in self._all() if job.owner == owner]

    def find(self, owner: str, id: object) -> Job:
        """One of someone's jobs.

        Raises:
            UserError: it is not theirs, or there is none.
        """
        for job in self.of(owner):
            if job.id == id:
                return job
        raise UserError("This recipe was not started from here.")

    def seen_by(self, owner: str) -> tuple[list[Job], int]:
        """Someone's jobs, the latest first, and how many jobs of others are running."""
        known = self._all()
        others = sum(job.owner != owner and is_at_work(job) for job in known)
        return [job for job in known if job.owner == owner], others

    def run_of(self, job: Job) -> str | None:
        """The id of the run that a job works in; None where there is none yet, or where it is not known."""
        if job.runs is None:
            return None
        if job.name is not None:
            return job.name if (Path(job.runs) / job.name / "config.json").is_file() else None
        if job.id not in self._runs:
            words = _kept_run((job.recipe, *job.arguments))
            found = []
            for file in Path(job.runs).glob("*/config.json"):
                with suppress(UserError, OSError, TypeError, KeyError):
                    if not _ASIDE.search(file.parent.name) and _kept_run(read_json(file)["argv"][1:]) == words:
                        found.append((file.stat().st_mtime, file.parent.name))
            if found:
                self._runs[job.id] = max(found)[1]
        return self._runs.get(job.id)

    def _launched(self, job: Job) -> Job:
        if os.name != "posix":
            raise UserError("Recipes are started from the page on Linux and macOS only. Copy the command line.")
        with self._lock:  # two visitors may start the last one at the same time
            known = self._all()
            if sum(is_at_work(other) for other in known) >= AT_ONCE:
                raise UserError(f"{AT_ONCE} recipes are running on this machine. Stop one, or wait.")
            for old in known[KEPT - 1 :]:
                if not is_at_work(old):
                    shutil.rmtree(old.folder, ignore_errors=True)
            _launch(job)
        return job

    def _all(self) -> list[Job]:
        found = []
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            with suppress(UserError, OSError, TypeError, KeyError, AttributeError):  # a damaged one is left out
                told = read_json(folder / "job.json")
                arguments = tuple(map(str, told.pop("arguments")))
                found.append(Job(**told, arguments=arguments, id=folder.name, folder=folder))
        return sorted(found, key=lambda job: (job.started, job.id), reverse=True)


def state_of(job: Job) -> State:
    """How a job is doing; `lost` is one that ended without a word, as when the machine went down."""
    stopped = (job.folder / "stop.json").is_file()
    status = exit_status(job)
    if status is None and is_at_work(job):
        return "stopping" if stopped else "running"
    status = exit_status(job)  # it may just have ended
    if status is None:
        return "interrupted" if stopped else "lost"
    if status == 0:
        return "done"
    return "interrupted" if stopped or status in (130, -signal.SIGINT) else "failed"


def exit_status(job: Job) -> int | None:
    """The recipe's exit status, negative for the signal that ended it; None while it runs, or where it is lost."""
    with suppress(UserError, OSError, TypeError, KeyError):
        return int(read_json(job.folder / "end.json")["status"])
    return None


def is_at_work(job: Job) -> bool:
    """Whether the job's process is there: the same one, not another of the same number."""
    import psutil

    if (job.folder / "end.json").is_file():
        return False
    try:
        told = read_json(job.folder / "process.json")
        process = psutil.Process(told["pid"])
        same = abs(process.create_time() - told["born"]) < 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except (UserError, OSError, TypeError, KeyError, psutil.Error):
        return False


def next_signal(job: Job) -> str | None:
    """What `stop` would send now, in the end always SIGKILL; None while the last one may yet be obeyed."""
    sent, when = _sent(job)
    if sent and time.time() - when < _PATIENCE:
        return None
    return _SIGNALS[min(sent, len(_SIGNALS) - 1)].name


def stop(job: Job) -> str:
    """Send the job what Ctrl-C would; asked again some seconds later SIGTERM, then SIGKILL.

    Returns:
        What was sent.

    Raises:
        UserError: it does not run, or was asked a moment ago.
    """
    if not is_at_work(job):
        raise UserError("It is not running.")
    name = next_signal(job)
    if name is None:
        raise UserError("It was asked to stop a moment ago. Give it some seconds.")
    sent, _ = _sent(job)
    write_json(job.folder / "stop.json", {"sent": sent + 1, "when": time.time()})
    with suppress(ProcessLookupError):
        os.killpg(read_json(job.folder / "process.json")["pid"], getattr(signal, name))
    if name == "SIGKILL":  # the keeper is gone too
        write_json(job.folder / "end.json", {"status": -signal.SIGKILL, "ended": _now()})
    return name


def _kept_run(words: Iterable[str]) -> tuple[str, ...]:
    """A command line's words, of which none moves the run aside. No value is this word: see `forms.arguments`."""
    return tuple(word for word in words if word != "--overwrite")


def _sent(job: Job) -> tuple[int, float]:
    with suppress(UserError, OSError, TypeError, KeyError):
        told = read_json(job.folder / "stop.json")
        return int(told["sent"]), float(told["when"])
    return 0, 0.0


def _launch(job: Job) -> None:
    import psutil

    job.folder.mkdir(parents=True)
    kept = {name: value for name, value in vars(job).items() if name not in ("id", "folder")}
    write_json(job.folder / "job.json", kept)
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (job.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.jobs", str(job.folder.resolve())],
            cwd=job.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        )
    with suppress(psutil.NoSuchProcess):  # it has ended already, and said so
        _write_process(job.folder, process.pid)  # the keeper does too, but it takes a moment to start


def _write_process(folder: Path, pid: int) -> None:
    import psutil

    write_json(folder / "process.json", {"pid": pid, "born": psutil.Process(pid).create_time()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def keep(folder: Path) -> None:
    """Run a job's recipe to its end, and write its exit status down. The signals are for the recipe."""

    def obey() -> None:  # in the process that becomes the recipe, which the group's signals reach from here on
        for number in _SIGNALS[:2]:
            signal.signal(number, signal.SIG_DFL)
        if (folder / "stop.json").is_file():  # written before a signal is sent: it found the keeper alone
            os._exit(128 + signal.SIGINT)

    for number in _SIGNALS[:2]:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the recipe would inherit
    _write_process(folder, os.getpid())  # the page may have been killed before it did
    told = read_json(folder / "job.json")
    command = [sys.executable, "-m", "recipes", told["recipe"], *told["arguments"]]
    status = subprocess.Popen(command, preexec_fn=obey).wait()  # noqa: PLW1509 - this process has one thread
    write_json(folder / "end.json", {"status": status, "ended": _now()})


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
