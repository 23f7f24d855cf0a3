"""GRPO's advantages and losses, computed by TRL's own trainer on log-probabilities of our packed passes.

An update takes its samples from the model as it is, once: the probability ratio of every token is 1 and nothing is
clipped, so there is no ε to choose. Then dapo, bnpo, cispo and vespo have one gradient (a mean over all tokens),
grpo and sapo another (a mean over samples of their tokens' means), luspo a third (a mean over samples of their
tokens' sums), and dr_grpo that of luspo over the longest answer's length. With a KL divergence in the loss luspo's
is one of its own, because its tokens' divergences are weighted by the ratio of the whole answer.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch

from workbench.training.grpo_losses import Loss, Scale
from workbench.training.trl_trainers import taken, trl_trainer

_BY_TOKEN = ("dapo", "bnpo", "cispo", "vespo")  # a mean over all tokens of an update; the others over its samples


@dataclass(frozen=True)
class Group:
    """What a question was answered, and what the answers were worth.

    Attributes:
        prompt: the question's tokens.
        answers: each sample's tokens as they were drawn.
        rewards: of each sample.
        drawn: log-probabilities of the tokens as whoever drew them tells; None where that is this process.
        own: the same by the model that learns, where others drew them.
    """

    prompt: list[int]
    answers: list[list[int]]
    rewards: list[float]
    drawn: list[list[float | None]] | None = None
    own: list[list[float]] | None = None


@dataclass(frozen=True)
class Sample:
    """One sample as it is learned from.

    Attributes:
        prompt, answer: tokens.
        advantage: how much better it was than its group.
        reference: the answer's log-probabilities under the reference, token by token.
        ratios: importance ratios, of its tokens or (one number) of all of it, where another engine drew it.
    """

    prompt: list[int]
    answer: list[int]
    advantage: float
    reference: list[float]
    ratios: list[float] | None = None


class GroupLoss:
    """`trl.GRPOTrainer` as what computes advantages from rewards, and a loss from log-probabilities.

    Args:
        tokenizer: the model's.
        device: where losses are computed.
        loss: TRL's `loss_type`.
        num_generations: samples a question.
        scale_rewards: what a reward's distance from its group's mean is divided by: the standard deviation of the
            group or of the batch, or nothing.
        beta: the weight of the KL divergence to the reference; TRL multiplies its tokens by the probability ratio,
            whose gradient makes it the unbiased one (`use_bias_correction_kl`); for luspo by the ratio of the
            whole answer, whose gradient does not.
        max_tokens: the longest answer, by which dr_grpo divides.
        corrected: another engine draws the samples: losses are weighted by importance ratios.
    """

    def __init__(
        self, tokenizer: Any, device: Any, loss: Loss, num_generations: int, scale_rewards: Scale = "group",
        beta: float = 0.0, max_tokens: int = 256, corrected: bool = False,
    ) -> None:  # fmt: skip
        assert loss in get_args(Loss), loss
        self.by_token = loss in _BY_TOKEN
        self._loss, self._beta = loss, beta
        self._groups: Sequence[Group] = ()
        self._given: tuple[Any, Any] = (None, None)
        settings = {
            "loss_type": loss,
            "num_generations": num_generations,
            "per_device_train_batch_size": num_generations,
            "scale_rewards": scale_rewards,
            "max_completion_length": max_tokens,
            # luspo's own level; all others are defined on tokens.
            "importance_sampling_level": "sequence" if loss == "luspo" else "token",
            # cispo bounds the ratio itself, not its distance from 1; 5 is ScaleRL's (arXiv 2510.13786).
            "epsilon_high": 5.0 if loss == "cispo" else None,
            "vllm_importance_sampling_mode": "token_truncate" if loss == "vespo" else "sequence_mask",
        }
        with _no_notice():
            import trl

            self._trainer = trl_trainer(
                _handed(trl.GRPOTrainer, self), trl.GRPOConfig, tokenizer, device, settings=settings,
                reward_funcs=_correct, rollout_func=self._rolled_out,
            )  # fmt: skip
        self._trainer.current_gradient_accumulation_steps = 1
        # It would make a server's client of its own; the answers are here.
        self._trainer.use_vllm, self._trainer._last_loaded_step = corrected, self._trainer.state.global_step

    def advantages(
        self, groups: Sequence[Group]
    ) -> tuple[list[list[float]], list[list[list[float] | None]], dict[str, float]]:
        """Of a batch's groups: each sample's advantage, its importance ratios, and what TRL notes of the batch."""
        self._groups, self._trainer.beta = groups, 0.0  # the reference is in the loss alone
        answers = [answer for group in groups for answer in group.answers]
        if groups[0].own is not None:
            self._given = (padded([own for group in groups for own in group.own or ()]), None)
        out = self._trainer._generate_and_score_completions([{"prompt": ""} for _ in answers])
        flat, ratios = out["advantages"].tolist(), out.get("importance_sampling_ratio")
        each: list[list[float] | None] = [None] * len(answers)
        if ratios is not None:
            each = [row[: len(answer)] for row, answer in zip(ratios.tolist(), answers, strict=True)]
        return _parted(flat, groups), _parted(each, groups), taken(self._trainer)

    def units(self, samples: Sequence[Sample]) -> float:
        """What the summed loss of samples is divided by: their tokens, or their number."""
        return float(sum(len(sample.answer) for sample in samples) if self.by_token else len(samples))

    def __call__(
        self, logps_M: torch.Tensor, entropies_M: torch.Tensor, samples: Sequence[Sample]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The summed loss of samples, from their answers' log-probabilities one after the other, and TRL's notes.

        The loss of a batch is the sum over its parts, over `units` of the whole batch.
        """
        device, width = logps_M.device, max(len(sample.answer) for sample in samples)
        lengths = torch.tensor([len(sample.answer) for sample in samples], device=device)
        mask_BT = torch.arange(width, device=device)[None] < lengths[:, None]
        empty = torch.zeros(mask_BT.shape, device=device)
        self._given = (empty.masked_scatter(mask_BT, logps_M), empty.masked_scatter(mask_BT, entropies_M))
        mask, none = mask_BT.long(), torch.zeros(len(samples), 0, dtype=torch.long, device=device)
        inputs = {
            "prompt_ids": none, "prompt_mask": none, "completion_ids": mask, "completion_mask": mask,
            "advantages": torch.tensor([sample.advantage for sample in samples], device=device),
            "num_items_in_batch": torch.tensor(1.0, device=device),
            "ref_per_token_logps": padded([sample.reference for sample in samples], device),
        }  # fmt: skip
        if samples[0].ratios is not None:
            inputs["importance_sampling_ratio"] = padded([s.ratios or [] for s in samples], device, 1.0)
        self._trainer.beta = self._beta
        loss: torch.Tensor = self._trainer._compute_loss(self._trainer.model, inputs)
        if not self.by_token:  # TRL's means over what it is given, as sums
            loss = loss * len(samples)
        elif self._loss == "bnpo":
            loss = loss * lengths.sum()
        return loss, taken(self._trainer)

    def _rolled_out(self, prompts: Any, trainer: Any) -> dict[str, Any]:
        """The groups as TRL takes them from whoever draws."""
        groups = self._groups
        drawn = [logps for group in groups for logps in group.drawn or ()]
        return {
            "prompt_ids": [group.prompt for group in groups for _ in group.answers],
            "completion_ids": [answer for group in groups for answer in group.answers],
            "logprobs": drawn or None,
            "reward": [reward for group in groups for reward in group.rewards],
        }


def padded(rows: Sequence[Sequence[float]], device: Any = "cpu", filler: float = 0.0) -> torch.Tensor:
    """Rows of numbers as one tensor, filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], device=device)


def _handed(kind: type, loss: GroupLoss) -> type:
    """The trainer's class, with log-probabilities as they were handed over and rewards as they were given."""

    class Handed(kind):  # type: ignore[misc]
        """GRPO on what the packed pass gave."""

        def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> Any:
            return *loss._given, None

        def _calculate_rewards(self, inputs: Any, *_: Any) -> torch.Tensor:
            # TRL's own would add up what every process has, and each has all groups already.
            rewards = [[row["reward"]] for row in inputs]
            return torch.tensor(rewards, dtype=torch.float32, device=self.accelerator.device)

    return Handed


def _correct(**_: Any) -> list[float]:
    """A name for the reward in TRL's notes; the rewards come with the samples."""
    raise NotImplementedError


def _parted(values: list[Any], groups: Sequence[Group]) -> list[list[Any]]:
    """A list over all samples as lists by group."""
    rest = iter(values)
    return [[next(rest) for _ in group.answers] for group in groups]


@contextmanager
def _no_notice() -> Iterator[None]:
    """While this runs, TRL says nothing of what it counts as experimental."""
    before = os.environ.get("TRL_EXPERIMENTAL_SILENCE")
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TRL_EXPERIMENTAL_SILENCE"]
        else:
            os.environ["TRL_EXPERIMENTAL_SILENCE"] = before
