"""A server's processes: started apart from this one, waited for, and ended with all that they started.

vLLM runs its engine and workers as processes of their own, which outlive a first process that was killed. All of
them carry the server's mark in their environment; nothing without it is ever ended.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from workbench.errors import UserError
from workbench.server_state import ServerState
from workbench.serving.config import MARK
from workbench.serving.log_words import words

GENTLE = 30.0
"""Seconds that a server may take to end by itself."""

_TAIL = 400_000  # bytes of a log that are read for its words


def start_process(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> "tuple[subprocess.Popen[bytes], float]":
    """(the process, when it started as the system tells it), in a session of its own; its output goes to the log.

    Raises:
        UserError: the interpreter cannot be run, or the log cannot be written.
    """
    import psutil

    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C and the terminal's end are not for it
            )
        return process, float(psutil.Process(process.pid).create_time())
    except OSError as error:
        raise UserError(f"The server cannot be started: {error}.") from error


def wait_until_up(state: ServerState, process: "subprocess.Popen[bytes]", timeout: float) -> None:
    """Wait until the server answers, and tell on stderr how long that takes.

    Args:
        state: of the server.
        process: its first process.
        timeout: seconds.

    Raises:
        UserError: it ended, or did not answer in time; with its log's words. Ending what is left is the caller's.
    """
    began = said = time.monotonic()
    while not answers(state):
        now = time.monotonic()
        if (status := process.poll()) is not None:
            raise UserError(f"The server ended with status {status}.\n{log_words(state, status)}")
        if now - began > timeout:
            raise UserError(
                f"The server did not answer within {timeout:g} s (timeout).\n{log_words(state)}\n"
                "A large model takes longer: say --timeout."
            )
        if now - said >= 15:
            print(f"starting: {now - began:.0f} s …", file=sys.stderr, flush=True)
            said = now
        time.sleep(0.5)


def answers(state: ServerState) -> bool:
    """Whether /health says that the server and its engine are up."""
    try:
        # A proxy that the environment names is not for this machine's own server.
        address = f"{client_url(state.host, state.port)}/health"
        return httpx.get(address, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def client_url(host: str, port: int) -> str:
    """The address by which this machine reaches a server that listens on a host."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def log_words(state: ServerState, status: int | None = None) -> str:
    """What the log says of the end, and where all of it is."""
    try:
        with state.log.open("rb") as file:
            file.seek(max(0, state.log.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "It left no log."
    ended = status is not None or state.health == "dead"
    return f"{words(text, status, ended=ended)}\nThe whole log: {state.log}"


def end(state: ServerState, gentle: float = GENTLE) -> bool:
    """End every process of a server, and say whether there were any.

    Args:
        state: of the server.
        gentle: seconds that they may take by themselves.
    """
    import psutil

    ours = processes_of(state)
    deadline = time.monotonic() + gentle
    # The first process ends the others in order; those that are left when it is gone are asked themselves.
    first = [process for process in ours if process.pid == state.pid]
    _signal(first, "terminate")
    psutil.wait_procs(first, timeout=gentle)
    psutil.wait_procs(processes_of(state), timeout=min(1.0, gentle))
    left = processes_of(state)
    _signal(left, "terminate")
    psutil.wait_procs(left, timeout=max(0.0, deadline - time.monotonic()))
    left = processes_of(state)
    _signal(left, "kill")
    psutil.wait_procs(left, timeout=10)
    return bool(ours)


def processes_of(state: ServerState) -> list[Any]:
    """The processes (psutil) that carry the server's mark; none of a time when another server had its port."""
    import psutil

    if not isinstance(state.mark, str) or not state.mark:  # else every process without a mark would be one
        return []
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(MARK) == state.mark
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):  # of others, or gone meanwhile
            continue
    return found


def _signal(processes: Sequence[Any], how: str) -> None:
    import psutil

    for process in processes:
        try:
            getattr(process, how)()
        except psutil.Error:
            continue
