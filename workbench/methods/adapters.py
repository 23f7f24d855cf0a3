"""Adapters as they were first: bottlenecks inside every layer (Houlsby et al. 2019), and biases (BitFit).

Bottlenecks (arXiv 1902.00751): behind the attention's and the feed-forward's output projection of every layer,
before the residual addition, y becomes y + W_up·GELU(W_down·y + b_down) + b_up, with W_down of m rows: 2md + m + d
parameters each, two a layer. They start at W_up = 0, so the model starts as it was. Unlike the paper's, the norms
stay frozen and there is no new output layer: the answer is text.

BitFit (Ben-Zaken et al. 2022, arXiv 2106.10199, §3): the biases that the model has, and nothing else. Llamas have
none, which is said before anything is trained.

PEFT has neither, so these files are the workbench's own (`own_kinds.py`); other tools refuse them.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from workbench.adapters import save_adapter
from workbench.command import Flat
from workbench.errors import check_range
from workbench.own_kinds import WIDEST, add_bottlenecks, free_biases
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import finish
from workbench.training.config import Training
from workbench.types import System


@dataclass(frozen=True)
class Houlsby:
    """The bottlenecks' width and how they are trained.

    Attributes:
        bottleneck: m, the width within.
        training: how they are trained.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    name: ClassVar[str] = "bottleneck adapters"

    bottleneck: int = 64
    training: Flat[Training] = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_range("bottleneck", self.bottleneck, 1, WIDEST)


@dataclass(frozen=True)
class BitFit:
    """How the biases are trained.

    Attributes:
        training: how.
    """

    name: ClassVar[str] = "BitFit"

    training: Flat[Training] = field(default_factory=Training)


def adapt(system: System, task: Task, config: Houlsby | BitFit, run: Run, *, quiet: bool = False) -> System:
    """The system with bottlenecks, or with biases of its own, in its model slot; prompt and decode stay.

    Args:
        system: its model is tuned on its prompt without exemplars.
        task: its practice split is learned.
        config: `Houlsby` or `BitFit`.
        run: checkpoints, metrics, the adapter and the model card go there; a finished run is not run again.
        quiet: no progress bar.

    Raises:
        UserError: the model has an adapter already, or no place for this one (no biases, or layers of another
            make), or too little disk; a run that was interrupted goes on.
    """
    adapter = run.path / "adapter"
    if not adapter.is_dir():
        _train(system, task, config, run, quiet)
    tuned = System(replace(system.model, adapter=str(adapter)), system.prompt, system.decode)
    return finish(config.name, tuned, task, config, run)


def _train(system: System, task: Task, config: Houlsby | BitFit, run: Run, quiet: bool) -> None:
    from workbench.training.data import base_and_source
    from workbench.training.sft import fit

    training, bottlenecks = config.training, isinstance(config, Houlsby)
    # Biases are weights of the model itself, which are trained in float32.
    weights, _, source = base_and_source(system, task, training, run, all_weights=not bottlenecks)
    if isinstance(config, Houlsby):
        add_bottlenecks(weights, config.bottleneck, seed=training.training_seed)
    else:
        free_biases(weights)
    fit(weights, source, training, run, quiet)
    save_adapter(weights, system.model, run.path / "adapter")
