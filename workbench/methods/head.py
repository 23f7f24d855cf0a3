"""A classification head: the labels scored by an output layer of their own, alone or with all weights behind it.

The head is a linear layer of one row a label (d · labels parameters, no bias) in the place of the model's output
layer, read at the prompt's last token; what is learned is the right label's cross-entropy among the labels. Three
variants, of which the last two train all weights, in float32, and make a model of their own:

    head   the head alone, on a model that stays as it was
    warm   the head alone, and then all weights from that head
    cold   all weights from a fresh head

A fresh head's gradient is noise to the weights below it, which is why the warm one trains it first (linear
probing, then fine-tuning: Kumar et al. 2022, arXiv 2202.10054). A model with a head only scores labels.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from workbench.adapters import save_adapter, with_adapter
from workbench.command import Flat
from workbench.errors import UserError, check_range
from workbench.files import write_json
from workbench.identity import to_json
from workbench.own_kinds import add_head, without_head
from workbench.prompts import render
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import cost_of, finish, together
from workbench.training.config import Training
from workbench.types import Model, Prompt, Request, System


@dataclass(frozen=True)
class Config:
    """Which of the three variants, and how it is trained.

    Attributes:
        variant: head, warm or cold.
        head_rate: where the head is trained alone, its learning rate is so many times learning_rate: one layer
            over fixed states takes 0.01 where a whole model takes 0.0001.
        training: how; warm trains twice like that.

    Raises:
        UserError: a value is out of range, or data that bring no labels are named.
    """

    variant: Literal["head", "warm", "cold"] = "head"
    head_rate: float = 100.0
    training: Flat[Training] = field(default_factory=lambda: Training(learning_rate=1e-4))

    def __post_init__(self) -> None:
        check_range("head_rate", self.head_rate, 0, 1e6, open_low=True)
        if self.training.data.data is not None:
            raise UserError("A head learns the labels of a task's practice split; --data has none. Leave it out.")


def adapt(system: System, task: Task, config: Config, run: Run, *, quiet: bool = False) -> System:
    """The system with a head in its model slot; prompt and decode stay as they are.

    Args:
        system: its model is tuned on its prompt without exemplars.
        task: a classification, whose practice split is learned.
        config: which variant, and how.
        run: checkpoints, metrics, the head, the model's folder where all weights were trained, and the model card
            go there; a finished run is not run again. Warm trains its head in a run inside this one.
        quiet: no progress bar.

    Raises:
        UserError: the task has no labels, the model has an adapter already, or too little disk; a run that was
            interrupted goes on.
    """
    if len(task.labels) < 2:
        raise UserError(f"The task {task.name!r} has no labels for a head to score; `workbench sft` needs none.")
    return _adapt(system, task, config, run, quiet)


def _adapt(system: System, task: Task, config: Config, run: Run, quiet: bool, more: bool = False) -> System:
    """As `adapt`; `more` says that another training follows in the same processes."""
    adapter = run.path / "adapter"
    if not adapter.is_dir():
        _train(system, task, config, run, quiet, more)
    model = replace(system.model, adapter=str(adapter))
    if config.variant != "head":
        model = Model(str(run.path / "model"), adapter=str(adapter))
    return finish(f"{config.variant} classification head", replace(system, model=model), task, config, run)


def _train(system: System, task: Task, config: Config, run: Run, quiet: bool, more: bool) -> None:
    from workbench.training.batches import Examples
    from workbench.training.data import base_and_encoder, within_context
    from workbench.training.saving import save_model
    from workbench.training.sft import fit

    training, alone = config.training, config.variant == "head"
    start: Model | None = None
    if config.variant == "warm":
        first = replace(config, variant="head")
        with Run.open(run.path, "head", {"config": first, "task_hash": task.hash}, name="head") as inner:
            start = _adapt(system, task, first, inner, quiet, more=True).model
    weights, encoder = base_and_encoder(system, training, all_weights=not alone)
    training = within_context(weights, training)
    examples, counts = labelled(encoder, system.prompt, task, training)
    about = {"source": f"{task.name}, practice split", "hash": task.hash, "format": "labels"}
    write_json(run.path / "data.json", about | counts.as_json())
    if start is not None:
        with_adapter(weights, start)
    else:
        add_head(weights, task.labels, seed=training.training_seed)
    if alone:
        training = replace(training, learning_rate=training.learning_rate * config.head_rate)
    else:
        weights.requires_grad_(True)
    fit(weights, Examples(examples, training), training, run, quiet, more=more)
    if start is not None:
        write_json(run.path / "cost.json", to_json(together([cost_of(inner), cost_of(run)])))
    folder = run.path / "model"
    if not alone and not folder.is_dir():
        with without_head(weights):  # a model like any other; its head lies beside it
            save_model(weights, encoder.tokenizer, folder, training.precision)
    save_adapter(weights, system.model, run.path / "adapter")


def labelled(encoder: Any, prompt: Prompt, task: Task, training: Training) -> tuple[list[Any], Any]:
    """(training examples, what became of all): the prompt's tokens, and its label's number to say behind them.

    Raises:
        UserError: a target is none of the labels, or every prompt is too long.
    """
    from workbench.engines.packing import Tokens
    from workbench.training.sources import Counts, fitted, nothing_fits

    kept, counts = [], Counts()
    for example in task.practice[: training.examples]:
        if example.target not in task.labels:
            labels = ", ".join(task.labels)
            raise UserError(f"The target {example.target!r:.60} of {example.id} is none of the labels: {labels}.")
        ids = encoder.encode(Request(example.id, render(prompt, example), style=prompt.style))
        tokens = Tokens([*ids, task.labels.index(example.target)], [len(ids)])
        fits = fitted(tokens, training)
        counts.add(tokens, fits)
        if fits is not None:
            kept.append(fits)
    if not kept:
        raise nothing_fits(training)
    return kept, counts
