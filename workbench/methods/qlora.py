"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314, §3): LoRA over a base in 4 bits, which is frozen anyway.

The base's linear layers are NF4 with double quantisation (`quantization.py`); gradients pass through them to the
adapter, whose weights are float32, like those of LoRA. It departs from the paper in that the optimiser is not
paged, and from TRL, which turns the adapter of a quantised model into bfloat16.

The adapter also loads on the plain base, without `--quantization nf4`. Its answers then differ a little: it
learned to make up for what 4 bits had rounded away, and that is no longer missing.
"""

from dataclasses import dataclass, replace

from workbench.methods import lora
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.types import System


@dataclass(frozen=True)
class Config(lora.Config):
    """QLoRA's settings are LoRA's."""


def adapt(system: System, task: Task, config: Config, run: Run, *, quiet: bool = False) -> System:
    """The system with its base in NF4 and a LoRA adapter in its model slot; arguments as in `lora.adapt`.

    Raises:
        UserError: as there; also where the architecture has no linear layers, or bitsandbytes is missing.
    """
    packed = replace(system, model=replace(system.model, quantization="nf4"))
    return lora.adapt(packed, task, config, run, quiet=quiet)
