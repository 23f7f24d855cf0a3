"""Adapters in PEFT's format: put onto the base that they were made for, and written so that this can be told.

PEFT's format does not say which weights an adapter was trained on. The workbench puts a few of the base's values
beside it (`base.json`): on another model of the same shape an adapter would load and talk nonsense. Kinds that
PEFT has none of (`own_kinds.py`) are kept in the same files.
"""

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from workbench.errors import UserError
from workbench.files import write_json
from workbench.folders import new_folder
from workbench.hub import hub_id
from workbench.models import check_adapter, first_line, load_base, model_folder, quiet_transformers, read_object
from workbench.own_kinds import OWN_KINDS, own_config, own_parameters, put_in
from workbench.types import Model

SOFT_PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING")  # PEFT's names of the kinds with virtual tokens that run here

_WEIGHTS = "adapter_model.safetensors"
_BASE = "base.json"
_SAMPLED = 64  # tensors of the base of which one value each is kept
_EMBEDDINGS = "input embeddings"  # among them, by this name: a server's client has no other tensor
_SMOOTHED = re.compile(r"\.(input|post_attention)_layernorm\.weight$")


def load_weights(model: Model, dtype: str, device: str) -> Any:
    """The model with its adapter, if it has one, in evaluation mode (transformers, PEFT).

    Args:
        model: what to load.
        dtype: `bfloat16`, `float32` or `float16`.
        device: `cpu`, `cuda`, `cuda:1`, …

    Raises:
        UserError: a folder cannot be read, or the adapter was made for another base.
    """
    if model.adapter is not None:
        check_adapter(model.adapter)
    weights = load_base(model, dtype, device)
    return weights if model.adapter is None else with_adapter(weights, model).eval()


def save_adapter(adapted: Any, model: Model, folder: Path) -> None:
    """Write the adapter of a model, with what tells its base; the folder appears when all of it is there.

    Args:
        adapted: the base's weights with the adapter.
        model: the base, whose name on the Hub the adapter carries, if it has one; never a path.
        folder: which is not there yet.
    """
    from safetensors.torch import save_file

    base = adapted
    with new_folder(folder) as scratch:
        if own := own_parameters(adapted):
            tensors = {name: weight.detach().cpu().contiguous() for name, weight in own.items()}
            save_file(tensors, scratch / _WEIGHTS, metadata={"format": "pt"})
            write_json(scratch / "adapter_config.json", own_config(adapted))
        else:
            base = adapted.get_base_model()
            adapted.save_pretrained(scratch, safe_serialization=True)
            (scratch / "README.md").unlink()  # a form to fill in; the run has a card
            config = read_object(scratch / "adapter_config.json")
            write_json(scratch / "adapter_config.json", config | {"base_model_name_or_path": hub_id(model)})
        write_json(scratch / _BASE, _sample(base))


def with_adapter(weights: Any, model: Model) -> Any:
    """A model's base, loaded, with the model's adapter on it.

    Raises:
        UserError: the adapter's folder cannot be read, or it was made for another base.
    """
    assert model.adapter is not None
    config = check_adapter(model.adapter)
    refusal = f"The adapter {model.adapter!r} does not fit the base model {model.base!r}"
    file = Path(model.adapter) / _BASE
    problem = _other_size(weights, config) or _other_base(weights, file)
    if config.get("peft_type") == "LORA":
        base = model_folder(model.base, model.revision)
        problem = smoothed(base, file, _tensors(weights), differs=problem is not None) or problem
    if problem:
        raise UserError(f"{refusal}: {problem}.")
    if config.get("peft_type") in OWN_KINDS:
        return _with_own(weights, model.adapter, config, refusal)
    return _with_pefts(weights, model.adapter, refusal)


def _with_own(weights: Any, folder: str, config: dict[str, Any], refusal: str) -> Any:
    """The model with an adapter of one of the workbench's own kinds put into it."""
    import torch
    from safetensors.torch import load_file

    try:
        put_in(weights, config)
        saved = load_file(Path(folder) / _WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{refusal}: {error}.") from error
    places = own_parameters(weights)
    if odd := sorted(saved.keys() ^ places.keys()):
        raise UserError(f"{refusal}: {len(odd)} tensors are in only one of them, as {odd[0]!r}.")
    for name, place in places.items():
        if saved[name].shape != place.shape:
            shapes = f"{list(saved[name].shape)}, its place in the model {list(place.shape)}"
            raise UserError(f"{refusal}: {name} has the shape {shapes}.")
        with torch.no_grad():
            place.copy_(saved[name])
    return weights


def _with_pefts(weights: Any, folder: str, refusal: str) -> Any:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        with quiet_transformers():
            adapted = PeftModel.from_pretrained(weights, folder, autocast_adapter_dtype=False)
        with safe_open(Path(folder) / _WEIGHTS, framework="pt") as file:
            saved = set(file.keys())
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{refusal}: {first_line(error)}") from error
    # PEFT says nothing of tensors that found no place, and only warns of places that found no tensor.
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    embeddings = {name for name in saved if "embed_tokens" in name or "lm_head" in name}
    if odd := sorted((saved ^ wanted) - embeddings):
        raise UserError(f"{refusal}: {len(odd)} tensors are in only one of them, as {odd[0]!r}.")
    return adapted


def _other_size(weights: Any, config: dict[str, Any]) -> str | None:
    """Why a soft prompt's virtual tokens are none of this model's: PEFT would find out in the middle of a pass."""
    kind = config.get("peft_type")
    if kind not in SOFT_PROMPTS:
        return None
    base = weights.config.get_text_config()
    heads = base.num_attention_heads
    width = base.hidden_size
    if kind == "PREFIX_TUNING":
        kv_heads = getattr(base, "num_key_value_heads", None) or heads
        width = (getattr(base, "head_dim", None) or width // heads) * kv_heads
    for field, fits in (("token_dim", width), ("num_layers", base.num_hidden_layers)):
        if config.get(field) != fits:
            return f"its {field} is {config.get(field)}, the model's {fits}"
    return None


def smoothed(base: Path, file: Path, tensors: Collection[str], *, differs: bool) -> str | None:
    """That SmoothQuant divided a base's norms, where base.json does not show a LoRA trained on them.

    Args:
        base: the base's folder.
        file: the LoRA's base.json, which need not be there.
        tensors: names of the base's tensors.
        differs: whether a value that base.json keeps is another one in the base.
    """
    record = base / "quantization.json"
    if not record.is_file() or "SmoothQuant" not in str(read_object(record).get("method")):
        return None
    kept = read_object(file) if file.is_file() else {}
    if not differs and any(_SMOOTHED.search(name) and name in tensors for name in kept):
        return None
    return (
        "SmoothQuant divided the base's norms (quantization.json: method), so its layers get other inputs than "
        "those that the adapter learned on. Merge the adapter into the model that it was trained on, then "
        "quantise that (`workbench adapter merge`, `workbench quantize`); or quantise the model with --scheme "
        "w4a16, which leaves the norms as they are, and use that with the adapter"
    )


def check_embeddings(model: Model, table_VD: Any) -> None:
    """See that an adapter was trained on a base with these input embeddings, as far as can be told.

    Raises:
        UserError: it was trained on another base.
    """
    file = Path(str(model.adapter)) / _BASE
    told = read_object(file).get(_EMBEDDINGS) if file.is_file() else None
    if told is not None and not _same(told, found := _one_of(table_VD)):
        raise UserError(
            f"The adapter {model.adapter!r} does not fit the base model {model.base!r}: it was trained on other "
            f"weights (the {_EMBEDDINGS} have a value of {told:.4g}, here {found:.4g})."
        )


def _other_base(weights: Any, file: Path) -> str | None:
    """What tells that an adapter was trained on other weights; None where nothing does, or nothing is known.

    Where the weights here or the ones there are quantised, the embeddings, norms and biases have to tell.
    """
    if not file.is_file():
        return None
    told, tensors = read_object(file), _tensors(weights)
    if not told.keys() <= tensors.keys():
        return "it was trained on a model with other tensors"
    for name, value in told.items():
        if not _is_quantized(tensors[name]) and not _same(value, found := _one_of(tensors[name])):
            return f"it was trained on other weights ({name} has a value of {value:.4g}, here {found:.4g})"
    return None


def _sample(base: Any) -> dict[str, float]:
    """One value from each of some of a base model's tensors that are not quantised, by the tensor's name."""
    tensors = {name: tensor for name, tensor in _tensors(base).items() if not _is_quantized(tensor)}
    embeddings = tensors.pop(_EMBEDDINGS)
    names = sorted(tensors)
    chosen = {name: _one_of(tensors[name]) for name in names[:: math.ceil(len(names) / _SAMPLED)]}
    return {_EMBEDDINGS: _one_of(embeddings), **chosen}


def _tensors(base: Any) -> dict[str, Any]:
    """A base model's tensors, by their names as they are without an adapter."""
    own = own_parameters(base)
    tensors = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in base.named_parameters()
        if ".lora_" not in name and name not in own
    }
    return {_EMBEDDINGS: base.get_input_embeddings().weight, **tensors}


def _is_quantized(tensor: Any) -> bool:
    """Whether it holds packed codes, several to a byte, and not the weights themselves."""
    return not tensor.dtype.is_floating_point


def _one_of(tensor: Any) -> float:
    return float(tensor.detach().reshape(-1)[tensor.numel() // 2])


def _same(value: float, other: float) -> bool:
    """Equal up to one rounding to bfloat16, or to float16's smallest numbers."""
    return math.isclose(value, other, rel_tol=5e-3, abs_tol=1e-6)
