"""What a training makes small: a model, and a loss that is computed from one packed pass of it.

An item is what a batch counts: a training example, the pairs of one prompt, the samples of one question. A method
says which rows of tokens an item has and what their loss is; the loop (`trainer.py`) knows nothing else of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from workbench.engines.forward import packed_logits
from workbench.engines.kv import ATTENTION
from workbench.engines.packing import Packed, Tokens, pack_examples
from workbench.engines.soft_prompt import is_soft_prompt, keys_of_adapter
from workbench.errors import UserError

FORWARD_TOKENS = "forward_tokens"
"""The metric that says how many tokens only went forward: samples drawn, a reference model's passes."""

Item = Any
"""What a batch counts; only its objective knows what is in it."""


class Objective(torch.nn.Module):
    """A model with a loss behind it: everything that is learned is reached through `forward`.

    So DistributedDataParallel and autocast, which act on a module's forward, see soft prompts as they see weights.
    A subclass defines `rows`, `units`, `collate` and `forward`.

    Attributes:
        packs: whether rows are one sequence (`engines/packing.py`); they are padded where the architecture's own
            attention was kept, because it takes no mask of a tree.
        whole: the loss is not a sum over items, so that a batch must not be cut into parts.
        note: shown beside the progress bar.
        told: sums of what the passes had to tell, by name: (sum, weight). The loop writes means into the metrics.

    Raises:
        UserError: a soft prompt on an architecture that cannot be packed.
    """

    whole = False
    note = ""

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.weights = weights
        self.told: dict[str, tuple[float, float]] = {}
        self._soft = is_soft_prompt(weights)
        self._virtual = weights.active_peft_config.num_virtual_tokens if self._soft else 0
        self.packs = weights.config._attn_implementation == ATTENTION
        if self._soft and not self.packs:
            raise UserError(
                f"A soft prompt cannot be learned for the architecture {weights.config.model_type!r}, which takes "
                "no mask of a packed batch. Use `workbench lora`."
            )

    # --- what a method defines ---

    def rows(self, item: Item) -> Sequence[Tokens]:
        """The rows of tokens that an item is read as."""
        raise NotImplementedError

    def units(self, items: Sequence[Item]) -> float:
        """What the summed loss of items is divided by: learned tokens, pairs, …"""
        raise NotImplementedError

    def collate(self, items: Sequence[Item]) -> Any:
        """Items as what `forward` takes."""
        raise NotImplementedError

    def forward(self, batch: Any) -> torch.Tensor:
        """The summed loss of a batch."""
        raise NotImplementedError

    def read(self, items: Sequence[Item]) -> int:
        """Tokens that a pass over items reads; a subclass whose rows share prompts counts with `read_once`."""
        return sum(len(row.ids) for item in items for row in self.rows(item))

    def prepare(self, items: list[Item], step: int) -> list[Item]:
        """This process's items of an update, before the passes: a method that samples does it here."""
        return items

    # --- what it builds on ---

    def read_once(self, items: Sequence[Item]) -> int:
        """Tokens of items as one sequence holds them: a prompt once for its answers, equal answers once."""
        if not self.packs:
            return Objective.read(self, items)
        rows = {tuple(row.ids): row for item in items for row in self.rows(item)}
        prompts = {ids[: row.learned[0]] for ids, row in rows.items()}
        return sum(map(len, prompts)) + sum(len(ids) - row.learned[0] for ids, row in rows.items())

    def packed(self, rows: Sequence[Tokens]) -> Packed:
        """Rows as one sequence, or padded where the architecture takes none."""
        device = self.weights.device
        return pack_examples(rows, device, virtual=self._virtual) if self.packs else padded(rows, device)

    def logits(self, batch: Packed) -> torch.Tensor:
        """Float32 logits [M, V] of the batch's targets."""
        if self._soft:  # the virtual tokens' keys and values, through which gradients flow
            return packed_logits(self.weights.get_base_model(), batch, keys_of_adapter(self.weights))
        if self.packs:
            return packed_logits(self.weights, batch)
        out = self.weights(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        logits_MV: torch.Tensor = out.logits.flatten(0, 1)[batch.read_at].float()
        return logits_MV

    def tell(self, values: Mapping[str, float], weight: float) -> None:
        """Add what a pass has to tell; the metrics get the means over an update's passes, by weight."""
        for name, value in values.items():
            total, before = self.told.get(name, (0.0, 0.0))
            self.told[name] = (total + value * weight, before + weight)


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
