"""Supervised fine-tuning: TRL's SFTTrainer over packed batches, with checkpoints, and its cost.

Where it departs from TRL: a batch is one packed sequence in which the prefix that its prompts share is computed
once (`engines/packing.py`), and logits are computed only where a token is learned; on a CPU TRL scores every
position. Loss and gradients are those of the padded batch. The loss is the sum over learned tokens divided by
their number in the whole batch, so k accumulated micro-batches equal one batch.
"""

import errno
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from workbench.cost import EnergyMeter, training_flops
from workbench.engines.forward import packed_logits
from workbench.engines.packing import Branch, Packed
from workbench.engines.soft_prompt import is_soft_prompt, keys_of_adapter
from workbench.errors import UserError
from workbench.files import write_json
from workbench.identity import to_json
from workbench.models import quiet_transformers, shape_of
from workbench.progress import Bar
from workbench.runs import Run
from workbench.training.checkpoints import mark_complete, newest_complete
from workbench.training.config import Training
from workbench.training.data import Collator
from workbench.types import CostToMake


def fit(weights: Any, tokenizer: Any, examples: list[Branch], training: Training, run: Run, quiet: bool) -> None:
    """Train the weights that require gradients; metrics, checkpoints and the cost go into the run's folder.

    A run that was interrupted goes on from its newest whole checkpoint, with the same batches and losses.

    Args:
        weights: the model, frozen but for what is trained, with `workbench_grouped` attention.
        tokenizer: saved along with the checkpoints.
        examples: prompts and answers.
        training: how.
        run: `metrics.jsonl`, `checkpoints/` and `cost.json` are written there.
        quiet: no progress bar.

    Raises:
        UserError: a checkpoint cannot be written; the one before it is intact.
    """
    import torch
    from datasets import Dataset
    from safetensors import SafetensorError
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class PackedTrainer(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer with the loss computed where `read_at` says."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            packed = Packed(**{field.name: inputs[field.name] for field in fields(Packed)})
            if soft:  # the virtual tokens' keys and values, through which gradients flow
                logits = packed_logits(model.get_base_model(), packed, keys_of_adapter(model))
            else:
                logits = packed_logits(model, packed)
            targets = packed.targets
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            return loss / (len(targets) if num_items_in_batch is None else num_items_in_batch)

    class Keeper(TrainerCallback):  # type: ignore[misc]
        """Writes metrics as they come, and marks a checkpoint when all of it is there."""

        def __init__(self, bar: Bar) -> None:
            self.bar = bar
            self.before = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.show(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                now = time.perf_counter()
                run.log(
                    step=state.global_step,
                    epoch=logs.get("epoch"),
                    loss=logs["loss"],
                    learning_rate=logs.get("learning_rate"),
                    grad_norm=logs.get("grad_norm"),
                    seconds=now - self.before,
                )
                self.before = now

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    soft = is_soft_prompt(weights)
    folder = run.path / "checkpoints"
    micro = min(training.micro_batch, len(examples))
    steps = training.epochs * -(-len(examples) // training.batch_size)
    settings = SFTConfig(
        output_dir=str(folder),
        learning_rate=training.learning_rate,
        lr_scheduler_type="linear",
        # A share of all steps. The first step of a warm-up has the rate 0: a short run has none to give away.
        warmup_steps=0.1 if steps >= 10 else 0,
        num_train_epochs=training.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, training.batch_size // training.micro_batch),
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_steps=training.save_every,
        save_total_limit=2,
        seed=training.training_seed,
        data_seed=training.training_seed,
        use_cpu=weights.device.type == "cpu",
        bf16=False,  # the weights bring their precision; no autocast on top
        gradient_checkpointing=False,
        report_to=[],
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    settings._n_gpu = 1  # of several GPUs one is used: nn.DataParallel would split a packed sequence
    rows = Dataset.from_list([{"prompt": b.prompt, "answer": b.continuation} for b in examples])
    trainer = PackedTrainer(
        model=weights,
        args=settings,
        train_dataset=rows,
        data_collator=Collator(weights.active_peft_config.num_virtual_tokens if soft else 0),
        processing_class=tokenizer,
    )
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    checkpoint = newest_complete(folder)
    with Bar("training", quiet=quiet) as bar, EnergyMeter() as meter, quiet_transformers():
        trainer.add_callback(Keeper(bar))
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not _is_disk_full(error):
                raise
            kept = newest_complete(folder)
            raise UserError(
                f"The disk is full: a checkpoint could not be written to {folder}. "
                f"{f'{kept.name} is intact' if kept else 'There is none yet'}; free some space, and the same "
                "command goes on."
            ) from error
    tokens = training.epochs * sum(len(b.prompt) + len(b.continuation) for b in examples)
    _write_cost(run, weights, tokens, meter)


def _write_cost(run: Run, weights: Any, tokens: int, meter: EnergyMeter) -> None:
    """The cost of the whole run: seconds and energy of what was interrupted are counted in."""
    seconds = sum(float(line["seconds"]) for line in run.metrics() if "seconds" in line)
    share = seconds / meter.seconds if meter.seconds else 1.0
    cost = CostToMake(
        tokens=tokens,
        parameters=sum(p.numel() for p in weights.parameters() if p.requires_grad),
        flops=training_flops(shape_of(weights), tokens, frozen_weights=True),
        seconds=seconds,
        peak_memory_bytes=meter.peak_memory_bytes,
        watt_hours=meter.watt_hours * share,
        energy_source=meter.source,
    )
    write_json(run.path / "cost.json", to_json(cost))


def _is_disk_full(error: BaseException) -> bool:
    number = getattr(error, "errno", None)
    words = str(error).lower()
    return number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or any(
        # The last two are torch's, whose writer forgets the reason.
        sign in words
        for sign in ("no space left", "file too large", "disk quota", "failed writing file", "unexpected pos")
    )
