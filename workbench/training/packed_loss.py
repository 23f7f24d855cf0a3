"""The loss of a batch as the module that is trained: one packed sequence, or padded rows where that is refused."""

from collections.abc import Sequence
from typing import Any

import torch

from workbench.engines.forward import packed_logits
from workbench.engines.kv import ATTENTION
from workbench.engines.packing import Packed, Tokens, pack_examples
from workbench.engines.soft_prompt import is_soft_prompt, keys_of_adapter
from workbench.errors import UserError


class PackedLoss(torch.nn.Module):
    """A model with the loss behind it: everything that is learned is reached through `forward`.

    So DistributedDataParallel and autocast, which act on a module's forward, see soft prompts as they see weights.

    Attributes:
        packs: whether a batch is one sequence (`engines/packing.py`); rows are padded where the architecture's own
            attention was kept, because it takes no mask of a tree.

    Raises:
        UserError: a soft prompt on an architecture that cannot be packed.
    """

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.weights = weights
        self._soft = is_soft_prompt(weights)
        self._virtual = weights.active_peft_config.num_virtual_tokens if self._soft else 0
        self.packs = weights.config._attn_implementation == ATTENTION
        if self._soft and not self.packs:
            raise UserError(
                f"A soft prompt cannot be learned for the architecture {weights.config.model_type!r}, which takes "
                "no mask of a packed batch. Use `workbench lora`."
            )

    def collate(self, examples: Sequence[Tokens]) -> Packed:
        """Examples as what `forward` takes."""
        device = self.weights.device
        return pack_examples(examples, device, virtual=self._virtual) if self.packs else padded(examples, device)

    def forward(self, batch: Packed) -> torch.Tensor:
        """The summed cross-entropy, in nats, of the batch's targets."""
        if self._soft:  # the virtual tokens' keys and values, through which gradients flow
            logits_MV = packed_logits(self.weights.get_base_model(), batch, keys_of_adapter(self.weights))
        elif self.packs:
            logits_MV = packed_logits(self.weights, batch)
        else:
            out = self.weights(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
            logits_MV = out.logits.flatten(0, 1)[batch.read_at].float()
        return torch.nn.functional.cross_entropy(logits_MV, batch.targets, reduction="sum")


def padded(examples: Sequence[Tokens], device: Any = "cpu") -> Packed:
    """Examples as rows of equal length, padded on the right.

    The fields are those of `Packed` with `ids`, `positions` and `mask` [B, L] and `read_at` places among the B·L.
    """
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask = torch.zeros(len(examples), width, dtype=torch.long)
    read_at, targets, owner = [], [], []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
        read_at += [row * width + place - 1 for place in example.learned]
        targets += [example.ids[place] for place in example.learned]
        owner += [row] * len(example.learned)
    return Packed(
        ids=ids.to(device),
        positions=torch.arange(width, device=device).expand(len(examples), width),
        mask=mask.to(device),
        read_at=torch.tensor(read_at, device=device),
        targets=torch.tensor(targets, device=device),
        owner=torch.tensor(owner, device=device),
        count=len(examples),
    )
