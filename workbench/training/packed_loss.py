"""The loss of supervised fine-tuning: the cross-entropy of every learned token."""

from collections.abc import Sequence

import torch

from workbench.engines.packing import Packed, Tokens
from workbench.training.objective import Objective


class PackedLoss(Objective):
    """Learns to say the learned tokens of training examples; an item is one example, a unit one such token."""

    def rows(self, item: Tokens) -> Sequence[Tokens]:
        """The example itself."""
        return (item,)

    def units(self, items: Sequence[Tokens]) -> float:
        """Learned tokens."""
        return sum(len(item.learned) for item in items)

    def collate(self, items: Sequence[Tokens]) -> Packed:
        """Examples as what `forward` takes."""
        return self.packed(items)

    def forward(self, batch: Packed) -> torch.Tensor:
        """The summed cross-entropy, in nats, of the batch's targets."""
        return torch.nn.functional.cross_entropy(self.logits(batch), batch.targets, reduction="sum")
