"""Supervised fine-tuning, whatever is tuned: the loop that every tuning method runs, and what it cost.

A batch is one packed sequence in which the prefix that its examples share is computed once
(`engines/packing.py`), and logits are computed only where a token is learned. Loss and gradients are those of the
padded batch.

A training that goes wrong is rolled back: when the loss or the gradient is not finite, or the loss leaves its
band, the last whole checkpoint is taken up again with half the learning rate, three times at most.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from workbench.cost import EnergyMeter, training_flops
from workbench.errors import UserError
from workbench.files import is_disk_full, write_json
from workbench.identity import to_json
from workbench.models import quiet_transformers, shape_of
from workbench.progress import Bar
from workbench.runs import Run
from workbench.training.batches import Source
from workbench.training.checkpoints import complete, newest_complete, step_of
from workbench.training.config import Training
from workbench.training.objective import Objective
from workbench.training.packed_loss import PackedLoss
from workbench.training.trainer import BatchTrainer, Diverged, is_out_of_memory, out_of_memory
from workbench.training.watch import Watch, tensorboard
from workbench.types import CostToMake

_TRIES = 3  # roll-backs a run


@dataclass
class _Start:
    """Where a training begins: the first process knows, and tells the others."""

    folder: str
    first_loss: float | None
    rollbacks: int
    micro_batch: int


def fit(
    weights: Any,
    source: Source,
    training: Training,
    run: Run,
    quiet: bool,
    *,
    objective: Objective | None = None,
    more: bool = False,
) -> None:
    """Train the weights that require gradients; metrics, checkpoints and the cost go into the run's folder.

    A run that was interrupted goes on from its newest whole checkpoint, with the same batches and losses. Under
    `accelerate launch` every process takes its share of each batch; all but the first one end here, unless more
    is to be trained.

    Args:
        weights: the model, frozen but for what is trained, which is float32.
        source: the batches.
        training: how.
        run: `metrics.jsonl`, `checkpoints/` and `cost.json` are written there.
        quiet: no progress bar.
        objective: what is made small; by default the cross-entropy of the learned tokens.
        more: another training follows in these processes.

    Raises:
        UserError: the training diverged too often, memory ran out with a single example, or a checkpoint cannot be
            written; the one before it is intact.
    """
    settings = _arguments(weights, source, training)
    first = settings.process_index == 0
    start = [_start(run)]
    broadcast_object_list(start)
    settings.output_dir = start[0].folder
    with Bar("training", quiet=quiet or not first) as bar, EnergyMeter() as meter, quiet_transformers():
        while True:
            trainer = BatchTrainer(
                objective or PackedLoss(weights),
                settings,
                source,
                micro_batch=min(training.micro_batch, start[0].micro_batch),
                loss_band=training.loss_band,
                first_loss=start[0].first_loss,
                rate_factor=0.5 ** start[0].rollbacks,
            )
            _check_distribution(trainer)
            for noisy in (PrinterCallback, ProgressCallback):
                trainer.remove_callback(noisy)
            checkpoint = newest_complete(Path(start[0].folder))
            board = None
            if training.tensorboard and first:
                board = tensorboard(run.path / "tensorboard", step_of(checkpoint) + 1)
            trainer.add_callback(Watch(trainer, run, bar, meter, board))
            try:
                _train(trainer, checkpoint)
                break
            except Diverged as problem:
                start[0].first_loss = start[0].first_loss or trainer.first_loss
                _roll_back(run, trainer, checkpoint, start[0], problem)
            finally:
                if board is not None:
                    board.close()
    if settings.world_size > 1 and not more:
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
        if first and trainer.accelerator.distributed_type.value in ("FSDP", "DEEPSPEED"):
            print(
                "Trained; this process holds a part of the weights only. The same command without `accelerate "
                "launch` takes them from the last checkpoint, writes the model and measures it.",
                file=sys.stderr,
            )
            raise SystemExit(0)
        if not first:
            raise SystemExit(0)
    _write_cost(run, weights, meter)


def _arguments(weights: Any, source: Source, training: Training) -> TrainingArguments:
    settings = TrainingArguments(
        output_dir="-",  # until the first process has told which
        learning_rate=training.learning_rate,
        max_steps=source.updates,
        ignore_data_skip=True,  # the source itself goes on where it was
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=training.save_every,
        seed=training.training_seed,
        use_cpu=weights.device.type == "cpu",
        # Trained weights are float32. Where these are the model itself, bfloat16 means autocast.
        bf16=training.precision == "bfloat16" and str(weights.dtype) == "torch.float32",
        report_to=[],
        ddp_find_unused_parameters=False,
    )
    settings._n_gpu = 1  # of several GPUs one is used: nn.DataParallel would split a packed sequence
    return settings


def _check_distribution(trainer: BatchTrainer) -> None:
    """See that whole weights can be had where every process holds a part of them."""
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise UserError(
            "Under FSDP a checkpoint must hold the whole weights: fsdp_state_dict_type: FULL_STATE_DICT in "
            "accelerate's configuration."
        )


def _start(run: Run) -> _Start:
    lines = run.metrics()
    losses = [line["loss"] for line in lines if line.get("step") == 1 and line.get("loss") is not None]
    rollbacks = sum(line.get("event") == "rollback" for line in lines)
    halved = min((line["micro_batch"] for line in lines if line.get("event") == "halved"), default=10**6)
    return _Start(str(run.path / "checkpoints"), losses[0] if losses else None, rollbacks, halved)


def _train(trainer: BatchTrainer, checkpoint: Path | None) -> None:
    # All updates were done, and what comes after them was not.
    if checkpoint is not None and step_of(checkpoint) >= trainer.source.updates:
        trainer._load_from_checkpoint(str(checkpoint))
        return
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (OSError, RuntimeError, SafetensorError, MemoryError) as error:
        if is_out_of_memory(error):  # outside the passes: the optimiser's own state, or a copy of the weights
            raise out_of_memory(f"({str(error).strip().partition(chr(10))[0]})") from error
        if not is_disk_full(error):
            raise
        folder = Path(trainer.args.output_dir)
        kept = newest_complete(folder)
        raise UserError(
            f"The disk is full: a checkpoint could not be written to {folder}. "
            f"{f'{kept.name} is intact' if kept else 'There is none yet'}; free some space, and the same "
            "command goes on."
        ) from error


def _roll_back(run: Run, trainer: BatchTrainer, taken_up: Path | None, start: _Start, problem: Diverged) -> None:
    """Note it, and make the newest checkpoint the one to go on from."""
    step = trainer.state.global_step + 1
    if start.rollbacks >= _TRIES:
        run.log(event="diverged", step=step, reason=str(problem))
        raise UserError(
            f"The training diverged at update {step} ({problem}) after {_TRIES} roll-backs, with "
            f"{0.5**start.rollbacks:g} of the learning rate. Lower --learning-rate, look at the data "
            "(`workbench preview`), or widen --loss-band."
        )
    start.rollbacks += 1
    whole = complete(Path(start.folder))
    if start.rollbacks > 1 and taken_up == whole[0] and len(whole) > 1:
        # It failed from here before: the trouble may have begun earlier.
        trainer.accelerator.wait_for_everyone()
        if trainer.args.process_index == 0:
            shutil.rmtree(whole[0])
        trainer.accelerator.wait_for_everyone()
        whole = whole[1:]
    to = step_of(whole[0])
    run.log(event="rollback", step=step, reason=str(problem), to_step=to, rate_factor=0.5**start.rollbacks)
    if trainer.args.process_index == 0:
        print(
            f"update {step}: {problem}; back to update {to} with {0.5**start.rollbacks:g} of the learning rate "
            f"(roll-back {start.rollbacks} of {_TRIES})",
            file=sys.stderr,
            flush=True,
        )


def _write_cost(run: Run, weights: Any, meter: EnergyMeter) -> None:
    """The cost of the whole run: seconds and energy of what was done twice are counted, its tokens are not."""
    lines = {line["step"]: line for line in run.metrics() if "loss" in line}
    tokens = sum(line["tokens"] for line in lines.values())
    # What only went forward: samples that were drawn, and the reference model's passes.
    passes = {(line.get("event"), line.get("step")): line.get("forward_tokens", 0) for line in run.metrics()}
    forward = round(sum(passes.values()))
    trained = [weight for weight in weights.parameters() if weight.requires_grad]
    head, shape = weights.get_output_embeddings(), shape_of(weights)
    learning = training_flops(
        shape,
        tokens,
        frozen_weights=len(trained) < len(list(weights.parameters())),
        head_only=len(trained) == 1 and head is not None and trained[0] is head.weight,
    )
    cost = CostToMake(
        tokens=tokens + forward,
        parameters=sum(weight.numel() for weight in trained),
        flops=learning + 2.0 * shape.parameters * forward,
        seconds=sum(line["seconds"] for line in run.metrics() if "seconds" in line),
        peak_memory_bytes=max(line["peak_memory_bytes"] for line in lines.values()),
        watt_hours=sum(line["watt_hours"] for line in run.metrics() if "watt_hours" in line),
        energy_source=meter.source,
    )
    write_json(run.path / "cost.json", to_json(cost))
