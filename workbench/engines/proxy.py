"""Proxy tuning (Liu et al. 2024, arXiv 2401.08565): a base steered by what tuning changed in another model.

The next token's logits are s_base + α·(s_expert − s_antiexpert) (§2), before temperature, top-k and top-p, and
for given texts too. The paper has three models; here each distinct one is passed through once, and the sum is that
of the distinct ones times their shares: 1 − α and α where base and antiexpert are one, so that α = 1 gives the
expert's logits to the last bit. An expert that is a LoRA on a model that is there anyway shares its weights.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers.cache_utils import Cache

from workbench.adapters import with_adapter
from workbench.cost import together
from workbench.engines.hf import HfEngine
from workbench.errors import UserError
from workbench.identity import model_identity, short_hash
from workbench.models import check_adapter, first_line, load_tokenizer, model_folder, quiet_transformers
from workbench.proxy import Proxy
from workbench.quantization import parameters_in
from workbench.types import Model


class ProxyEngine(HfEngine):
    """Three models as one. Everything else is `HfEngine`'s: batches, buffers, draws, scores, pieces.

    Prompts are encoded with the base's tokenizer; with the expert's where the base has no chat template, it has
    one, and all its tokens are the base's too. An answer ends where the base or the expert ends it; a token that
    only the expert has is never said, were it the one that ends its turns. `embed` is the base's.

    Args:
        model: base, expert, antiexpert and α.
        dtype, device, max_rows, max_positions: as of `HfEngine`; keys and values are held for each distinct model.

    Raises:
        UserError: a model cannot be loaded, their vocabularies differ, or one is a soft prompt or a head.
    """

    def __init__(
        self,
        model: Proxy,
        *,
        dtype: str = "bfloat16",
        device: str | None = None,
        max_rows: int = 128,
        max_positions: int = 131_072,
    ) -> None:
        parts = {"base": model.steered, "expert": model.expert, "antiexpert": model.antiexpert}
        keys = {name: short_hash(model_identity(part)) for name, part in parts.items()}
        known = {place: vocabulary(*place) for place in {(part.base, part.revision) for part in parts.values()}}
        rows = shared_rows({name: known[part.base, part.revision] for name, part in parts.items()})
        wanted = {keys[name]: (name, part) for name, part in reversed(parts.items())}
        opened = _opened(wanted, dtype, device)
        base, expert = opened[keys["base"]], opened[keys["expert"]]
        super().__init__(
            model.steered, dtype=dtype, device=device, max_rows=max_rows, max_positions=max_positions,
            loaded=(base.weights, base.encoder),
        )  # fmt: skip
        if not base.encoder.has_chat_template and expert.encoder.has_chat_template:
            ids, _ = known[model.expert.base, model.expert.revision]
            if max(ids.values()) < rows:  # or its template may write tokens that the base has no embedding for
                self.encoder = expert.encoder
        self._keys = keys["base"], keys["expert"], keys["antiexpert"]
        shares = shares_of(*self._keys, model.alpha)
        passes = [_Pass(opened[key].weights, shares[key], wanted[key][1].adapter is None) for key in shares]
        self.weights = Steered(passes, rows)
        self._shape = together([opened[key].shape for key in shares])
        self._context = min(engine.context for engine in opened.values())
        self._ends = base._ends | expert._ends
        self._version += " proxy"

    def at(self, alpha: float) -> "ProxyEngine":
        """The same weights with another α; nothing is loaded."""
        shares = shares_of(*self._keys, alpha)
        other = copy(self)
        passes = [
            replace(one, share=share) for one, share in zip(self.weights.passes, shares.values(), strict=True)
        ]
        other.weights = Steered(passes, self.weights.rows)
        return other

    @property
    def passes(self) -> int:
        """Distinct models that each token goes through."""
        return len(self.weights.passes)

    @property
    def parameters_held(self) -> int:
        """Parameters in memory, those that two models share counted once."""
        held: int = self.weights.parameters_held
        return held


@dataclass
class _Pass:
    """One distinct model.

    Attributes:
        weights: which another pass may share.
        share: of its logits in the sum.
        plain: it has no adapter, whatever its weights have.
        layers: of its keys and values, known from its first pass on.
    """

    weights: Any
    share: float
    plain: bool
    layers: int = 0


class Steered:
    """Several models that are called like one of transformers; a cache holds the layers of all, one after another.

    Args:
        passes: the base's first.
        rows: of the vocabulary; what is behind them is cut off.
    """

    def __init__(self, passes: Sequence[_Pass], rows: int) -> None:
        self.passes, self.rows = list(passes), rows
        self.device = passes[0].weights.device
        # Of LoRA layers that several passes go through: PEFT's own switch goes over all parameters each time.
        self._switched = [
            [module for module in one.weights.modules() if "_disable_adapters" in vars(module)] for one in passes
        ]

    def __call__(self, *, past_key_values: Cache | None, **given: Any) -> SimpleNamespace:
        """`logits` [B, Q, rows], float32; a cache without layers gets those of all."""
        fresh = past_key_values is not None and not past_key_values.layers
        logits, layers, start = [], [], 0
        for place, one in enumerate(self.passes):
            cache = past_key_values
            if fresh:
                cache = transformers.DynamicCache()
            elif past_key_values is not None:
                cache = Cache(layers=past_key_values.layers[start : start + one.layers])
            self._switch(place)
            logits.append(one.weights(past_key_values=cache, **given).logits[..., : self.rows].float())
            if fresh and cache is not None:
                one.layers = len(cache.layers)
                layers += cache.layers
            start += one.layers
        if fresh and past_key_values is not None:
            past_key_values.layers.extend(layers)
        return SimpleNamespace(logits=summed(logits, [one.share for one in self.passes]))

    def get_decoder(self) -> Any:
        """The base without its output layer."""
        self._switch(0)
        return self.passes[0].weights.get_decoder()

    @property
    def parameters_held(self) -> int:
        """Distinct parameters of all passes."""
        distinct = {id(weight): weight for one in self.passes for weight in one.weights.parameters()}
        return sum(map(parameters_in, distinct.values()))

    def _switch(self, place: int) -> None:
        """Adapters on for a pass with an adapter, off for one of the same weights without."""
        for module in self._switched[place]:
            module._disable_adapters = self.passes[place].plain


def summed(logits: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Σ share · logits, float32."""
    total = shares[0] * logits[0].float()
    for one, share in zip(logits[1:], shares[1:], strict=True):
        total = total.add(one.float(), alpha=share)
    return total


def shares_of(base: str, expert: str, antiexpert: str, alpha: float) -> dict[str, float]:
    """What each distinct model's logits are multiplied by in s_base + α·(s_expert − s_antiexpert), base first."""
    shares: dict[str, float] = {}
    for key, share in ((base, 1.0), (expert, alpha), (antiexpert, -alpha)):
        shares[key] = shares.get(key, 0.0) + share
    return shares


# --- the vocabulary that they share -----------------------------------------------------------------

Vocabulary = tuple[dict[str, int], int]
"""Ids by token, and rows of logits, of which some may stand for no token."""


def vocabulary(base: str, revision: str | None) -> Vocabulary:
    """A model's, from its tokenizer and its configuration.

    Raises:
        UserError: they cannot be read.
    """
    ids = load_tokenizer(Model(base, revision)).get_vocab()
    folder = model_folder(base, revision)
    try:
        with quiet_transformers():
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The model in {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    return ids, config.get_text_config().vocab_size


def shared_rows(found: dict[str, Vocabulary]) -> int:
    """Rows of logits that stand for the same tokens in all models; what is behind them is cut off.

    Every token of the base must be the others', with the same id. They may have more behind it, which the base
    would not know as text.

    Args:
        found: by what the model is for, the base's as `base`.

    Raises:
        UserError: a token of the base is another model's under another id, or not at all; it names the first.
    """
    ids, rows = found["base"]
    known = set(ids.values())
    for name, (others, theirs) in found.items():
        for token, id in sorted(ids.items(), key=lambda pair: pair[1]):
            if (other := others.get(token)) != id:
                told = "it has no such token" if other is None else f"its id there is {other}"
                raise UserError(
                    f"The {name} has another vocabulary than the base: the base's token {token!r} has the id "
                    f"{id}; in the {name} {told}. Logits of different vocabularies cannot be added: take an "
                    f"{name} of the base's family."
                )
        rows = min([rows, theirs, *(id for id in others.values() if id not in known)])
    if known and rows <= max(known):
        raise UserError(
            f"The models share {rows} rows of logits, and the base's tokenizer has ids up to {max(known)}: the "
            "expert or the antiexpert has other tokens among them. Take models of the base's family."
        )
    return rows


# --- weights, each once -----------------------------------------------------------------------------

# What PEFT does on loading: others, as pissa, take a part of the base's weights away, and these fields do too.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal")
_REMAKES = ("layer_replication", "kasa_config")


def _opened(wanted: dict[str, tuple[str, Model]], dtype: str, device: str | None) -> dict[str, HfEngine]:
    """An engine for each distinct model, by its key; a LoRA is put into weights that are there without one."""
    opened: dict[str, HfEngine] = {}
    adapted: set[str] = set()
    for key, (name, model) in sorted(wanted.items(), key=lambda item: item[1][1].adapter is not None):
        home = short_hash(model_identity(replace(model, adapter=None)))
        loaded = None
        if home in opened and home not in adapted and _can_share(model):
            loaded = (with_adapter(opened[home].weights, model).eval(), opened[home].encoder)
            adapted.add(home)
        engine = opened[key] = HfEngine(model, dtype=dtype, device=device, loaded=loaded)
        if engine.soft is not None or engine.labels:
            kind = "a classification head" if engine.labels else "a soft prompt"
            raise UserError(
                f"The {name} has the adapter {model.adapter!r}, {kind}. Proxy tuning takes whole models, LoRA and "
                "its kin, and other adapters inside the layers."
            )
    return opened


def _can_share(model: Model) -> bool:
    """Whether the model's adapter can be switched off: a LoRA that leaves the base's own weights as they are."""
    config = check_adapter(str(model.adapter)) if model.adapter else {}
    begun = config.get("init_lora_weights", True)
    return (
        config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and (isinstance(begun, bool) or begun in _PLAIN_INITS)
        and not any(config.get(field) for field in _REMAKES)
    )
