"""Whether an adapter was made for a base, told from files alone: names, shapes, and a few of the base's values."""

import math
import re
from pathlib import Path
from typing import Any

from workbench.adapters import smoothed
from workbench.errors import UserError
from workbench.models import read_object
from workbench.serving.tensors import Tensor, read_headers

_PART = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(A|B|embedding_A|embedding_B)(?:\.weight)?$")
_NUMBER = re.compile(r"\.\d+\.")


def check_base(folder: Path, config: dict[str, Any], base: Path, model: str) -> None:
    """See that an adapter fits a base, as far as files can tell.

    Args:
        folder: the adapter's.
        config: its adapter_config.json.
        base: the base's folder.
        model: its name, for messages.

    Raises:
        UserError: it does not; the message says which tensor tells.
    """
    tensors, own, file = read_headers(base), read_headers(folder), folder / "base.json"
    other = _other_values(file, tensors)
    problem = (
        _other_width(config, base)
        if config.get("peft_type") == "PROMPT_TUNING"
        else _other_shapes(own, tensors)
        or _left_out(own)
        or smoothed(base, file, tensors, differs=other is not None)
    ) or other
    if problem:
        raise UserError(f"The adapter {str(folder)!r} does not fit the base model {model!r}: {problem}.")


def modules_of(base: Path) -> list[str]:
    """Names of the linear layers within a base's blocks, as `q_proj`; embeddings and the output layer left out."""
    found = set()
    for name, tensor in read_headers(base).items():
        module, _, kind = name.rpartition(".")
        if kind in ("weight", "weight_packed", "qweight") and len(tensor.shape) >= 2 and _NUMBER.search(module):
            found.add(module.rpartition(".")[2])
    return sorted(found)


def outside_modules(folder: Path, modules: list[str]) -> str | None:
    """A module that an adapter has a LoRA on and that is none of these; None where all are."""
    for name in read_headers(folder):
        if (part := _PART.match(name)) and part[1].rpartition(".")[2] not in modules:
            return part[1]
    return None


def _other_width(config: dict[str, Any], base: Path) -> str | None:
    told = read_object(base / "config.json")
    width = (told.get("text_config") or told).get("hidden_size")
    found = config.get("token_dim")
    return None if found == width else f"its token_dim is {found}, the model's hidden_size {width}"


def _left_out(own: dict[str, Tensor]) -> str | None:
    """A tensor that is no part of a LoRA: vLLM refuses it, or leaves it out without a word."""
    for name in own:
        if not _PART.match(name) and ".base_layer." not in name:
            return f"it holds {name}, which is no LoRA; vLLM would leave it out (merge the adapter into its base)"
    return None


def _other_shapes(own: dict[str, Tensor], base: dict[str, Tensor]) -> str | None:
    """What tells that the LoRA's matrices have no place in this base."""
    modules = {name.rpartition(".")[0] for name in base}
    kinds = {_NUMBER.sub(".#.", module) for module in modules}
    for name, tensor in own.items():
        part = _PART.match(name)
        if part is None:
            continue
        module, which = part[1], part[2]
        if module not in modules:
            # Files may name a layer otherwise than transformers does; but not in one layer only.
            if _NUMBER.sub(".#.", module) in kinds:
                return f"it has {name}, and the base no {module}"
            continue
        weight = base.get(f"{module}.weight")
        if weight is None or not weight.is_float or len(weight.shape) != 2 or "embedding" in which:
            continue  # packed weights have other shapes
        out, into = weight.shape
        fits = tensor.shape[-1] == into if which == "A" else tensor.shape[0] == out
        if not fits:
            shapes = f"{list(tensor.shape)}, and the base's {module}.weight {list(weight.shape)}"
            return f"its {name} has the shape {shapes}"
    return None


def _other_values(file: Path, base: dict[str, Tensor]) -> str | None:
    """What tells that it was trained on other weights, by the values that the workbench keeps in base.json."""
    if not file.is_file():
        return None
    from safetensors import safe_open

    for name, value in read_object(file).items():
        tensor = base.get(name)
        if tensor is None or not tensor.is_float:
            continue
        with safe_open(tensor.file, framework="pt") as opened:
            whole = opened.get_slice(name)
            place = math.prod(tensor.shape) // 2
            width = math.prod(tensor.shape[1:])
            row = whole[place // width : place // width + 1]
            found = float(row.reshape(-1)[place % width])
        if not math.isclose(value, found, rel_tol=5e-3, abs_tol=1e-6):  # one rounding to bfloat16
            return f"it was trained on other weights ({name} has a value of {value:.4g}, here {found:.4g})"
    return None
