"""A tuned model of its own as a folder, which is there whole or not at all."""

from pathlib import Path
from typing import Any

from workbench.folders import new_folder
from workbench.models import quiet_transformers


def save_model(weights: Any, tokenizer: Any, folder: Path, precision: str) -> None:
    """Write a model (transformers) with its tokenizer, as safetensors of `bfloat16` or `float32`.

    The weights are cast in place: they are not trained on after this.
    """
    import torch

    with new_folder(folder) as scratch, quiet_transformers():
        weights.to(getattr(torch, precision)).save_pretrained(scratch, safe_serialization=True)
        tokenizer.save_pretrained(scratch)
