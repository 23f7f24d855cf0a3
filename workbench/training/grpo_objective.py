"""GRPO as an objective: questions become graded samples of the model as it is, and these are what is learned from.

An item of a batch is a question; `prepare` makes `num_generations` samples of it, which are the items of the
passes. Samples of one question stand beside each other, so that a packed sequence computes their prompt once.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from workbench.engines.packing import Packed, Tokens, rows_that_fit, sequence_on
from workbench.errors import UserError
from workbench.training.grpo_loss import Group, GroupLoss, Sample
from workbench.training.grpo_samples import Question, Sampler, row_of, spare
from workbench.training.objective import FORWARD_TOKENS, Objective
from workbench.training.trainer import is_out_of_memory
from workbench.types import Example

# What the metrics have of TRL's notes; ratios are those of samples that a server drew.
_NOTED = (
    "reward", "reward_std", "completions/mean_length",
    "sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean",
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Samples, and the sequence in which they are read."""

    samples: list[Sample]
    packed: Packed


class GroupObjective(Objective):
    """Samples, grades, and learns from the difference to the rest of the group.

    Args:
        weights: the model, with an adapter or without.
        loss: computes advantages and losses.
        sampler: draws answers.
        reward: of a whole answer's text to an example; one that was cut off gets 0.
        temperature: at which tokens are drawn; log-probabilities are those at this temperature.
        others_draw: the sampler is another engine, whose log-probabilities are not this model's own.
        autocast: what passes without gradients run under; those with gradients have the Trainer's.
    """

    def __init__(
        self, weights: Any, loss: GroupLoss, sampler: Sampler, reward: Callable[[str, Example], float],
        temperature: float, others_draw: bool, autocast: AbstractContextManager[Any],
    ) -> None:  # fmt: skip
        super().__init__(weights)
        self._loss, self._sampler, self._reward = loss, sampler, reward
        self._temperature, self._others_draw, self._autocast = temperature, others_draw, autocast
        self._copy: tuple[Objective, ...] = ()  # in a tuple, so that the copy is no part of this module
        if not hasattr(weights, "disable_adapter"):
            frozen = copy.deepcopy(weights).eval().requires_grad_(False)
            self._copy = (Objective(frozen),)

    # --- what is drawn and graded ---

    def prepare(self, items: list[Question], step: int) -> list[Sample]:
        """The samples of this process's questions.

        Every process gets all groups, so that TRL sees the whole batch: a standard deviation of the batch is one.
        """
        own = self._groups(items, step)
        counts, groups = gather_object([len(own)]), gather_object(own)
        advantages, ratios, notes = self._loss.advantages(groups)
        self.tell({name: notes[name] for name in _NOTED if name in notes}, 1.0)
        # TRL's own share is that of the batch's deviation where rewards are divided by it.
        alike = sum(len(set(group.rewards)) == 1 for group in groups)
        self.tell({"frac_reward_zero_std": alike / len(groups)}, 1.0)
        self.note = f"reward {notes['reward']:.3f}"
        reference = iter(self._reference([row_of(g.prompt, answer) for g in own for answer in g.answers]))
        first = sum(counts[: PartialState().process_index])
        return [
            Sample(group.prompt, answer, advantage, next(reference), ratio)
            for place, group in enumerate(own, first)
            for answer, advantage, ratio in zip(group.answers, advantages[place], ratios[place], strict=True)
        ]

    def _groups(self, questions: list[Question], step: int) -> list[Group]:
        problem = ""
        try:
            drawn = self._sampler.draw(questions, step)
        except (RuntimeError, MemoryError) as error:
            problem = _memory_problem(error)
        if problem:
            raise UserError(
                f"Out of memory while {len(questions)} questions were answered ({problem}). Lower "
                "--num-generations, --batch-size or --longest."
            )
        groups = [
            Group(
                question.prompt,
                [answer.tokens for answer in answers],
                [self._reward(a.text, question.example) if a.whole else 0.0 for a in answers],
                [answer.logprobs or [] for answer in answers] if self._others_draw else None,
            )
            for question, answers in zip(questions, drawn, strict=True)
        ]
        all_answers = [answer for answers in drawn for answer in answers]
        cut = sum(not answer.whole for answer in all_answers)  # all processes tell the same names: with 0 of 0 too
        self.tell({"completions/clipped_ratio": cut / max(1, len(all_answers))}, float(len(all_answers)))
        self._count(sum(len(group.prompt) + sum(map(len, group.answers)) for group in groups))
        if not self._others_draw:
            return groups
        rows = [row_of(group.prompt, answer) for group in groups for answer in group.answers]
        self.weights.eval()
        own = iter(self._logps(self, rows))
        return [replace(group, own=[next(own) for _ in group.answers]) for group in groups]

    def _reference(self, rows: list[Tokens]) -> list[list[float]]:
        """Log-probabilities under the model as it was: the base without its adapter, or a copy."""
        if self._copy:
            return self._logps(self._copy[0], rows)
        self.weights.eval()
        with self.weights.disable_adapter():
            return self._logps(self, rows)

    @torch.no_grad()
    def _logps(self, model: Objective, rows: list[Tokens]) -> list[list[float]]:
        """Of each row the log-probabilities of what is read of it."""
        limit, most = sequence_on(self.weights.device), len(rows)
        found: list[list[float]] = []
        while rows:
            part = rows[: min(most, rows_that_fit([[row] for row in rows], limit))]
            problem = ""
            try:
                packed = model.packed(part)
                with self._autocast:
                    logits_MV = model.logits(packed) / self._temperature
                flat = iter(self._chosen(logits_MV, packed).tolist())
            except (RuntimeError, MemoryError) as error:
                problem = _memory_problem(error)
            if problem:  # outside the block above, whose error holds on to the tensors
                if len(part) == 1:
                    raise UserError(f"Out of memory in a pass over one sample ({problem}). Lower --longest.")
                most = len(part) // 2
                continue
            rows = rows[len(part) :]
            found += [[next(flat) for _ in row.learned] for row in part]
            self._count(packed.ids.numel())
        return found

    def _count(self, tokens: int) -> None:
        self.tell({FORWARD_TOKENS: float(tokens)}, 1.0)

    # --- what is learned ---

    def rows(self, item: Sample) -> Sequence[Tokens]:
        """The answer behind its prompt."""
        return (row_of(item.prompt, item.answer),)

    def units(self, items: Sequence[Sample]) -> float:
        """Tokens or samples, as the loss counts."""
        return self._loss.units(items)

    def read(self, items: Sequence[Sample]) -> int:
        """A prompt is read once for its samples."""
        return self.read_once(items)

    def collate(self, items: Sequence[Sample | Question]) -> Batch:
        """Samples as what `forward` takes; a question is what passes where there is no sample."""
        samples = [spare(item) if isinstance(item, Question) else item for item in items]
        return Batch(samples, self.packed([row_of(sample.prompt, sample.answer) for sample in samples]))

    def forward(self, batch: Batch) -> torch.Tensor:
        """The summed loss of a batch's samples."""
        logits_MV = self.logits(batch.packed) / self._temperature
        logps_M = self._chosen(logits_MV, batch.packed)
        with torch.no_grad():
            all_MV = logits_MV.log_softmax(-1)
            entropies_M = -(all_MV.exp() * all_MV).sum(-1)
            known = [logp for sample in batch.samples for logp in sample.reference]
            apart = torch.tensor(known, device=logps_M.device) - logps_M
            kl = float((apart.exp() - 1 - apart).mean())  # k3 (Schulman 2020), as TRL has it
        loss, notes = self._loss(logps_M, entropies_M, batch.samples)
        self.tell({"kl": kl, "entropy": notes["entropy"]}, float(len(known)))
        return loss

    @staticmethod
    def _chosen(logits_MV: torch.Tensor, packed: Packed) -> torch.Tensor:
        """Log-probabilities [M] of the tokens that are there."""
        picked = logits_MV.gather(-1, packed.targets[:, None])[:, 0]
        return picked - logits_MV.logsumexp(-1)


def _memory_problem(error: BaseException) -> str:
    """What an error says that tells of memory.

    Raises:
        the error itself, where it tells of something else.
    """
    if not is_out_of_memory(error):
        raise error
    return str(error).strip().partition("\n")[0] or "no more is said"
