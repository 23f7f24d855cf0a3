"""The models that a page may talk with: named ones, those that configured servers serve, those that runs made.

A browser names one by its key, which is looked up here. What is not here cannot be talked with, whatever is sent.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from workbench.engines import EngineConfig
from workbench.engines.client import Servers
from workbench.engines.served import read_cards
from workbench.errors import UserError
from workbench.identity import model_identity, short_hash
from workbench.model_flags import ModelFlags
from workbench.proxy import Proxy
from workbench.run_folder import RunFolder, list_runs
from workbench.types import Model, System

_LISTING = 5.0  # seconds that a server has to say what it serves


@dataclass(frozen=True)
class Entry:
    """A model that may be talked with.

    Attributes:
        key: what a browser names it by: 16 hexadecimal digits of what it is and who answers.
        label: what a person reads; no two entries share one.
        model: the model.
        engine: who answers.
        system: where a run made it, the run's whole System; None where there is only a model.
        kind: named on the command line, served by a configured server, or made by a run.
        weights: a hash of model and engine alone: entries that share it share what is in memory.
    """

    key: str
    label: str
    model: Model | Proxy
    engine: EngineConfig
    weights: str
    system: System | None = None
    kind: Literal["named", "served", "run"] = "named"

    @property
    def in_process(self) -> bool:
        """Whether its weights are in this process, where one answer at a time is computed."""
        return self.engine.engine == "hf"


class Catalogue:
    """All that may be talked with. Runs are looked at again whenever one has made another System; what servers
    serve is asked by `refresh`. Entries that left the list of `entries` are not found again.

    Args:
        flags: the model of the command line and its engine.
        also: further models of the same engine, by name or folder.
        servers: addresses of servers; each model that they serve is an entry.
        runs: folder of all runs; each System that a run made is an entry.
    """

    def __init__(
        self, flags: ModelFlags, also: Sequence[str] = (), servers: Sequence[str] = (), runs: Path = Path("runs")
    ) -> None:
        self._flags, self._also, self._servers, self._runs = flags, tuple(also), tuple(servers), runs
        self.servers = frozenset(address.rstrip("/") for address in (*servers, *flags.engine.endpoint))
        """Addresses of servers that may be asked, as they were given."""
        self._entries: dict[str, Entry] = {}
        self._fixed: dict[str, Entry] = {}  # but for the runs'
        self._made: object = None  # which runs had which System when they were looked at
        self.problems: list[str] = []
        """What could not be listed, a sentence each."""
        self._unknown: list[str] = []

    def entries(self) -> list[Entry]:
        """The entries: named ones first, then served ones, then those of runs, the latest first."""
        if not self._fixed:
            self.refresh()
        self._look_at_runs()
        return list(self._entries.values())

    def find(self, key: object) -> Entry:
        """The entry with this key.

        Runs are looked at only where the key is not known, which may take as long as hashing a model's files. What
        a run made that is gone by now is found until `entries` is asked again.

        Raises:
            UserError: there is none.
        """
        if not isinstance(key, str) or (entry := self._entries.get(key)) is None:
            entry = next((entry for entry in self.entries() if entry.key == key), None)
        if entry is None:
            raise UserError("This model is not among those that the page offers. Reload the page for the list.")
        return entry

    def refresh(self) -> None:
        """Look again at everything: what is named, what servers serve, what runs have made."""
        found: dict[str, Entry] = {}
        self._unknown = []
        first = self._flags.reference()
        _add(found, first, self._flags.engine, _name(first), "named")
        for name in self._also:
            model = Model(name)
            _add(found, model, self._flags.engine, _name(model), "named")
        for server in self._servers:
            try:
                names = _served(server)
            except UserError as error:
                self._unknown.append(f"What {server} serves is not known: {error}")
                continue
            for name in names:
                _add(found, Model(name), EngineConfig("vllm", endpoint=(server,)), f"{name} (server)", "served")
        self._fixed, self._made = found, None
        self._look_at_runs()

    def _look_at_runs(self) -> None:
        """Add what runs have made, where that is not what it was."""
        made = [(file.parent.name, _changed(file)) for file in sorted(self._runs.glob("*/system.json"))]
        if made == self._made:
            return
        found, problems = dict(self._fixed), list(self._unknown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged run is told by the list of runs
            infos = list_runs(self._runs)
        for info in reversed(infos):
            if not (info.path / "system.json").exists():
                continue
            try:
                system = RunFolder(info.path).read_system()
                label = f"{info.id} (run: {info.recipe})"
                _add(found, system.model, self._engine_for(system.model), label, "run", system)
            except (UserError, OSError, TypeError, KeyError, ValueError) as error:
                problems.append(f"The run {info.id} cannot be talked with: {error}")
        self._entries, self.problems, self._made = found, problems, made

    def _engine_for(self, model: Model | Proxy) -> EngineConfig:
        if model.base == "fake" or model.base.startswith("fake:"):
            return EngineConfig("fake")
        return (
            replace(self._flags.engine, engine="hf") if self._flags.engine.engine == "fake" else self._flags.engine
        )


def _changed(file: Path) -> int:
    """When a file was written, in nanoseconds; 0 where it is gone."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _add(
    found: dict[str, Entry],
    model: Model | Proxy,
    engine: EngineConfig,
    label: str,
    kind: Literal["named", "served", "run"],
    system: System | None = None,
) -> None:
    """One more entry. A run that made nothing but a prompt or a decode is one too: its System is another."""
    weights = short_hash([model_identity(model), engine])
    key = weights if system is None else short_hash([weights, system.prompt, system.decode])
    if key in found:
        return
    labels = {entry.label for entry in found.values()}
    if label in labels:
        label = f"{label} {key[:6]}"
    found[key] = Entry(key, label, model, engine, weights, system, kind)


def _name(model: Model) -> str:
    base = Path(model.base).resolve().name if Path(model.base).is_dir() else model.base
    adapter = f" + {Path(model.adapter).name}" if model.adapter else ""
    quantization = f" in {model.quantization}" if model.quantization else ""
    return f"{base}{adapter}{quantization}"


def _served(server: str) -> list[str]:
    """The names that a server serves, its adapters among them."""
    servers = Servers([server], os.environ.get("WORKBENCH_API_KEY"), _LISTING, retries=0, backoff=1.0)
    return sorted({name for cards in read_cards(servers).values() for name in cards})
