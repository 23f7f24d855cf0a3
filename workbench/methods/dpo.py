"""DPO (Rafailov et al. 2023, arXiv 2305.18290) and its kin: learning from pairs of a better and a worse answer.

The loss is −log σ(β(log π/π_ref of the chosen − log π/π_ref of the rejected)) (eq. 7), or another that TRL has, by
name. The reference is the model as it was; its log-probabilities are computed once, before the first update. The
pairs are a file's, or right against wrong samples of the practice questions. What learns is a LoRA adapter, or all
weights.

A batch is one packed sequence in which a prompt, and whatever else two answers begin with, is computed once; all
pairs of a prompt are in one batch. `batch_size` counts prompts, and the loss is the mean over their pairs.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from workbench.adapters import save_adapter
from workbench.command import Flat
from workbench.drawing import Drawer
from workbench.errors import UserError, check_range
from workbench.files import write_json
from workbench.identity import model_identity, to_json
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.lora import check_weights, peft_settings
from workbench.preferring.given import Given, Pairs, pairs_for
from workbench.preferring.losses import LOSSES, Loss, check_loss
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import cost_of, finish, together
from workbench.training.config import Data, Training
from workbench.types import Model, System


@dataclass(frozen=True)
class Config:
    """Which pairs, which loss, and how it is trained.

    Attributes:
        pairs: which pairs are learned from.
        loss: sigmoid is DPO, cdpo and robust expect wrong labels, kto and apo_zero_unpaired judge each answer for
            itself, sft learns the chosen answers alone; ipo, hinge and the others are those of their papers.
        beta: β, how much a log-ratio to the reference counts; under ipo its τ.
        label_smoothing: the share of wrong labels that cdpo, robust, exo_pair, aot or aot_unpaired expects.
        weights: what learns: a LoRA adapter, or all weights.
        lora: the adapter, where one learns, and the training; its batch_size counts prompts, and so does examples:
            those that are sampled, or the first of the file. Its micro_batch does nothing under kto, sft, aot and
            aot_unpaired, whose batches are not cut.

    Raises:
        UserError: a value is out of range, or means nothing to the loss.
    """

    pairs: Flat[Pairs] = field(default_factory=Pairs)
    loss: Loss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    weights: Literal["lora", "all"] = "lora"
    lora: Flat[LoraConfig] = field(
        default_factory=lambda: LoraConfig(training=Training(learning_rate=1e-4, epochs=1, batch_size=8))
    )

    def __post_init__(self) -> None:
        check_range("beta", self.beta, 0, 1000, open_low=True)
        check_range("label_smoothing", self.label_smoothing, 0, 0.499)
        check_loss(self.loss, self.label_smoothing)
        check_weights(self.weights, self.lora)
        if self.lora.training.data != Data():
            raise UserError("--data and what goes with it are of fine-tuning; pairs come from --pairs.")


def adapt(system: System, task: Task, config: Config, run: Run, drawer: Drawer, *, quiet: bool = False) -> System:
    """The system with a model in its slot that learned from pairs; prompt and decode stay as they are.

    Args:
        system: its model learns; verifier pairs are its own samples under its prompt without exemplars.
        task: its practice questions are sampled and graded, where no file of pairs is given.
        config: how.
        run: pairs, reference, checkpoints, metrics, what was trained and its card go there; a finished run is not
            run again.
        drawer: draws the samples.
        quiet: no progress bar.

    Raises:
        UserError: the pairs cannot be had, the model has an adapter already, or too little disk; a run that was
            interrupted goes on.
    """
    made = run.path / ("adapter" if config.weights == "lora" else "model")
    if not made.is_dir():
        questions = config.lora.training.examples
        given = pairs_for(config.pairs, system, task, run, drawer, questions=questions)
        drawer.close()
        _train(system, config, run, given, quiet)
    model = replace(system.model, adapter=str(made)) if config.weights == "lora" else Model(str(made))
    kind = {"sigmoid": "DPO", "kto": "KTO", "ipo": "IPO", "cdpo": "cDPO"}.get(config.loss, config.loss)
    return finish(kind, System(model, system.prompt, system.decode), task, config, run)


def _train(system: System, config: Config, run: Run, given: Given, quiet: bool) -> None:
    from peft import get_peft_model

    from workbench.preferring.pair_loss import PairLoss
    from workbench.preferring.pair_rows import rows_of_pairs, with_reference
    from workbench.training.batches import Examples
    from workbench.training.data import base_and_encoder, within_context
    from workbench.training.saving import save_model
    from workbench.training.sft import fit

    training, whole = config.lora.training, config.weights == "all"
    base, encoder = base_and_encoder(system, training, all_weights=whole)
    adapted: Any = None if whole else get_peft_model(base, peft_settings(base, config.lora))
    weights = base.train().requires_grad_(True) if whole else adapted
    groups, counts = rows_of_pairs(
        given.pairs, encoder, within_context(base, training), mismatched=LOSSES[config.loss].mismatched
    )
    about = {"source": given.source, "hash": given.hash, "format": "pairs", "loss_is": "a pair", **counts}
    write_json(run.path / "data.json", about)
    objective = PairLoss(weights, encoder.tokenizer, config.loss, config.beta, config.label_smoothing)
    content = [model_identity(system.model), training.precision]
    items = with_reference(groups, objective, run, content, training.precision, quiet)
    fit(weights, Examples(items, training), training, run, quiet, objective=objective)
    write_json(run.path / "cost.json", to_json(together([given.cost, cost_of(run)])))
    if whole:
        save_model(base, encoder.tokenizer, run.path / "model", training.precision)
    else:
        save_adapter(weights, system.model, run.path / "adapter")
