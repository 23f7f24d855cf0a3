"""What is written down while a model learns: a line an update, whole checkpoints, TensorBoard on request."""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from workbench.cost import EnergyMeter, peak_memory_bytes
from workbench.errors import UserError
from workbench.progress import Bar
from workbench.runs import Run
from workbench.training.checkpoints import drop_old, is_complete, mark_complete
from workbench.training.trainer import BatchTrainer


class Watch(TrainerCallback):  # type: ignore[misc]
    """Writes `metrics.jsonl` and marks a checkpoint when all of it is there.

    A line has: step, examples (position in the data), loss (a unit of the objective: of fine-tuning nats a learned
    token), learning_rate, grad_norm (before clipping at 1), update_norm (how far the weights moved), tokens,
    seconds, tokens_per_second, peak_memory_bytes, watt_hours, and what the objective tells.
    """

    def __init__(self, trainer: BatchTrainer, run: Run, bar: Bar, meter: EnergyMeter, board: Any) -> None:
        self.trainer, self.run, self.bar, self.meter, self.board = trainer, run, bar, meter, board
        self._time, self._watt_hours = time.perf_counter(), meter.watt_hours_so_far()
        self._before: list[torch.Tensor] = []
        self._update_norm = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The weights as they start are a checkpoint too: what the first roll-back goes back to."""
        if state.global_step == 0 and not is_complete(Path(args.output_dir) / "checkpoint-0"):
            self.trainer._save_checkpoint(self.trainer.model_wrapped, None)
            self.on_save(args, state, control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the weights, to see how far they move."""
        self._before = [weight.detach().clone() for weight in self._learned()]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The norm of the update."""
        moved = zip(self._learned(), self._before, strict=True)
        squares = [float((weight.detach() - before).float().pow(2).sum()) for weight, before in moved]
        self._update_norm, self._before = sum(squares) ** 0.5, []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show how far it is, and note what was halved."""
        self.bar.show(state.global_step, state.max_steps, self.trainer.model_unwrapped.note)
        for micro_batch in self.trainer.halvings:
            self.run.log(event="halved", step=state.global_step, micro_batch=micro_batch)
        self.trainer.halvings.clear()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write the update's line."""
        if not logs or "loss" not in logs:  # the Trainer's own summary at the end
            return
        now, watt_hours = time.perf_counter(), self.meter.watt_hours_so_far()
        line = {
            "step": state.global_step,
            "examples": self.trainer.position,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "update_norm": self._update_norm,
            "tokens": self.trainer.tokens,
            "seconds": now - self._time,
            "tokens_per_second": self.trainer.tokens / (now - self._time),
            "peak_memory_bytes": peak_memory_bytes(),
            "watt_hours": watt_hours - self._watt_hours,
            **self.trainer.told,
        }
        self._time, self._watt_hours = now, watt_hours
        self.run.log(**line)
        if self.board is not None:
            for name, value in line.items():
                if name != "step":
                    self.board.add_scalar(f"training/{name}", value, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Every process has written its part; the first one says that all is there."""
        self.trainer.accelerator.wait_for_everyone()
        if args.process_index == 0:
            folder = Path(args.output_dir)
            mark_complete(folder / f"checkpoint-{state.global_step}")
            drop_old(folder, keep=2)

    def _learned(self) -> list[torch.Tensor]:
        return [weight for weight in self.trainer.model.parameters() if weight.requires_grad]


def tensorboard(folder: Path, first_step: int) -> Any:
    """A TensorBoard writer; what an interrupted run wrote of later steps is hidden.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs TensorBoard: pip install 'llm-workbench[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=first_step)
