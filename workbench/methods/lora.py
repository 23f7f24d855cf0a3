"""LoRA (Hu et al. 2021, arXiv 2106.09685): W + (α/r)·BA on chosen linear layers, everything else frozen.

B starts at zero, so the model starts as it was. The model learns the answers that the prompt's shot shows, on
the practice split, through PEFT and TRL. The adapter is in PEFT's format: any tool that reads those reads it.
"""

from dataclasses import dataclass, field
from typing import Literal

from workbench.adapters import save_adapter
from workbench.command import Flat
from workbench.errors import check_range
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import finish
from workbench.training.config import Training
from workbench.types import Model, System

TARGETS = {
    "all-linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "qv": ["q_proj", "v_proj"],
}


@dataclass(frozen=True)
class Config:
    """LoRA's own settings and how it is trained.

    Attributes:
        rank: r, the rank of the update.
        alpha: α; the update is scaled by α/r. By default 2r, so that the scale stays 2 at every rank.
        targets: which linear layers learn. Names are those of Llama-like models; `all-linear` fits any.
        training: how it is trained.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    rank: int = 8
    alpha: float | None = None
    targets: Literal["all-linear", "attention", "mlp", "qv"] = "all-linear"
    training: Flat[Training] = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_range("rank", self.rank, 1, 4096)
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0, 1e6, open_low=True)


def adapt(system: System, task: Task, config: Config, run: Run, *, quiet: bool = False) -> System:
    """The system with a LoRA adapter in its model slot; prompt and decode stay as they are.

    Args:
        system: its model is tuned on its prompt without exemplars.
        task: its practice split is learned.
        config: LoRA's settings.
        run: checkpoints, metrics, the adapter and the model card go there; a finished run is not run again.
        quiet: no progress bar.

    Raises:
        UserError: the model has an adapter already, or too little disk; a run that was interrupted goes on.
    """
    adapter = run.path / "adapter"
    if not adapter.is_dir():
        _train(system, task, config, run, quiet)
    model = Model(system.model.base, system.model.revision, str(adapter))
    tuned = System(model, system.prompt, system.decode)
    return finish("LoRA", tuned, task, config, run)


def _train(system: System, task: Task, config: Config, run: Run, quiet: bool) -> None:
    from peft import LoraConfig, get_peft_model

    from workbench.training.data import base_and_source
    from workbench.training.sft import fit

    base, encoder, source = base_and_source(system, task, config.training, run)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,
        target_modules=TARGETS[config.targets],
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    weights = get_peft_model(base, settings)
    fit(weights, source, config.training, run, quiet)
    save_adapter(weights, run.path / "adapter")
