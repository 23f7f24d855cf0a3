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
    """All that may be talked with. The list is made anew by `refresh`; entries that left it are not found again.

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
        self.problems: list[str] = []
        """What could not be listed, a sentence each."""

    def entries(self) -> list[Entry]:
        """The entries: named ones first, then served ones, then those of runs, the latest first."""
        if not self._entries:
            self.refresh()
        return list(self._entries.values())

    def find(self, key: object) -> Entry:
        """The entry with this key.

        Raises:
            UserError: there is none.
        """
        if not self._entries:
            self.refresh()
        entry = self._entries.get(key) if isinstance(key, str) else None
        if entry is None:
            raise UserError("This model is not among those that the page offers. Reload the page for the list.")
        return entry

    def refresh(self) -> None:
        """Look again at what servers serve and runs have made."""
        found: dict[str, Entry] = {}
        problems: list[str] = []
        first = self._flags.reference()
        _add(found, first, self._flags.engine, _name(first), "named")
        for name in self._also:
            model = Model(name)
            _add(found, model, self._flags.engine, _name(model), "named")
        for server in self._servers:
            try:
                names = _served(server)
            except UserError as error:
                problems.append(f"What {server} serves is not known: {error}")
                continue
            for name in names:
                _add(found, Model(name), EngineConfig("vllm", endpoint=(server,)), f"{name} (server)", "served")
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
        self._entries, self.problems = found, problems

    def _engine_for(self, model: Model | Proxy) -> EngineConfig:
        if model.base == "fake" or model.base.startswith("fake:"):
            return EngineConfig("fake")
        return (
            replace(self._flags.engine, engine="hf") if self._flags.engine.engine == "fake" else self._flags.engine
        )


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
