"""What a System costs to make and to use: FLOPs, memory, energy, carbon, and money where a price is given.

FLOPs count a multiply-add as two. They are the formulas of the scaling-law papers, which leave out norms,
softmax and rotary embeddings: a few per cent of what a small model does.
"""

import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from workbench.errors import check_range

CPU_WATTS = 65.0
"""Power that is assumed where no counter can be read: the rating of a common desktop CPU package."""

GRID_KG_PER_KWH = 0.4289
"""Grid intensity: 552 t CO₂e over 1,287 MWh, as Patterson et al. (2021, table 4) give it for GPT-3."""

PUE = 1.0
"""Power usage effectiveness, a building's overhead: 1 is a machine under a desk, data centres 1.1–1.6."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder that its FLOPs and its cache depend on.

    Attributes:
        parameters: all of them, a tied embedding counted once.
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads: query heads a layer.
        kv_heads: key and value heads a layer; fewer than `heads` under grouped-query attention.
        head_dim: width of one head.
    """

    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_range(name, value, 1, 10**15)


def together(shapes: Sequence[ModelShape]) -> ModelShape:
    """What passes through several models cost together, a token each: one shape with their sums.

    FLOPs and keys and values are sums over layers × heads × width, so the sum is written as one layer with heads
    of width 1: `inference_flops` and `kv_cache_bytes` of it are those of the models, added up. A model that is
    passed through twice, with an adapter and without it, is there twice. `hidden` is the first one's.

    Args:
        shapes: at least one.
    """
    return ModelShape(
        parameters=sum(shape.parameters for shape in shapes),
        layers=1,
        hidden=shapes[0].hidden,
        heads=sum(shape.layers * shape.heads * shape.head_dim for shape in shapes),
        kv_heads=sum(shape.layers * shape.kv_heads * shape.head_dim for shape in shapes),
        head_dim=1,
    )


def inference_flops(
    shape: ModelShape, prompt_tokens: float, completion_tokens: float, samples: float = 1
) -> float:
    """FLOPs of answering one question: its prompt once, then `samples` completions of it.

    Each token costs 2N for the weights (Kaplan et al. 2020, §2.1; N is all parameters here, for the output
    layer's product is real work) and, with t tokens in its context (itself among them),
    4·layers·heads·head_dim·t for attention: 2 for the scores QKᵀ and 2 for their product with V (PaLM,
    Chowdhery et al. 2022, appendix B, gives 12·L·H·Q·T with the backward pass: three times that).
    Summed over a growing context: prompt tokens have t = 1…P, completion tokens t = P+1…P+C.

    Args:
        shape: the model's sizes.
        prompt_tokens: P; a mean over questions will do.
        completion_tokens: C, for one sample; a mean over samples will do.
        samples: completions that share this prompt; a mean over questions will do.

    Raises:
        UserError: a count is negative or not finite.
    """
    check_range("prompt_tokens", prompt_tokens, 0, 10**15)
    check_range("completion_tokens", completion_tokens, 0, 10**15)
    check_range("samples", samples, 0, 10**15)
    tokens = prompt_tokens + samples * completion_tokens
    prompt_context = prompt_tokens * (prompt_tokens + 1) / 2
    completion_context = completion_tokens * prompt_tokens + completion_tokens * (completion_tokens + 1) / 2
    context = prompt_context + samples * completion_context
    return 2.0 * shape.parameters * tokens + 4.0 * shape.layers * shape.heads * shape.head_dim * context


def training_flops(
    shape: ModelShape, tokens: float, *, frozen_weights: bool = False, head_only: bool = False
) -> float:
    """FLOPs of training on `tokens` tokens (each pass counted): 6ND, attention left out.

    2ND forward, 2ND for the activations' gradients and 2ND for the weights' (Kaplan et al. 2020, §2.1). With
    `frozen_weights` (LoRA and its kin) the last part is skipped, which leaves 4ND; the adapter's own share
    is left out as too small to see. With `head_only`, an output layer's training, no gradient goes further down:
    2ND.

    Raises:
        UserError: `tokens` is negative or not finite.
    """
    check_range("tokens", tokens, 0, 10**18)
    return (2.0 if head_only else 4.0 if frozen_weights else 6.0) * shape.parameters * tokens


def kv_cache_bytes(shape: ModelShape, tokens: int, bytes_per_value: int = 2) -> int:
    """Bytes of keys and values for `tokens` tokens: 2·bytes·layers·kv_heads·head_dim each (2 bytes: bf16)."""
    check_range("tokens", tokens, 0, 10**15)
    return 2 * bytes_per_value * shape.layers * shape.kv_heads * shape.head_dim * tokens


def chinchilla_loss(parameters: float, tokens: float) -> float:
    """Predicted pre-training loss in nats a token: 1.69 + 406.4/N^0.34 + 410.7/D^0.28.

    Hoffmann et al. 2022, appendix D.3, for N parameters trained on D tokens.
    """
    check_range("parameters", parameters, 1, 1e18)
    check_range("tokens", tokens, 1, 1e18)
    return float(1.69 + 406.4 / parameters**0.34 + 410.7 / tokens**0.28)


def carbon_kg(watt_hours: float, grid_kg_per_kwh: float = GRID_KG_PER_KWH, pue: float = PUE) -> float:
    """Kilograms of CO₂e: energy × PUE × grid intensity (Patterson et al. 2021)."""
    check_range("watt_hours", watt_hours, 0, 1e15)
    check_range("grid_kg_per_kwh", grid_kg_per_kwh, 0, 10)
    check_range("pue", pue, 1, 10)
    return watt_hours / 1000 * pue * grid_kg_per_kwh


def money(seconds: float, price_per_hour: float) -> float:
    """Price of renting the machine for `seconds`, in whatever currency the user's price is in."""
    check_range("price_per_hour", price_per_hour, 0, 1e9)
    return seconds / 3600 * price_per_hour


class EnergyMeter:
    """Time, energy and peak memory of a `with` block.

    Energy is the GPUs' own counter (NVML) where it can be read: whole boards, all that `CUDA_VISIBLE_DEVICES`
    leaves visible, without the CPU and whoever else uses them included. Elsewhere it is wall time × `watts`.

    After the block:
        seconds: wall time.
        watt_hours: energy.
        source: "nvml counter", or "estimated at 65 W".
        peak_memory_bytes: most GPU memory allocated by torch inside the block; without a GPU in use, the
            process's peak resident set, which counts from the process's start. A meter inside another
            one's block resets the outer one's GPU peak.
    """

    def __init__(self, watts: float = CPU_WATTS) -> None:
        check_range("watts", watts, 0, 1e7)
        self._watts = watts
        self.seconds = 0.0
        self.watt_hours = 0.0
        self.source = f"estimated at {watts:g} W"
        self.peak_memory_bytes = 0

    def __enter__(self) -> Self:
        cuda = _cuda_in_use()
        if cuda is not None:
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)
        self._joules_before = _gpu_joules()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.watt_hours = self._energy(self.seconds)
        self.peak_memory_bytes = peak_memory_bytes()

    def watt_hours_so_far(self) -> float:
        """Energy since the block began."""
        return self._energy(time.perf_counter() - self._started)

    def _energy(self, seconds: float) -> float:
        joules = None if self._joules_before is None else _gpu_joules()
        if self._joules_before is not None and joules is not None:
            self.source = "nvml counter"
            return (joules - self._joules_before) / 3600
        return self._watts * seconds / 3600


def _gpu_joules() -> float | None:
    """Energy that the visible GPUs have used since their driver was loaded; None where it cannot be read."""
    try:
        pynvml = import_module("pynvml")  # of nvidia-ml-py, which is not among our needs
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return None
    try:
        # NVML numbers every board of the machine, so the variable is read here.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            names = [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
        else:
            names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in names
        ]
        millijoules = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
    except pynvml.NVMLError:  # a board before Volta, or a slice of one
        return None
    finally:
        pynvml.nvmlShutdown()
    return sum(millijoules) / 1000 if millijoules else None


def _cuda_in_use() -> Any:
    """`torch.cuda` if this process already runs something on a GPU, else None; never imports torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def peak_memory_bytes() -> int:
    """Most GPU memory allocated by torch; without a GPU in use, the process's peak resident set."""
    cuda = _cuda_in_use()
    if cuda is not None:
        return sum(int(cuda.max_memory_allocated(device)) for device in range(cuda.device_count()))
    # Not ru_maxrss where it can be helped: Linux has a process begin with its parent's.
    if (status := Path("/proc/self/status")).is_file():
        told = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if told is not None:
            return int(told[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB
