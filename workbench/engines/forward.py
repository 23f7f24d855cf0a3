"""Forward passes as the embedded engine makes them: prompts behind their shared prefix, then a token a row.

Also here is the check that a model may be run in this way at all.
"""

from typing import Any

import torch
import transformers
from transformers.cache_utils import Cache

from workbench.engines.encode import common_prefix
from workbench.engines.kv import ATTENTION, BufferLayer, buffers_from, joined
from workbench.engines.packing import Branch, Packed, pack
from workbench.errors import UserError
from workbench.models import quiet_transformers
from workbench.quantization import exact_activations

_MASK_ELEMENTS = 2**25  # of one pass's mask; torch makes several copies of it, in float32


def last_logits(
    weights: Any, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Logits of the last position, float32 [B, V]; `ids` and `positions` are [B, Q], `mask` [B, 1, Q, K]."""
    # By its index: a slice would leave rows that do not lie together, for which torch copies the output layer's
    # weights once a row where they are frozen, as beside an adapter.
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    out = weights(
        input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True,
        logits_to_keep=last,
    )  # fmt: skip
    logits: torch.Tensor = out.logits[:, -1].float()
    return logits


def next_logits(
    weights: Any, tokens: torch.Tensor, positions: torch.Tensor, padding: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Logits [B, V] after one more token [B] a row; `padding` [B] columns at a row's start are hidden."""
    length = cache.get_seq_length() + 1
    mask = torch.arange(length, device=tokens.device)[None, :] >= padding[:, None]
    return last_logits(weights, tokens[:, None], positions[:, None], mask[:, None, None, :], cache)


def prefix_cache(weights: Any, ids: list[int], start: Cache | None = None) -> Cache:
    """Keys and values of a prefix [1, …], behind those of `start` (a soft prompt's), which stays as it is."""
    device = weights.device
    before = 0 if start is None else start.get_seq_length()
    cache: Cache = transformers.DynamicCache()
    if start is not None:
        cache = buffers_from(start, torch.zeros(1, dtype=torch.long, device=device), before + len(ids))
    if ids:
        places = torch.arange(before, before + len(ids), device=device)[None]
        causal = torch.ones(1, 1, len(ids), before + len(ids), dtype=torch.bool, device=device).tril(before)
        last_logits(weights, torch.tensor([ids], device=device), places, causal, cache)
    return cache


def prefill(
    weights: Any, prompts: list[list[int]], start: Cache | None = None
) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """Keys and values of every prompt, last logits [P, V], and each row's left padding [P].

    The prefix that all prompts share is computed once, behind the keys and values of `start` if there are any. A
    row is then laid out as prefix, padding, the prompt's own rest; the rows are rolled so that the padding comes
    first, which a decoding step's mask can tell by one number a row.
    """
    cached = common_prefix(prompts)
    prefix = prefix_cache(weights, prompts[0][:cached], start)
    rests = [prompt[cached:] for prompt in prompts]
    width = max(len(rest) for rest in rests)
    rows = max(1, _MASK_ELEMENTS // (width * (prefix.get_seq_length() + width)))
    parts = [_prefill_rows(weights, prefix, rests[i : i + rows], width) for i in range(0, len(rests), rows)]
    caches, logits, pads = zip(*parts, strict=True)
    return joined(caches), torch.cat(logits), torch.cat(pads)


def packed_logits(weights: Any, packed: Packed, start: Cache | None = None) -> torch.Tensor:
    """Logits [M, V], float32, where `packed` is read, behind the keys and values of `start`.

    `start` gets the sequence's own keys and values added, wherever it keeps them.
    """
    out = weights(
        input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask, past_key_values=start,
        use_cache=start is not None, logits_to_keep=packed.read_at,
    )  # fmt: skip
    logits: torch.Tensor = out.logits[0].float()
    return logits


def _prefill_rows(
    weights: Any, prefix: Cache, rests: list[list[int]], width: int
) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    device, count, shared = weights.device, len(rests), prefix.get_seq_length()
    pads = torch.tensor([width - len(rest) for rest in rests], device=device)
    ids = torch.zeros(count, width, dtype=torch.long, device=device)
    for i, rest in enumerate(rests):
        ids[i, width - len(rest) :] = torch.tensor(rest, device=device)
    own = torch.arange(width, device=device)
    positions = (own[None, :] - pads[:, None] + shared).clamp_min(0)
    visible = own[None, :, None] >= own[None, None, :]  # causal
    visible = visible & (own[None, None, :] >= pads[:, None, None])
    # A padding query must see something, or its softmax is empty: it sees itself.
    visible = visible | torch.eye(width, dtype=torch.bool, device=device)
    before = torch.ones(count, width, shared, dtype=torch.bool, device=device)
    mask = torch.cat([before, visible], dim=-1)[:, None]
    first = torch.zeros(count, dtype=torch.long, device=device)
    cache = buffers_from(prefix, first, shared + width) if shared else transformers.DynamicCache()
    logits = last_logits(weights, ids, positions, mask, cache)
    _roll(cache, shared, pads)
    return cache, logits, pads


def _roll(cache: Any, shared: int, pads: torch.Tensor) -> None:
    """Move each row's padding from behind the shared prefix to the front of the row, in place."""
    if shared == 0 or not bool(pads.any()):
        return
    length = cache.get_seq_length()
    column = torch.arange(length, device=pads.device)[None, :]
    # New column c of a row with p pads: c < p takes padding; c < p + shared the prefix; the rest stays.
    source = torch.where(
        column < pads[:, None],
        column + shared,
        torch.where(column < pads[:, None] + shared, column - pads[:, None], column),
    )
    for layer in cache.layers:
        assert isinstance(layer, BufferLayer)
        for buffer in layer.buffers:
            index = source[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
            buffer[:, :, :length] = buffer[:, :, :length].gather(2, index)


def use_grouped_attention(weights: Any) -> None:
    """Give a model the attention of `kv.py`, and see that its logits are still its own.

    What some architectures compute is not covered by a 4-D mask, explicit positions and these buffers
    (recurrent states, ALiBi, …), and not all of them say so. A few tokens, through the model as it came and
    through the passes that the workbench makes, tell.

    Args:
        weights: a causal language model, with or without an adapter; stays as it was in all other ways.

    Raises:
        UserError: the logits differ, or the model cannot be run like this; it has its own attention again.
    """
    vocabulary = weights.get_input_embeddings().weight.shape[0]
    first = [(97 * i) % vocabulary for i in range(3, 10)]
    second = [*first[:3], first[-1]]
    device = weights.device
    problem = "the logits are not the model's own"
    training, attention = weights.training, weights.config._attn_implementation
    weights.eval()
    with torch.inference_mode(), quiet_transformers(), exact_activations(weights):
        # `eager` is an architecture's own definition; its `sdpa` may leave out what torch's lacks (Gemma 2).
        weights.set_attn_implementation("eager")
        expected = torch.cat(
            [weights(input_ids=torch.tensor([ids], device=device)).logits[:, -1] for ids in (first, second)]
        ).float()
        weights.set_attn_implementation(ATTENTION)
        try:
            found = [_probe_packed(weights, first, second), _probe_decoding(weights, first, second)]
            near = all(_near(logits, expected, weights.dtype) for logits in found)
        except Exception as error:  # an architecture refuses in whatever way it pleases
            near, problem = False, f"{type(error).__name__}: {str(error).strip()[:200]}"
    weights.train(training)
    if not near:
        weights.set_attn_implementation(attention)
        raise UserError(
            f"The architecture {weights.config.model_type!r} cannot be run by the hf engine: {problem}. "
            "Serve it with vLLM, and use --engine vllm."
        )


def _probe_packed(weights: Any, first: list[int], second: list[int]) -> torch.Tensor:
    packed = pack([[Branch(first, [0])], [Branch(second, [0])]], weights.device)
    return packed_logits(weights, packed)


def _probe_decoding(weights: Any, first: list[int], second: list[int]) -> torch.Tensor:
    cache, _, padding = prefill(weights, [first[:-1], second[:-1]])
    rows = torch.arange(2, device=padding.device)
    cache = buffers_from(cache, rows, cache.get_seq_length() + 1)
    tokens = torch.tensor([first[-1], second[-1]], device=padding.device)
    positions = torch.tensor([len(first) - 1, len(second) - 1], device=padding.device)
    return next_logits(weights, tokens, positions, padding, cache)


def _near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether logits [.., V] are the same up to rounding; their mean says nothing and is left out.

    In bfloat16 two right ways of computing 30 layers were seen 6 % apart.
    """
    spread = (expected - expected.mean(-1, keepdim=True)).norm()
    return bool((found - expected).norm() <= (1e-3 if dtype == torch.float32 else 0.3) * spread)
