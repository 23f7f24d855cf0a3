"""Keys and values for batched decoding: buffers that are written in place, and attention that never copies them.

transformers' own dynamic cache concatenates, which copies every key and value at every token, and its
`sdpa` repeats the key–value heads of a grouped-query model once for each query head. On a CPU these copies
cost more than the model. Here a layer's keys live in one buffer with room to spare, and the query heads of a
group are folded into the query axis, so that each key is read where it lies.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

ATTENTION = "workbench_grouped"
_WOULD_MATTER = {"position_bias", "block_indices", "indices", "head_mask"}


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention in which a group's query heads share a row of keys.

    Args:
        module: the attention layer (unused; transformers' interface passes it).
        query: [B, heads, Q, d]; key: [B, kv_heads, K, d]; value: [B, kv_heads, K, e].
        attention_mask: bool or additive, [B or 1, 1, Q, K].
        dropout, scaling: as in torch's `scaled_dot_product_attention`.
        softcap: Gemma 2 squashes its scores to ±softcap by tanh.
        s_aux: gpt-oss's sinks, [heads]: a score for attending to nothing.
        others: what else a model passes; sliding windows are the caller's, who keeps sequences within them.

    Returns:
        [B, Q, heads, e], as transformers' attention functions do, and no weights.

    Raises:
        ValueError: no mask, or something that this function would have to heed and does not know.
    """
    if ignored := _WOULD_MATTER & {name for name, given in others.items() if given is not None}:
        raise ValueError(f"{ATTENTION} does not know {', '.join(sorted(ignored))}")
    batch, heads, length, width = query.shape
    if attention_mask is None and length > 1:
        raise ValueError(f"{ATTENTION} needs a 4-D attention mask: without one, tokens would see the future")
    kv_heads = key.shape[1]
    group = heads // kv_heads
    # Query heads of one group are neighbours: [B, kv, group, Q, d] -> [B, kv, group * Q, d].
    folded = query.reshape(batch, kv_heads, group * length, width)
    mask = attention_mask
    if mask is not None and length > 1:
        mask = _for_groups(mask, group, query.dtype)
    if softcap is None and s_aux is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            folded, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
    else:
        sinks = (
            None
            if s_aux is None
            else s_aux.view(kv_heads, group, 1).expand(-1, -1, length).reshape(1, kv_heads, -1, 1)
        )
        out = _written_out(folded, key, value, mask, scaling or width**-0.5, softcap, sinks)
    return out.reshape(batch, heads, length, -1).transpose(1, 2), None


def _for_groups(mask: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """The mask, additive, once for each head of a group; made once, and kept with the mask for all layers.

    Each layer's own would be kept for the backward pass, L × L numbers a layer.
    """
    kept = getattr(mask, "workbench_for_groups", None)
    if kept is None or kept[0] != (group, dtype):
        added = mask
        if mask.dtype == torch.bool:
            added = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
        kept = ((group, dtype), added.to(dtype).repeat(1, 1, group, 1))
        mask.workbench_for_groups = kept  # type: ignore[attr-defined]
    made: torch.Tensor = kept[1]
    return made


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention step by step, for what torch's own function lacks; softmax in float32."""
    scores = (query @ key.transpose(-1, -2)).float() * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().expand(scores.shape[0], -1, -1, 1)], dim=-1)
    shares = scores.softmax(-1)[..., : key.shape[-2]]
    return shares.to(value.dtype) @ value


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
        (keys, values), length = _states(layer), layer.get_seq_length()
        layers.append(
            BufferLayer(_grown(keys, rows, length, capacity), _grown(values, rows, length, capacity), length)
        )
    return Cache(layers=layers)


def joined(caches: Sequence[Cache]) -> Cache:
    """Caches of equal length as one, their rows one after the other."""
    if len(caches) == 1:
        return caches[0]
    layers = []
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        keys, values = (torch.cat(states) for states in zip(*map(_states, parts), strict=True))
        layers.append(BufferLayer(keys, values, parts[0].get_seq_length()))
    return Cache(layers=layers)


def _states(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.buffers if isinstance(layer, BufferLayer) else (layer.keys, layer.values)


def _grown(states: torch.Tensor, rows: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    _, heads, _, width = states.shape
    out = states.new_zeros((len(rows), heads, capacity, width))
    out[:, :, :length] = states[:, :, :length].index_select(0, rows)
    return out
