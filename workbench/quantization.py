"""Linear layers in 4 bits: NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314, §3).

bitsandbytes packs the weights of all linear layers but the output layer, which most small models share with their
embeddings: blocks of 64 with one 8-bit scale each, and blocks of 256 scales with one float32 scale: 4.127 bits a
parameter. A pass dequantises one layer at a time, forward and again backward, and keeps nothing dense in between.

Two faults of bitsandbytes 0.50 on CPUs are kept out. With AVX512-BF16 it repacks a layer, at its first pass in
evaluation mode, for a kernel that has no gradient: a model that was asked once and trained then gets wrong
gradients, and no error says so; the repacking also rounds the scales to bfloat16, for good. Layers are kept from
it. And where 64 does not divide a layer's width it reads the wrong scales; such layers stay dense, on GPUs too.
So a model computes what its dequantised weights would, in training and afterwards.
"""

import logging
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import UserError, unknown_name

QUANTIZATIONS = ("nf4",)

_NEED = "bitsandbytes>=0.50.2,<0.51"
_BLOCK = 64

# On being imported, by PEFT too, it warns of a kernel that is not used here.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Size:
    """What the weights of a model's linear layers take; their biases and the output layer are left out."""

    parameters: int
    bytes: int

    @property
    def bits(self) -> float:
        """Bits a parameter."""
        return 8 * self.bytes / self.parameters


def loading_options(name: str | None, folder: Path, dtype: str, device: str) -> dict[str, Any]:
    """Arguments with which transformers' `from_pretrained` quantises a model while it loads; none for no name.

    Args:
        name: one of `QUANTIZATIONS`, or None.
        folder: the model's.
        dtype: in which a layer's product is computed.
        device: where the packed weights go.

    Raises:
        UserError: there is no such quantisation, bitsandbytes is missing, or the model has nothing to quantise.
    """
    if name is None:
        return {}
    if name not in QUANTIZATIONS:
        raise unknown_name("quantization", name, QUANTIZATIONS)
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{name} needs bitsandbytes, which is not installed: pip install '{_NEED}'.")
    import torch
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name,  # its default is fp4
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=_left_alone(folder),  # of 4 bits too
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def keep_gradients_right(weights: Any) -> None:
    """Hold a model that was loaded with `loading_options` back from the kernel without gradients."""
    from bitsandbytes.nn import Linear4bit

    for module in weights.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _left_alone(folder: Path) -> list[str]:
    """Patterns of the linear modules that are not packed: the output layer, and widths that 64 does not divide.

    Raises:
        UserError: no other is there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):  # its shapes without its weights
        shapes = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    packed = {name for name, layer in linear_layers(shapes).items() if _width(layer) % _BLOCK == 0}
    if not packed:
        raise UserError(
            f"The {config.model_type} model in {str(folder)!r} has no linear layers to quantise: none has a width "
            f"that {_BLOCK}, NF4's block, divides. Leave the quantization out."
        )
    return [
        f"{re.escape(name)}$"
        for name, module in shapes.named_modules()
        if isinstance(module, _linear_kinds()) and name not in packed
    ]


def _width(layer: Any) -> int:
    """How many numbers a linear layer reads."""
    return int(getattr(layer, "in_features", layer.weight.shape[0]))  # Conv1D's weight is transposed


def _linear_kinds() -> tuple[type, ...]:
    import torch
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers, transposed

    return torch.nn.Linear, Conv1D


def linear_layers(weights: Any) -> dict[str, Any]:
    """A model's linear layers but its output layer, by their names: what is quantised, and what LoRA adapts."""
    output = weights.get_output_embeddings()
    return {
        name: module
        for name, module in weights.named_modules()
        if isinstance(module, _linear_kinds()) and module is not output
    }


def parameters_in(tensor: Any) -> int:
    """How many parameters a tensor holds: more than its elements where it is packed."""
    state = getattr(tensor, "quant_state", None)
    return int(tensor.numel() if state is None else state.shape.numel())


def linear_size(weights: Any) -> Size:
    """Parameters and bytes of the linear layers' weights, counted on the tensors themselves.

    A packed weight's scales and their offset count; the code books, constants of the method, do not.
    """
    parameters = taken = 0
    for layer in linear_layers(weights).values():
        tensors = [layer.weight]
        if state := getattr(layer.weight, "quant_state", None):
            tensors += [state.absmax, state.state2.absmax, state.offset]
        parameters += parameters_in(layer.weight)
        taken += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Size(parameters, taken)


def round_to_int4(weights: Any) -> None:
    """Round the linear layers' weights to 4-bit integers and back, in place: what NF4 is compared with.

    Symmetric absmax quantisation: in each block of 64 the largest magnitude becomes 7, all others the nearest of
    the 15 integers from -7 to 7. The scales are not rounded.
    """
    import torch

    for layer in linear_layers(weights).values():
        with torch.no_grad():
            layer.weight.copy_(int4_and_back(layer.weight))


def int4_and_back(weight: Any) -> Any:
    """A tensor as int4 absmax would keep it, float32; see `round_to_int4`."""
    import torch

    flat = weight.detach().float().reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % _BLOCK)).reshape(-1, _BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 7
    return ((blocks / scale).round() * scale).reshape(-1)[: flat.numel()].reshape(weight.shape)
