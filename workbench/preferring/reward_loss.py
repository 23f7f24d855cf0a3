"""The loss of a reward model: −log σ(r_chosen − r_rejected), Bradley and Terry's (1952), through TRL's trainer.

All pairs of a prompt are in one pass, and each distinct answer is computed once, however many pairs it is in
(InstructGPT, Ouyang et al. 2022, arXiv 2203.02155, §3.5, equation 1). A prompt's loss is the mean over its pairs,
so that prompts with many pairs weigh no more than others.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from workbench.engines.packing import Packed, Tokens
from workbench.engines.reward_head import read_at_end, rewards_of
from workbench.preferring.pair_rows import PairRows
from workbench.training.objective import Objective
from workbench.training.trl_trainers import taken, trl_trainer

_TOLD = {"accuracy", "margin", "min_reward", "mean_reward", "max_reward"}  # TRL's names


class RewardLoss(Objective):
    """Learns to reward chosen answers more than rejected ones; an item is the pairs of one prompt, and a unit too.

    Args:
        weights: a model with a scalar head (`with_reward_head`).
        tokenizer: the model's.
    """

    def __init__(self, weights: Any, tokenizer: Any) -> None:
        import trl

        super().__init__(weights)
        trainer = trl_trainer(
            trl.RewardTrainer, trl.RewardConfig, tokenizer, weights.device, settings={}, model=_stand_in()
        )
        self._trainer = [trainer]  # in a list, so that its stand-in is no part of this module

    def rows(self, item: PairRows) -> Sequence[Tokens]:
        """Each distinct answer behind the prompt."""
        return list({tuple(row.ids): row for row in item.rows}.values())

    def units(self, items: Sequence[PairRows]) -> float:
        """Prompts."""
        return len(items)

    def read(self, items: Sequence[PairRows]) -> int:
        """A prompt is read once for its answers."""
        return self.read_once(items)

    def collate(self, items: Sequence[PairRows]) -> tuple[Packed, list[tuple[list[int], list[int]]]]:
        """The distinct answers packed, and the places of each prompt's chosen and rejected ones among them."""
        rows: list[Tokens] = []
        pairs = []
        for item in items:
            distinct = self.rows(item)
            places = {tuple(row.ids): len(rows) + i for i, row in enumerate(distinct)}
            of = [places[tuple(row.ids)] for row in item.rows]
            pairs.append((of[0::2], of[1::2]))
            rows += [read_at_end(row.ids) for row in distinct]
        return self.packed(rows), pairs

    def forward(self, batch: tuple[Packed, list[tuple[list[int], list[int]]]]) -> torch.Tensor:
        """The sum over prompts of the mean loss of a prompt's pairs, in nats."""
        packed, pairs = batch
        rewards_R = rewards_of(self.weights, packed)
        losses = [self.loss(rewards_R[chosen], rewards_R[rejected]) for chosen, rejected in pairs]
        return torch.stack(losses).sum()

    def loss(self, chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
        """The mean loss of a prompt's pairs; what TRL tells of it goes into the metrics."""
        [trainer] = self._trainer
        # TRL takes the first half of what a model returns for chosen, and counts the tokens of the mask.
        rewards = torch.cat([chosen_P, rejected_P])[:, None]
        mask = torch.zeros(1, dtype=torch.long, device=rewards.device)
        loss: torch.Tensor = trainer.compute_loss(
            lambda **_: SimpleNamespace(logits=rewards), {"attention_mask": mask}
        )
        self.tell({name: value for name, value in taken(trainer).items() if name in _TOLD}, 1.0)
        return loss


def _stand_in() -> Any:
    """A reward model of a few hundred weights, for a trainer that wants one."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    return LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            pad_token_id=0, bos_token_id=None, eos_token_id=None, num_labels=1,
        )
    )  # fmt: skip
