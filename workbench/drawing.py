"""Drawing a System's completions for methods that learn from them: one engine at a time, through the store.

A machine has memory for one model; asking for another model's engine closes the one before, and a method that
trains closes it first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.cost import EnergyMeter, inference_flops
from workbench.decoding.ask import completions
from workbench.engines import EngineConfig, open_engine
from workbench.engines.base import Engine
from workbench.identity import model_identity
from workbench.progress import Bar
from workbench.prompts import render
from workbench.store import Store
from workbench.types import Completion, CostToMake, Example, Finish, Model, Request, System


@dataclass(frozen=True)
class Drawn:
    """What was drawn, and what drawing it cost.

    Attributes:
        completions: by request id, in the order of their indices; failed ones finish with `error`.
        cost: of all of them, those that an earlier run had stored too; a prompt counts once for its samples.
    """

    completions: dict[str, list[Completion]]
    cost: CostToMake


class Drawer:
    """Engines, one at a time, and the store.

    Args:
        config: which engine.
        store: completions are taken from it and put into it.
        quiet: no progress bars.
    """

    def __init__(self, config: EngineConfig, store: Store, quiet: bool = False) -> None:
        self.config, self.store, self.quiet = config, store, quiet
        self._engine: Engine | None = None
        self._loaded: dict[str, Any] | None = None

    def engine(self, model: Model) -> Engine:
        """The engine of a model; the one before is closed if it is another's."""
        identity = model_identity(model)
        if self._engine is None or identity != self._loaded:
            self.close()
            self._engine, self._loaded = open_engine(model, self.config), identity
        return self._engine

    def close(self) -> None:
        """Free the model's memory, for training or for another model."""
        if self._engine is not None:
            self._engine.close()
            self._engine = self._loaded = None

    def draw(self, system: System, requests: Sequence[Request], title: str, labels: Sequence[str] = ()) -> Drawn:
        """Every completion that the system's decode asks for, with a progress bar.

        Args:
            system: its decode says how many samples and how.
            requests: one a question; their ids name the samples in the store, so that another conversation needs
                another id.
            title: of the progress bar.
            labels: what `LabelLikelihood` scores.

        Raises:
            UserError: the server died or refuses; what was answered is stored.
        """
        engine = self.engine(system.model)
        with Bar(title, quiet=self.quiet) as bar, EnergyMeter() as meter:
            found = completions(system, requests, labels, engine, self.store, bar.show)
        whole = [[c for c in drawn if c.finish is not Finish.ERROR] for drawn in found.values()]
        prompts = [max((c.prompt_tokens for c in drawn), default=0) for drawn in whole]
        flops = 0.0
        if engine.shape is not None:
            for drawn, prompt in zip(whole, prompts, strict=True):
                said = sum(c.completion_tokens for c in drawn)
                flops += inference_flops(engine.shape, prompt, said / max(1, len(drawn)), len(drawn))
        seconds = sum(c.seconds for drawn in whole for c in drawn)
        cost = CostToMake(
            tokens=sum(prompts) + sum(c.completion_tokens for drawn in whole for c in drawn),
            flops=flops,
            seconds=seconds,
            peak_memory_bytes=meter.peak_memory_bytes,
            watt_hours=meter.watt_hours * (seconds / meter.seconds if meter.seconds else 1.0),
            energy_source=meter.source,
        )
        return Drawn(found, cost)


def requests_of(system: System, examples: Sequence[Example]) -> list[Request]:
    """The examples' questions as the system's prompt asks them, without exemplars."""
    prompt = system.prompt
    return [Request(example.id, render(prompt, example), style=prompt.style) for example in examples]
