"""A scalar head on a language model: the reward of a text is read at its last token, the one that ends the turn.

The whole is transformers' own class for sequence classification with one label, so that others load it. That class
reads the last token which is not padding; where a model pads with the token that ends a turn, as many do, it would
read the one before. `padding_token` names another.
"""

import copy
from typing import Any

import torch

from workbench.engines.kv import ATTENTION
from workbench.engines.packing import Packed, Tokens, pack_examples
from workbench.errors import UserError
from workbench.models import first_line, quiet_transformers


def read_at_end(ids: list[int]) -> Tokens:
    """A row that is read at its last token: what stands behind that is never read."""
    return Tokens([*ids, 0], [len(ids)])


def rewards_of(weights: Any, batch: Packed) -> torch.Tensor:
    """Rewards [M], float32, where a batch of `read_at_end` rows is read, packed or padded."""
    own = {"position_ids": batch.positions} if batch.mask.dim() == 4 else {}
    out = _body(weights)(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **own)
    hidden_MD = out.last_hidden_state.flatten(0, 1)[batch.read_at].float()
    with torch.autocast(hidden_MD.device.type, enabled=False):  # in bfloat16 rewards would be steps of 1/64
        rewards_M: torch.Tensor = torch.nn.functional.linear(hidden_MD, weights.score.weight.float())[:, 0]
    return rewards_M


def with_reward_head(base: Any, tokenizer: Any) -> Any:
    """A causal language model's body under a head of its hidden size, float32, which starts at zero.

    So every reward is 0 at first, and the loss log 2 a pair. The body is the base's own, with whatever was put
    into it; its output layer is left out.

    Raises:
        UserError: the architecture has no sequence classification in transformers, or one of another make.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(base.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = config.pad_token_id = padding_token(tokenizer)
    try:
        with torch.device("meta"), quiet_transformers():
            weights = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(
            f"transformers has no sequence classification for {config.model_type!r}, so no reward model can be "
            f"made of it ({first_line(error)})."
        ) from error
    body = weights.base_model_prefix
    if body != base.base_model_prefix or getattr(getattr(weights, "score", None), "bias", 0) is not None:
        raise UserError(
            f"transformers' sequence classification for {config.model_type!r} has no plain head `score`."
        )
    setattr(weights, body, getattr(base, body))
    width = weights.score.in_features
    weights.score = torch.nn.Linear(width, 1, bias=False, device=base.device, dtype=torch.float32)
    torch.nn.init.zeros_(weights.score.weight)
    weights.config._attn_implementation = base.config._attn_implementation
    return weights


def padding_token(tokenizer: Any) -> int:
    """A token to pad with that does not end a turn: the tokenizer's own, else its unknown or its first one.

    Any will do, for a row that is scored always ends with the token that ends a turn.
    """
    end: int = tokenizer.eos_token_id
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if token is not None and token != end:
            return int(token)
    return 0 if end != 0 else 1


def use_packed(weights: Any) -> bool:
    """Give a reward model the attention that packs rows, where its rewards are then still its own.

    A few tokens, through the model as it came and through a packed pass, tell. False leaves it as it was.
    """
    size = weights.get_input_embeddings().num_embeddings
    rows = [[(97 * i) % size for i in range(3, 10)], [(97 * i) % size for i in (3, 4, 5, 11)]]
    own = weights.config._attn_implementation
    with torch.inference_mode(), quiet_transformers():
        expected = torch.stack([_read(weights, row) for row in rows])
        try:
            weights.set_attn_implementation(ATTENTION)
            packed = pack_examples([read_at_end(row) for row in rows], weights.device)
            hidden = _body(weights)(
                input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask, use_cache=False
            ).last_hidden_state[0, packed.read_at]
            limit = 1e-3 if weights.dtype == torch.float32 else 0.3
            near = bool((hidden - expected).norm() <= limit * expected.norm())
        except Exception:  # an architecture refuses in whatever way it pleases
            near = False
    if not near:
        weights.set_attn_implementation(own)
    return near


def _read(weights: Any, ids: list[int]) -> torch.Tensor:
    out = _body(weights)(input_ids=torch.tensor([ids], device=weights.device), use_cache=False)
    hidden: torch.Tensor = out.last_hidden_state[0, -1]
    return hidden


def _body(weights: Any) -> Any:
    return getattr(weights, weights.base_model_prefix)
