"""A prompt-tuning adapter, for tests that need one without training it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def save_adapter(folder: Path, soft: torch.Tensor, **config: Any) -> Path:
    """A prompt-tuning adapter as PEFT saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": len(soft), "token_dim": soft.shape[1], **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    save_file({"prompt_embeddings": soft}, folder / "adapter_model.safetensors")
    return folder
