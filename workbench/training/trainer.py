"""transformers' Trainer with a step of our own: a whole batch at a time, exact however it is cut up.

TRL's trainers are this Trainer with their own data preparation, collation and loss; here the first two are
others, so the Trainer itself is what is left. What is learned is an `Objective`'s, and the losses of preferences
and rewards are TRL's. A step gets all items of a batch, gives each process its share, cuts that into packed
sequences, and divides the summed loss by the number of units in the whole batch. So the gradient does not depend
on the cut, and a step that runs out of memory is done again in smaller parts.
"""

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from workbench.engines.packing import rows_that_fit, sequence_on
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.training.batches import Source
from workbench.training.objective import FORWARD_TOKENS, Item, Objective

_LEARNED = "learned.safetensors"  # in a checkpoint: what is trained, and nothing else
_POSITION = "position.json"  # and where in the data it stands
_JUDGED = 5  # updates whose mean loss is held against the band: a single hard example is no divergence


class Diverged(Exception):
    """The loss or the gradient is not finite, or the loss left its band."""


class BatchTrainer(Trainer):  # type: ignore[misc]
    """Trains an `Objective` on the batches of a `Source`.

    Attributes:
        position: where in the source the last batch ended.
        tokens: tokens that were read in the last batch, of all processes.
        told: what the objective had to tell of the last batch, by name, of all processes.
        micro_batch: the most items in one sequence; halved when memory runs out.
        first_loss: of the first update, once it is known; the mean of some losses far above it is divergence.
    """

    model: Objective

    def __init__(
        self,
        model: Objective,
        args: Any,
        source: Source,
        *,
        micro_batch: int,
        loss_band: float,
        first_loss: float | None,
        rate_factor: float,
    ) -> None:
        if model.whole and args.world_size > 1:
            raise UserError(
                "This loss compares a batch's examples with each other, and of several processes each would see a "
                "part of them. Train it in one process, or choose another loss."
            )
        super().__init__(model=model, args=args)
        self.source = source
        self.position = self.tokens = 0
        self.told: dict[str, float] = {}
        self.micro_batch = micro_batch
        self.halvings: list[int] = []  # micro-batches that were halved to, until a callback takes them
        self.loss_band = loss_band
        self.first_loss = first_loss
        self._recent: deque[float] = deque(maxlen=_JUDGED)
        self.rate_factor = rate_factor
        self._sequence = sequence_on(args.device)

    # --- the data, and where in it a checkpoint stands ---

    def get_train_dataloader(self) -> Any:
        """All batches from the position on; every process sees all of them and takes its own share."""
        # A generator of its own: making the iterator draws a number, and torch's own draws the model's dropout.
        return torch.utils.data.DataLoader(_Batches(self), batch_size=None, generator=torch.Generator())

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        weights = dict(self.model.named_parameters())
        learned = {name for name, weight in weights.items() if weight.requires_grad}
        state = state_dict or weights
        tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(learned)}
        save_file(tensors, folder / _LEARNED)
        write_json(folder / _POSITION, self.position)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        options = StateDictOptions(full_state_dict=True, strict=False)  # frozen weights are not in it
        state: dict[str, Any] = load_file(Path(resume_from_checkpoint) / _LEARNED)
        set_model_state_dict(model or self.model, state, options=options)

    # --- the rate ---

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over the first tenth, then down to 0, times the factor that roll-backs lowered."""
        # The first step of a warm-up has the rate 0: a short run has none to give away.
        warm = math.ceil(0.1 * num_training_steps) if num_training_steps >= 10 else 0

        def share(step: int) -> float:
            if step < warm:
                return self.rate_factor * step / warm
            return self.rate_factor * max(0.0, (num_training_steps - step) / max(1, num_training_steps - warm))

        self.lr_scheduler = LambdaLR(self.optimizer, share)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self.position = read_json(Path(checkpoint) / _POSITION)
        scheduler: Any = self.lr_scheduler
        groups = zip(self.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, rate, share in groups:  # the checkpoint's rate was that of its own factor
            group["lr"] = rate * share(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    # --- a step ---

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Add the gradient of a whole batch's mean loss a unit; gives this process's part of the loss.

        Raises:
            Diverged: the loss is not finite or left its band.
            UserError: out of memory with a single item, or with a batch that must not be cut.
        """
        items, self.position = inputs
        objective = self.model_unwrapped
        objective.told = {}
        own = objective.prepare(items[self.args.process_index :: self.args.world_size], self.state.global_step)
        told = objective.told
        model.train()
        while True:
            objective.told = dict(told)
            if (part := self._backward(model, own, items[:1])) is not None:
                break
            model.zero_grad()
        loss, self.tokens = float(self._over_processes(part)), int(self._over_processes(objective.read(own)))
        names = sorted(objective.told)
        sums = self._over_processes([objective.told[name] for name in names])
        self.told = {
            # Tokens are added up over the processes, all else is a mean.
            name: float(total) if name == FORWARD_TOKENS else float(total / weight)
            for name, (total, weight) in zip(names, sums, strict=True)
            if weight
        }
        self._check(loss)
        reported: torch.Tensor = part * self.args.world_size  # the Trainer reports the mean over the processes
        return reported

    def _over_processes(self, values: Any) -> torch.Tensor:
        summed: torch.Tensor = self.accelerator.reduce(
            torch.as_tensor(values, dtype=torch.float64, device=self.args.device), "sum"
        )
        return summed

    def _backward(self, model: Any, own: list[Item], spare: list[Item]) -> torch.Tensor | None:
        """This process's part of the mean loss, its gradient added; None where memory ran out and was halved.

        Args:
            model: the objective, with what distributes it.
            own: this process's items.
            spare: what is passed, and counts nothing, where other processes have more parts.
        """
        objective = self.model_unwrapped
        parts = self._parts(own)
        units = float(self._over_processes(objective.units(own)))
        total = torch.zeros((), device=self.args.device)
        try:
            # All processes make the same number of passes, because some ways of distributing meet in each.
            for i in range(passes := self._most(len(parts))):
                weight = float(i < len(parts))
                part = parts[i] if weight else spare
                self.accelerator.gradient_state._set_sync_gradients(i == passes - 1)
                with self._joined(model, i == passes - 1):
                    told = dict(objective.told)
                    loss = model(objective.collate(part))
                    if not weight:  # the names stay, because all processes add up the same ones
                        objective.told = {name: told.get(name, (0.0, 0.0)) for name in objective.told}
                    # DistributedDataParallel averages gradients over the processes, and they are to be summed.
                    self.accelerator.backward(weight * self.args.world_size / units * loss)
                total += weight * loss.detach() / units
            return total
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = str(error).strip().partition("\n")[0]
        # Outside the block above, whose error holds on to the step's tensors.
        self._halve(max(len(part) for part in parts), problem)
        return None

    def _most(self, count: int) -> int:
        """The largest count of any process."""
        counts = self.accelerator.gather(torch.tensor([count], device=self.args.device))
        return int(counts.max())

    @property
    def model_unwrapped(self) -> Objective:
        """The module itself, without what distributes it."""
        unwrapped: Objective = self.accelerator.unwrap_model(self.model)
        return unwrapped

    def _joined(self, model: Any, last: bool) -> Any:
        """Gradients are exchanged between processes once a step, with the last part."""
        from contextlib import nullcontext

        return nullcontext() if last else self.accelerator.no_sync(model)

    def _parts(self, items: list[Item]) -> list[list[Item]]:
        """Items cut into sequences, none with more than `micro_batch`; one part where the loss takes no cut."""
        objective, parts = self.model_unwrapped, []
        if objective.whole:
            return [items] if items else []
        while items:
            count = min(self.micro_batch, len(items))
            count = rows_that_fit([objective.rows(item) for item in items[:count]], self._sequence)
            parts.append(items[:count])
            items = items[count:]
        return parts

    def _halve(self, largest: int, problem: str) -> None:
        if largest == 1 or self.model_unwrapped.whole or self.args.world_size > 1:
            # With several processes the others wait for this one's gradients.
            what = f"with {largest} example{'s' if largest > 1 else ''} at once ({problem})"
            raise out_of_memory(what, whole=self.model_unwrapped.whole)
        self.micro_batch = largest // 2
        self.halvings.append(self.micro_batch)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}")
        if self.first_loss is None:
            self.first_loss = loss
        self._recent.append(loss)
        mean, limit = sum(self._recent) / len(self._recent), self.loss_band * max(self.first_loss, 1.0)
        if mean > limit:
            raise Diverged(f"the mean loss of {len(self._recent)} updates, {mean:.3g}, is above {limit:.3g}")

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not math.isfinite(float(norm)):
            raise Diverged(f"the gradient's norm is {float(norm)}")
        return norm


class _Batches(torch.utils.data.IterableDataset[Any]):
    """The source's batches from where the trainer stands when they are asked for."""

    def __init__(self, trainer: BatchTrainer) -> None:
        self._trainer = trainer

    def __iter__(self) -> Iterator[Any]:
        return self._trainer.source.batches(self._trainer.position)


def out_of_memory(when: str, *, whole: bool = False) -> UserError:
    """The error that says what to lower; a loss that is `whole` has no micro-batches."""
    parts = "--batch-size" if whole else "--micro-batch"
    return UserError(
        f"Out of memory {when}. Lower {parts} or --max-length, use --precision bfloat16, or learn less (a "
        "lower --rank, or LoRA in place of all weights)."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in torch's or Python's allocator."""
    words = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in words for sign in ("can't allocate memory", "not enough memory", "CUDA out of memory")
    )
