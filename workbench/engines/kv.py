"""Keys and values for batched decoding: buffers that are written in place, and attention that never copies them.

transformers' own dynamic cache concatenates, which copies every key and value at every token, and its
`sdpa` repeats the key–value heads of a grouped-query model once for each query head. On a CPU these copies
cost more than the model. Here a layer's keys live in one buffer with room to spare, and the query heads of a
group are folded into the query axis, so that each key is read where it lies.
"""

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

ATTENTION = "workbench_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention in which a group's query heads share a row of keys.

    Args:
        module: the attention layer (unused; transformers' interface passes it).
        query: [B, heads, Q, d]; key, value: [B, kv_heads, K, d].
        attention_mask: bool or additive, [B or 1, 1, Q, K]; the workbench always passes one.
        dropout, scaling: as in torch's `scaled_dot_product_attention`.

    Returns:
        [B, Q, heads, d], as transformers' attention functions do, and no weights.
    """
    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    # Query heads of one group are neighbours: [B, kv, group, Q, d] -> [B, kv, group * Q, d].
    folded = query.reshape(batch, kv_heads, group * length, width)
    mask = attention_mask
    if mask is not None and length > 1:
        mask = mask.repeat(1, 1, group, 1)
    out = torch.nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
    )
    return out.reshape(batch, heads, length, width).transpose(1, 2), None


AttentionInterface.register(ATTENTION, grouped_attention)


class BufferLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, [rows, kv_heads, capacity, d], of which the first `length` are in use."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        super().__init__()
        self.buffers = (keys, values)
        self.length = length
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is there; return views of everything in use."""
        end = self.length + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length : end] = states
        self.length = end
        keys, values = self.buffers
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self) -> int:
        """Positions in use, padding included."""
        return self.length


def buffers_from(cache: Cache, rows: torch.Tensor, capacity: int) -> Cache:
    """A buffer cache whose row i is row `rows[i]` of another cache, with room for `capacity` positions."""
    layers = []
    for layer in cache.layers:
        if isinstance(layer, BufferLayer):
            (keys, values), length = layer.buffers, layer.length
        else:
            keys, values, length = layer.keys, layer.values, layer.get_seq_length()
        layers.append(
            BufferLayer(_grown(keys, rows, length, capacity), _grown(values, rows, length, capacity), length)
        )
    return Cache(layers=layers)


def _grown(states: torch.Tensor, rows: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    _, heads, _, width = states.shape
    out = states.new_zeros((len(rows), heads, capacity, width))
    out[:, :, :length] = states[:, :, :length].index_select(0, rows)
    return out
