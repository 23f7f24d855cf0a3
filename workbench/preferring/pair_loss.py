"""The losses of preference optimisation, by name: TRL's own, on the log-probabilities of a packed pass.

DPO is Rafailov et al. 2023 (arXiv 2305.18290, eq. 7). What the others are stands in
`losses.py`. cDPO is not among TRL's (1.16): its `sigmoid` takes no notice of label smoothing. With a = −log σ(z)
and b = −log σ(−z), sigmoid is a and robust ((1 − ε)a − εb) / (1 − 2ε), so that cDPO's (1 − ε)a + εb is
2(1 − ε)·sigmoid − (1 − 2ε)·robust, both of them TRL's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.engines.packing import Packed, Tokens
from workbench.preferring.losses import LOSSES, Loss
from workbench.preferring.pair_rows import PairRows, token_logps
from workbench.training.objective import Objective
from workbench.training.trl_trainers import stand_in, taken, trl_trainer

# What TRL tells of a pass and is computed here; the rest is of logits that are not made.
_TOLD = ("rewards/", "logps/")

REFERENCE_POINT = "kto/reference_point"
"""What KTO calls KL: the mismatched answers' mean log-ratio in the batch, in nats and at least 0."""


class PairLoss(Objective):
    """Learns to prefer the chosen answers; an item is the pairs of one prompt, a unit one pair.

    Args:
        weights: the model that learns.
        tokenizer: its own.
        loss: which.
        beta: β, how much a log-ratio counts.
        label_smoothing: ε, where the loss takes one.
    """

    def __init__(self, weights: Any, tokenizer: Any, loss: Loss, beta: float, label_smoothing: float) -> None:
        import trl

        super().__init__(weights)
        self.kind = LOSSES[loss]
        self.whole = self.kind.whole
        device = weights.device
        if self.kind.unpaired:  # two a batch, the least that TRL measures KL with, is never used
            settings: dict[str, Any] = {"loss_type": loss, "beta": beta, "per_device_train_batch_size": 2}
            trainer = trl_trainer(
                trl.KTOTrainer, trl.KTOConfig, tokenizer, device, settings=settings, ref_model=stand_in()
            )
        else:
            types, shares = [loss], [1.0]
            if loss == "cdpo":
                types, shares = ["sigmoid", "robust"], [2 * (1 - label_smoothing), -(1 - 2 * label_smoothing)]
            settings = {
                "loss_type": types, "loss_weights": shares, "beta": beta, "label_smoothing": label_smoothing,
            }  # fmt: skip
            trainer = trl_trainer(
                trl.DPOTrainer, trl.DPOConfig, tokenizer, device, settings=settings, ref_model=stand_in()
            )
        trainer.precompute_ref_logps = True
        self._trainer = [trainer]  # in a list, so that its stand-in is no part of this module

    def rows(self, item: PairRows) -> Sequence[Tokens]:
        """Both answers of every pair, and the mismatched ones."""
        return item.rows

    def units(self, items: Sequence[PairRows]) -> float:
        """Pairs."""
        return sum(item.pairs for item in items)

    def read(self, items: Sequence[PairRows]) -> int:
        """A prompt is read once for its answers."""
        return self.read_once(items)

    def collate(self, items: Sequence[PairRows]) -> tuple[Packed, torch.Tensor, torch.Tensor]:
        """All rows packed; which are chosen (0), rejected (1) or mismatched (2); the reference [rows]."""
        rows = [row for item in items for row in item.rows]
        place = [min(i // (2 * item.pairs), 1) * 2 or i % 2 for item in items for i in range(len(item.rows))]
        reference = [logp for item in items for logp in item.reference]
        device = self.weights.device
        return self.packed(rows), torch.tensor(place, device=device), torch.tensor(reference, device=device)

    def forward(self, batch: tuple[Packed, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The summed loss of the batch's pairs."""
        packed, place, reference = batch
        said = answers(token_logps(self.logits(packed), packed), packed)
        chosen, rejected, other = ((place == k).nonzero()[:, 0] for k in (0, 1, 2))
        trainer = self._trainer[0]
        take = _unpaired if self.kind.unpaired else _paired
        loss: torch.Tensor = take(trainer, said, reference, chosen, rejected, other)
        told = taken(trainer)
        notes = {name: value for name, value in told.items() if name.startswith(_TOLD)}
        if self.kind.mismatched:  # TRL's KTOTrainer says 0 where it measures none
            notes[REFERENCE_POINT] = told["kl"]
        if "rewards/accuracies" not in notes:  # KTO's trainer knows no pairs
            ratios = said.logps.detach().sum(1) - reference
            notes["rewards/accuracies"] = float((ratios[chosen] > ratios[rejected]).float().mean())
        self.tell(notes, len(chosen))
        return loss * len(chosen)


@dataclass(frozen=True)
class Answers:
    """Answers as padded rows: log-probabilities [rows, longest] of their tokens, and which places are tokens."""

    logps: torch.Tensor
    mask: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> "Answers":
        return Answers(self.logps[rows], self.mask[rows])


def answers(logps_M: torch.Tensor, batch: Packed) -> Answers:
    """The targets' log-probabilities as a batch's rows, zero behind the end of each."""
    counts = torch.bincount(batch.owner, minlength=batch.count)
    starts = counts.cumsum(0) - counts
    column = torch.arange(len(batch.owner), device=logps_M.device) - starts[batch.owner]
    rows = logps_M.new_zeros(batch.count, int(counts.max())).index_put((batch.owner, column), logps_M)
    return Answers(rows, torch.arange(rows.shape[1], device=rows.device) < counts[:, None])


def _inputs(said: Answers) -> dict[str, torch.Tensor]:
    """Answers as TRL takes them, behind a prompt of one token; no id is ever read."""
    mask = torch.nn.functional.pad(said.mask.long(), (1, 0))
    return {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}


def _model(said: Answers) -> Callable[..., Any]:
    """A model that returns these log-probabilities; what is only told, and left out here, is zero."""
    from trl.trainer.utils import FusedCausalLMOutput

    zero = torch.zeros_like(said.logps)
    out = FusedCausalLMOutput(log_probs=said.logps, entropy=zero, mean_logits=zero, is_top1=zero.bool())
    return lambda **_: out


def _paired(
    trainer: Any,
    said: Answers,
    reference: torch.Tensor,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    _: torch.Tensor,
) -> Any:
    both = said[torch.cat([chosen, rejected])]
    inputs = _inputs(both) | {"ref_chosen_logps": reference[chosen], "ref_rejected_logps": reference[rejected]}
    return trainer._compute_loss(_model(both), inputs, False)


def _unpaired(
    trainer: Any,
    said: Answers,
    reference: torch.Tensor,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    other: torch.Tensor,
) -> Any:
    rows = torch.cat([chosen, rejected])
    both, mismatched = said[rows], said[other]
    inputs = _inputs(both)
    inputs |= {"ref_logps": reference[rows], "label": torch.arange(len(rows), device=rows.device) < len(chosen)}
    if len(other):
        inputs |= {f"KL_{name}": value for name, value in _inputs(mismatched).items()}
        inputs["ref_KL_logps"] = reference[other]
    models = {id(inputs["input_ids"]): _model(both)}
    if len(other):
        models[id(inputs["KL_input_ids"])] = _model(Answers(mismatched.logps.detach(), mismatched.mask))
    return trainer._compute_loss(lambda **given: models[id(given["input_ids"])](), inputs, False)
