"""Supervised fine-tuning of all weights: the answers that the prompt's shot shows, with no weight frozen.

The weights that are trained are float32; in bfloat16 the passes run under autocast, which rounds them on the way.
What comes out is a model of its own, a folder that transformers, vLLM and this workbench load like any other.
"""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.command import Flat
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import finish
from workbench.training.config import Training
from workbench.types import Model, System


@dataclass(frozen=True)
class Config:
    """How all weights are trained.

    Attributes:
        training: how; the learning rate is a tenth of LoRA's, as "LoRA Without Regret" (Schulman 2025) has it.
    """

    training: Flat[Training] = field(default_factory=lambda: Training(learning_rate=1e-4))


def adapt(system: System, task: Task, config: Config, run: Run, *, quiet: bool = False) -> System:
    """The system with a tuned model of its own in its model slot; prompt and decode stay as they are.

    Args:
        system: its model is tuned on its prompt without exemplars.
        task: its practice split is learned.
        config: how.
        run: checkpoints, metrics, the model's folder and its card go there; a finished run is not run again.
        quiet: no progress bar.

    Raises:
        UserError: the model has an adapter already, or too little disk; a run that was interrupted goes on.
    """
    folder = run.path / "model"
    if not folder.is_dir():
        _train(system, task, config, run, folder, quiet)
    return finish("SFT", System(Model(str(folder)), system.prompt, system.decode), task, config, run)


def _train(system: System, task: Task, config: Config, run: Run, folder: Path, quiet: bool) -> None:
    from workbench.training.data import base_and_source
    from workbench.training.saving import save_model
    from workbench.training.sft import fit

    base, encoder, source = base_and_source(system, task, config.training, run, all_weights=True)
    base.train().requires_grad_(True)
    fit(base, source, config.training, run, quiet)
    save_model(base, encoder.tokenizer, folder, config.training.precision)
