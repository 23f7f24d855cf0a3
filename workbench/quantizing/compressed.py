"""Weights as compressed-tensors, which vLLM serves: schemes w4a16 and w8a8, by llmcompressor's `oneshot`.

Both round with GPTQ (Frantar et al. 2023, arXiv 2210.17323): column after column, what rounding one column cost is
made up for in the columns behind it, as far as the calibration examples tell. w8a8 rounds activations too, and
moves their outliers into the weights first (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438, with strength 0.8),
where the model is built so that this changes nothing else. The output layer stays as it is.

What the examples do not show, GPTQ gives up. The embedded model in 4 bits, calibrated on 64 examples of
arithmetic, against plain rounding: loss of 100 other practice answers 0.93 against 1.86 nats a token (dense 1.03),
perplexity of general text 94 against 74 (dense 59).
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.models import context_of, first_line, load_base, load_tokenizer, quiet_transformers
from workbench.quantization import Size, linear_layers, width
from workbench.quantizing.calibration import Calibration
from workbench.quantizing.settings import GROUP_SIZES
from workbench.types import Model

_NORMS = ("input_layernorm", "post_attention_layernorm")
_SMOOTHED = {"self_attn", "mlp", *_NORMS}


def group_of(layers: dict[str, Any], asked: int | None) -> int:
    """How many weights of a row share a scale: what is asked for, else the largest size that divides every width.

    Raises:
        UserError: it does not divide a layer's width, or no size does.
    """
    widths = {name: width(layer) for name, layer in layers.items()}
    fitting = [size for size in GROUP_SIZES if not any(wide % size for wide in widths.values())]
    if asked is None and fitting:
        return fitting[0]
    if asked in fitting:
        return asked
    odd = next((name, wide) for name, wide in widths.items() if wide % (asked or GROUP_SIZES[-1]))
    there = f"Sizes that fit: {', '.join(map(str, fitting))}." if fitting else "--scheme w8a8 takes any width."
    raise UserError(
        f"group_size {asked or GROUP_SIZES[-1]} does not divide {odd[0]}, which is {odd[1]} wide. {there}"
    )


def write(
    model: Model, scheme: str, folder: Path, dtype: str, group_size: int | None, data: Calibration,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:  # fmt: skip
    """Fill a folder with compressed weights, configuration, tokenizer and chat template.

    Args:
        model: a dense base.
        scheme: `w4a16` or `w8a8`.
        folder: which is there, and empty.
        dtype: of what is not quantised.
        group_size: for w4a16.
        data: what it is calibrated on.
        progress: called with (layers done, layers).

    Returns:
        What the result's record tells of the method.

    Raises:
        UserError: llmcompressor cannot do it with this model.
    """
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")  # else hundreds of lines
    from datasets import Dataset
    from llmcompressor import oneshot
    from loguru import logger

    weights, tokenizer = load_base(model, dtype, "cpu"), load_tokenizer(model)
    total, done, shown = len(linear_layers(weights)), 0, sys.stderr

    def count(message: str) -> None:
        nonlocal done
        if found := re.search(r"Quantizing (\d+) module", message):
            with redirect_stderr(shown):
                progress(done := done + int(found[1]), total)

    recipe, record = _recipe(scheme, group_size, weights)
    rows = Dataset.from_list([{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in data.rows])
    listening = logger.add(count, format="{message}")
    logging.disable(logging.WARNING)
    try:
        with quiet_transformers(), redirect_stderr(StringIO()):
            oneshot(
                model=weights,
                tokenizer=tokenizer,
                dataset=rows,
                recipe=recipe,
                num_calibration_samples=len(rows),
                shuffle_calibration_samples=False,
                max_seq_length=context_of(weights),
            )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        kind = weights.config.model_type
        raise UserError(f"llmcompressor cannot make {scheme} of this {kind} model: {first_line(error)}") from error
    finally:
        logging.disable(logging.NOTSET)
        logger.remove(listening)
    with quiet_transformers(), redirect_stderr(StringIO()):
        weights.save_pretrained(folder, save_compressed=True)
        tokenizer.save_pretrained(folder)
    (folder / "recipe.yaml").unlink(missing_ok=True)  # it names Python objects, which a reader would have to run
    return record


def _recipe(scheme: str, group_size: int | None, weights: Any) -> tuple[list[Any], dict[str, Any]]:
    """llmcompressor's modifiers, and what the record tells of them."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    output = [name for name, module in weights.named_modules() if module is weights.get_output_embeddings()]
    if scheme == "w4a16":
        grouped = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
        groups = {"group_0": {"targets": ["Linear"], "weights": grouped}}
        return [GPTQModifier(config_groups=groups, ignore=output)], {"method": "GPTQ"}
    rounding = GPTQModifier(targets="Linear", scheme="W8A8", ignore=output)
    if not _smooths(weights):
        return [rounding], {"method": "GPTQ"}
    return [SmoothQuantModifier(smoothing_strength=0.8), rounding], {"method": "SmoothQuant 0.8, GPTQ"}


def _smooths(weights: Any) -> bool:
    """Whether each layer's two norms feed its q, k, v and its gate, up, as SmoothQuant's defaults take it.

    A norm without a weight, as OLMo's, has nothing that could be divided.
    """
    layers = getattr(weights.get_decoder(), "layers", ())
    return len(layers) > 0 and all(
        {name for name, _ in layer.named_children()} == _SMOOTHED
        and all(getattr(layer.get_submodule(name), "weight", None) is not None for name in _NORMS)
        and all(hasattr(layer.self_attn, name) for name in ("q_proj", "k_proj", "v_proj"))
        and all(hasattr(layer.mlp, name) for name in ("gate_proj", "up_proj"))
        for layer in layers
    )


def linear_size(folder: Path, layers: dict[str, Any]) -> Size:
    """What the linear layers take in a folder's files: packed weights, scales, shapes.

    Args:
        folder: as `write` filled it.
        layers: the base's linear layers, by their names.
    """
    from safetensors import safe_open

    taken = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                layer, _, kind = name.rpartition(".")
                if layer in layers and kind != "bias":
                    taken += file.get_tensor(name).nbytes
    return Size(sum(layer.weight.numel() for layer in layers.values()), taken)
