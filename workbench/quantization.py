"""Linear layers in 4 or 8 bits with bitsandbytes: NF4 (Dettmers et al. 2023, arXiv 2305.14314, §3), and int8.

The weights of all linear layers are packed but those of the output layer, which most small models share with
their embeddings. `nf4` with double quantisation: blocks of 64 with one 8-bit scale each, and blocks of 256 scales
with one float32 scale: 4.127 bits a parameter. `int8` (Dettmers et al. 2022, arXiv 2208.07339, §2.1): each row of
weights in 8 bits with one float32 scale. A pass dequantises one layer at a time, forward and again backward, and
keeps nothing dense in between.

Three faults of bitsandbytes 0.50 on CPUs are kept out. With AVX512-BF16 it repacks an NF4 layer, at its first pass
in evaluation mode, for a kernel that has no gradient: a model that was asked once and trained then gets wrong
gradients, and no error says so; the repacking also rounds the scales to bfloat16, for good. Layers are kept from
it. Where 64 does not divide a layer's width it reads the wrong scales; such layers stay dense, on GPUs too. And
int8 computes one thing in training, the dequantised weights, and another in evaluation: there it rounds the
activations too, but for columns with an outlier anywhere in the batch, so that an answer depends on what it is
batched with. It is held to the first, which is also faster. So a model computes what its dequantised weights
would, in training and afterwards. On GPUs this holds for NF4; int8 rounds activations there, always.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import UserError, unknown_name
from workbench.files import read_json

QUANTIZATIONS = ("nf4", "int8")

_NEED = "bitsandbytes>=0.50.2,<0.51"
_BLOCK = 64  # of NF4; int8 takes any width

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
    """Arguments with which `from_pretrained` quantises a model while it loads, or reads a quantised one rightly.

    Args:
        name: one of `QUANTIZATIONS`; None loads the weights as they are stored.
        folder: the model's.
        dtype: in which a layer's product is computed.
        device: where the packed weights go.

    Raises:
        UserError: there is no such quantisation, the package that it needs is missing, the model has nothing to
            quantise, or is quantised already.
    """
    if name is not None and name not in QUANTIZATIONS:
        raise unknown_name("quantization", name, QUANTIZATIONS)
    stored = quantized_as(folder)
    if stored is not None:
        if name is not None:
            raise UserError(
                f"The model in {str(folder)!r} is quantised already ({stored}): leave the quantization out."
            )
        return _stored_options(folder, stored, dtype, device)
    if name is None:
        return {}
    _check_installed(name)
    import torch
    from transformers import BitsAndBytesConfig

    skipped = _left_alone(folder, _BLOCK if name == "nf4" else 1)
    if name == "int8":
        settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=name,  # its default is fp4
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            llm_int8_skip_modules=skipped,  # of 4 bits too
        )
    return {"quantization_config": settings, "device_map": {"": device}}


def quantized_as(folder: Path) -> str | None:
    """How a folder's weights are quantised: `bitsandbytes`, `compressed-tensors`, …; None where they are not."""
    config = read_json(folder / "config.json")
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return str(found.get("quant_method", "an unknown method")) if isinstance(found, dict) else None


def _stored_options(folder: Path, stored: str, dtype: str, device: str) -> dict[str, Any]:
    """Arguments for a folder whose weights are quantised already; none where bitsandbytes has no part in it."""
    if stored == "compressed-tensors" and find_spec("compressed_tensors") is None:
        raise UserError(
            f"The weights in {str(folder)!r} are compressed-tensors: serve them with vLLM and use --engine vllm, "
            "or load them in the environment of `make quantize`, whose package compressed-tensors reads them."
        )
    if stored != "bitsandbytes":
        return {}
    _check_installed(f"The model in {str(folder)!r}")
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.quantization_config["bnb_4bit_compute_dtype"] = dtype  # whatever the folder was written in
    return {"config": config, "device_map": {"": device}}


def keep_gradients_right(weights: Any) -> None:
    """Hold a model that bitsandbytes packed to its dequantised weights, in training and in evaluation.

    Raises:
        UserError: on a CPU, 4-bit layers, packed by another tool, whose width their block does not divide.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for name, module in weights.named_modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            block = module.weight.quant_state.blocksize
            if module.in_features % block and module.weight.device.type == "cpu":
                raise UserError(
                    f"{name} is {module.in_features} wide, which the {block} of its 4-bit blocks does not divide: "
                    "bitsandbytes 0.50 reads the wrong scales there on a CPU. Use a GPU, or the model that this "
                    "one was made from, with --quantization nf4."
                )
        elif isinstance(module, Linear8bitLt):
            module.state.__class__ = _training_state()


@contextmanager
def exact_activations(weights: Any) -> Iterator[None]:
    """A model whose compressed-tensors round activations (W8A8) without that, for what compares two of its passes.

    Two right ways of summing in float32 were seen to move such a model's logits by a quarter: a value beside the
    edge of a rounding step falls on either side of it.
    """
    rounding = [module for module in weights.modules() if hasattr(module, "quantization_scheme")]
    for module in rounding:
        module.quantization_enabled = False  # as compressed-tensors reads it; True where it is not there
    try:
        yield
    finally:
        for module in rounding:
            module.quantization_enabled = True


@cache
def _training_state() -> type:
    """bitsandbytes' state of an int8 layer that is always in training, where it multiplies dequantised weights."""
    from bitsandbytes import MatmulLtState

    always = property(lambda self: True, lambda self, value: None)
    return type("TrainingState", (MatmulLtState,), {"is_training": always})


def _check_installed(what: str) -> None:
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{what} needs bitsandbytes, which is not installed: pip install '{_NEED}'.")


def _left_alone(folder: Path, block: int) -> list[str]:
    """Patterns of the linear modules that are not packed: the output, and those that no whole blocks fill.

    Raises:
        UserError: no other is there.
    """
    shapes = without_weights(folder)
    packed = {name for name, layer in linear_layers(shapes).items() if width(layer) % block == 0}
    if not packed:
        why = f": none has a width that {block}, NF4's block, divides" if block > 1 else ""
        raise UserError(
            f"The {shapes.config.model_type} model in {str(folder)!r} has no linear layers to quantise{why}. "
            "Leave the quantization out."
        )
    return [
        f"{re.escape(name)}$"
        for name, module in shapes.named_modules()
        if isinstance(module, _linear_kinds()) and name not in packed
    ]


def without_weights(folder: Path) -> Any:
    """A model's modules with their shapes, and no memory taken for weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def width(layer: Any) -> int:
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

    A packed weight's scales and their offset count; NF4's code books, constants of the method, do not.
    """
    parameters = taken = 0
    for layer in linear_layers(weights).values():
        tensors = [layer.weight]
        if state := getattr(layer.weight, "quant_state", None):
            tensors += [state.absmax, state.state2.absmax, state.offset]
        if hasattr(layer, "state"):  # int8: the scales move at the first pass
            tensors.append(layer.weight.SCB if layer.state.SCB is None else layer.state.SCB)
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
