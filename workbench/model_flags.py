"""Which model answers and through which engine: the flags of the recipes that need no task."""

from dataclasses import dataclass, field
from typing import Literal

from workbench.command import Flat
from workbench.engines import EngineConfig, open_engine
from workbench.engines.base import Engine
from workbench.models import EMBEDDED
from workbench.types import Model


@dataclass(frozen=True)
class ModelFlags:
    """The model and its engine.

    Attributes:
        model: smollm2-135m-instruct (embedded), a local folder, a Hub id, or the name on a server.
        revision: of a Hub id.
        adapter: a folder with an adapter in PEFT's format.
        quantization: nf4 or int8 loads the model's linear layers in 4 or 8 bits (engine hf); by default as they
            are stored.
        engine: which engine answers.
    """

    model: str = EMBEDDED
    revision: str | None = None
    adapter: str | None = None
    quantization: Literal["nf4", "int8"] | None = None
    engine: Flat[EngineConfig] = field(default_factory=EngineConfig)

    def reference(self) -> Model:
        """The model, as a System names it."""
        return Model(self.model, self.revision, self.adapter, self.quantization)

    def open(self) -> Engine:
        """Its engine, ready.

        Raises:
            UserError: as `open_engine`.
        """
        return open_engine(self.reference(), self.engine)
