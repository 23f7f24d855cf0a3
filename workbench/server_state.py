"""What this machine knows of the servers that `workbench serve` started: one JSON file a port, never a key in it.

`<cache folder>/servers/<port>/` holds `state.json`, the server's log, and the adapters as they are served.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.models import cache_folder

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine can reach."""

Health = Literal["starting", "healthy", "unhealthy", "dead"]


@dataclass(frozen=True)
class Canary:
    """What one check of the canaries saw.

    Attributes:
        served: the served name that was asked, or the soft prompt's.
        check: `prefill`, `decode` or `self`.
        value: what was measured, nats a token.
        bound: the largest value that is taken for rounding.
        words: the worst prompt, what was answered, and the numbers, as a person reads them.
    """

    served: str
    check: str
    value: float
    bound: float
    words: str

    def __str__(self) -> str:
        return f"{self.served}, {self.check}: {self.value:.3f}, at most {self.bound:g}. {self.words}"

    @property
    def passed(self) -> bool:
        """Whether it is within its bound; NaN is not."""
        return self.value <= self.bound


@dataclass(frozen=True)
class Served:
    """One adapter of a server.

    Attributes:
        folder: the copy that is served; it never changes.
        kind: PEFT's name: LORA or PROMPT_TUNING.
        source: the folder that it was copied from.
    """

    folder: str
    kind: str
    source: str


@dataclass(frozen=True)
class ServerState:
    """One server.

    Attributes:
        url: by which this machine reaches it.
        host: the address it listens on.
        port: a folder's name as well.
        model: the base, under the name it is served by: what `--model` said.
        revision: of a Hub id.
        folder: where the base's files are.
        pid: of its first process.
        created: when that process started, as the system tells it: a process of another time is another process.
        mark: stands in the environment of all of its processes, and of no other's.
        python: the interpreter that runs it.
        version: vLLM's, with its build: `0.32.0 cpu`.
        command: its command line.
        dtype: of the weights.
        max_lora_rank: the largest rank that it takes; 0 where it takes no LoRA.
        room: how many LoRAs may be loaded into it, ever; None where there is no bound.
        prompt_embeds: whether it takes embeddings, and so soft prompts.
        started: ISO time.
        health: `unhealthy` is one that answers, and fails its canaries.
        adapters: by served name.
        canaries: what each check saw, the last time.
        note: what the canaries left out, and why.
    """

    url: str
    host: str
    port: int
    model: str
    revision: str | None
    folder: str
    pid: int
    created: float
    mark: str
    python: str
    version: str
    command: tuple[str, ...]
    dtype: str
    max_lora_rank: int
    room: int | None
    prompt_embeds: bool
    started: str
    health: Health = "starting"
    adapters: Mapping[str, Served] = field(default_factory=dict)
    canaries: tuple[Canary, ...] = ()
    note: str = ""

    @property
    def place(self) -> Path:
        """The folder of its state, its log and its adapters."""
        return server_folder(self.port)

    @property
    def log(self) -> Path:
        """Everything that the server printed."""
        return self.place / "server.log"

    @property
    def failed(self) -> tuple[Canary, ...]:
        """The checks that were out of bounds."""
        return tuple(canary for canary in self.canaries if not canary.passed)


def server_folder(port: int) -> Path:
    """Where the server of a port is kept."""
    return cache_folder() / "servers" / str(port)


def write_state(state: ServerState) -> None:
    """Write a server's state, atomically.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    data = asdict(state)
    # JSON has no NaN; a check that could not be computed comes back as None, and has not passed.
    for canary in data["canaries"]:
        canary["value"] = canary["value"] if canary["value"] == canary["value"] else None
    write_json(state.place / "state.json", data)


def remove_state(state: ServerState) -> None:
    """Forget a server that has ended, with its log and its copies of adapters."""
    shutil.rmtree(state.place, ignore_errors=True)


def read_states(port: int | None = None) -> list[ServerState]:
    """Every server that was started on this machine and not stopped, by port; `dead` where its process is gone.

    Args:
        port: of the only one that is wanted; the others' states are not read then.

    Raises:
        UserError: a state cannot be read; the message names the file.
    """
    paths = (cache_folder() / "servers").glob("*/state.json")
    ports = sorted(int(path.parent.name) for path in paths if path.parent.name.isdecimal())
    return [_read(server_folder(number) / "state.json") for number in ports if port in (None, number)]


def state_of(url: str) -> ServerState | None:
    """The server of this machine that answers at an address; None where none of `serve`'s does.

    Args:
        url: with or without `/v1`; localhost and 127.0.0.1 are one.

    Raises:
        UserError: its state cannot be read.
    """
    try:
        parts = urlsplit(url.strip())
        port, host = parts.port, parts.hostname
    except ValueError:
        return None
    if port is None or not (path := server_folder(port) / "state.json").is_file():
        return None
    state = _read(path)
    anywhere = state.host in ("0.0.0.0", "::")
    here = host in LOOPBACK and (state.host in LOOPBACK or anywhere)
    return state if here or host == state.host else None


def lives(state: ServerState) -> bool:
    """Whether the server's first process is still there: its pid, started when it was."""
    import psutil

    try:
        process = psutil.Process(state.pid)
        # The clock that start times are told by may be set meanwhile, by less than this.
        same = abs(process.create_time() - state.created) < 2
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _read(path: Path) -> ServerState:
    data = read_json(path)
    try:
        adapters = {name: Served(**served) for name, served in data.pop("adapters").items()}
        canaries = tuple(
            Canary(**{**canary, "value": float("nan") if canary["value"] is None else canary["value"]})
            for canary in data.pop("canaries")
        )
        command = tuple(data.pop("command"))
        state = ServerState(**data, command=command, adapters=adapters, canaries=canaries)
        if not isinstance(state.mark, str) or not state.mark:  # its processes are told, and ended, by it
            raise TypeError("its mark is no text")
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: it holds no server's state ({error}). Delete its folder.") from None
    return state if lives(state) else replace(state, health="dead")
