"""A soft prompt as keys and values: virtual tokens that stand before whatever the model reads.

Prompt tuning (Lester et al. 2021, arXiv 2104.08691) learns the virtual tokens' embeddings, prefix tuning (Li &
Liang 2021, arXiv 2101.00190) their keys and values in every layer. The model's pass over learned embeddings gives
keys and values too, so that both come to the same thing: the beginning of a cache, at positions 0 … k - 1.
"""

from typing import Any

import torch
import transformers
from transformers.cache_utils import Cache

from workbench.adapters import SOFT_PROMPTS
from workbench.errors import UserError


def is_soft_prompt(weights: Any) -> bool:
    """Whether a loaded model has an adapter of virtual tokens.

    Raises:
        UserError: virtual tokens of a kind that is not among `SOFT_PROMPTS`.
    """
    config = getattr(weights, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return False
    if config.peft_type not in SOFT_PROMPTS:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(
            f"The adapter is of the kind {kind}; of soft prompts there are: {', '.join(SOFT_PROMPTS)}."
        )
    return True


def keys_of_adapter(adapted: Any) -> Cache:
    """Keys and values [1, kv_heads, k, d] a layer of an adapter's virtual tokens (PEFT).

    Gradients flow through them to what the adapter learns. The base has `workbench_grouped` attention.
    """
    learned = adapted.get_prompt(batch_size=1)
    if adapted.active_peft_config.peft_type == "PREFIX_TUNING":
        keys: Cache = learned
        return keys
    return keys_of(adapted.get_base_model(), learned)


def keys_of(weights: Any, embeddings: torch.Tensor) -> Cache:
    """Keys and values of tokens with these input embeddings [1, k, hidden], at positions 0 … k - 1."""
    table = weights.get_input_embeddings().weight
    count = embeddings.shape[1]
    cache: Cache = transformers.DynamicCache()
    mask = torch.ones(1, 1, count, count, dtype=torch.bool, device=table.device).tril()
    weights(
        inputs_embeds=embeddings.to(table),
        position_ids=torch.arange(count, device=table.device)[None],
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache
