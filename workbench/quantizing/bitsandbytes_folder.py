"""Weights that bitsandbytes packed, as a folder that the engine hf loads: schemes nf4 and int8."""

from dataclasses import replace
from pathlib import Path

from workbench.models import load_base, load_tokenizer, quiet_transformers
from workbench.types import Model


def write(model: Model, scheme: str, folder: Path, dtype: str, device: str) -> None:
    """Fill a folder with packed weights, configuration, tokenizer and chat template.

    Args:
        model: a dense base.
        scheme: `nf4` or `int8`.
        folder: which is there, and empty.
        dtype: of what is not packed, and of the products.
        device: where it is packed.

    Raises:
        UserError: the model has nothing to pack.
    """
    weights = load_base(replace(model, quantization=scheme), dtype, device)
    with quiet_transformers():
        weights.save_pretrained(folder)
        load_tokenizer(model).save_pretrained(folder)
