"""TRL's trainers as what computes a loss: their formulas and metrics, on log-probabilities of our packed passes.

TRL computes a loss in its trainers, from what a model returns for padded rows. Here such a trainer holds a
stand-in model that is never run, and is handed what the packed pass of the real one gave: so the loss is TRL's own
code, while the loop, the collation and the checkpoints are those of every training here.
"""

import copy
import tempfile
from typing import Any

import torch

from workbench.launch import meet
from workbench.models import quiet_transformers


class _Alone:
    """In place of a trainer's accelerator: a pass is told for this process; the loop adds up the processes."""

    num_processes = 1
    process_index = 0
    is_main_process = True
    sync_gradients = True

    def __init__(self, device: Any) -> None:
        self.device = device

    def gather(self, values: Any) -> Any:
        """What this process has."""
        return values

    gather_for_metrics = gather

    def reduce(self, values: Any, reduction: str = "sum") -> Any:
        """What this process has."""
        return values

    def unwrap_model(self, model: Any) -> Any:
        """The model."""
        return model


def trl_trainer(
    kind: type, arguments: type, tokenizer: Any, device: Any, *, settings: Any, model: Any = None, **more: Any
) -> Any:
    """A trainer of TRL's that computes losses and does not train.

    Args:
        kind: the trainer's class, as `trl.DPOTrainer`, or a subclass.
        arguments: its configuration's class, as `trl.DPOConfig`.
        tokenizer: the model's; a copy is handed on.
        device: where the losses are computed.
        settings: of the configuration, by name.
        model: the stand-in; by default a language model.
        more: further arguments of the trainer, as `ref_model`.
    """
    from datasets import Dataset

    meet()  # before the trainer's own settings would decide how processes meet

    class Holder(kind):  # type: ignore[misc]
        """The trainer without its data preparation."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    with quiet_transformers(), tempfile.TemporaryDirectory() as folder:
        trainer = Holder(
            model=stand_in() if model is None else model,
            args=arguments(
                output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
                disable_tqdm=True, **settings,
            ),
            train_dataset=Dataset.from_list([{"prompt": "a"}]),
            processing_class=copy.deepcopy(tokenizer),
            **more,
        )  # fmt: skip
    trainer.accelerator = _Alone(torch.device(device))
    trainer.model.train()
    return trainer


def stand_in() -> Any:
    """A language model of a few hundred weights, for a trainer that wants one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def taken(trainer: Any) -> dict[str, float]:
    """What the trainer noted of its last pass, by its own names; its notes are then empty."""
    notes = {name: float(values[-1]) for name, values in trainer._metrics["train"].items() if values}
    trainer._metrics["train"].clear()
    return notes
