"""A GGUF file for llama.cpp and Ollama, by auto-round: llama.cpp's own converter, and rounding to the nearest.

auto-round could tune the rounding on a text that it fetches; here it only rounds (`iters=0`). The converter is the
copy that auto-round carries; it is not let fetch a newer one. It knows a tokenizer by what it makes of a test
text, and refuses one that llama.cpp would read otherwise.
"""

import logging
import os
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.models import first_line, load_base, load_tokenizer, quiet_transformers
from workbench.quantization import Size
from workbench.types import Model

_OUTSIDE = ("token_embd.", "output.")  # the tensors of two dimensions that are no linear layers


def write(model: Model, kind: str, folder: Path, dtype: str) -> Path:
    """Fill a folder with the GGUF file and a Modelfile that names it; gives the file.

    Args:
        model: a dense base.
        kind: one of `settings.GGUF_TYPES`.
        folder: which is there, and empty.
        dtype: in which the base is loaded.

    Raises:
        UserError: llama.cpp knows no such model, or not its tokenizer.
    """
    os.environ["AUTO_ROUND_GGUF_AUTO_UPDATE"] = "0"
    from auto_round import AutoRound

    logging.getLogger("autoround").setLevel(logging.CRITICAL)
    weights, tokenizer = load_base(model, dtype, "cpu"), load_tokenizer(model)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            with quiet_transformers(), redirect_stderr(StringIO()):
                rounding = AutoRound(
                    weights,
                    tokenizer,
                    scheme=f"GGUF:{kind.upper()}",
                    iters=0,
                    disable_opt_rtn=True,  # which would fetch a text
                    device_map="cpu",
                )
                rounding.quantize_and_save(scratch, format=f"gguf:{kind}")
        except (NotImplementedError, ValueError, TypeError, SystemExit) as error:  # it exits for an unknown model
            raise UserError(
                f"auto-round cannot write this {weights.config.model_type} model as GGUF: {first_line(error)}"
            ) from error
        [made] = Path(scratch).rglob("*.gguf")
        file = made.rename(folder / f"model-{kind}.gguf")
    (folder / "Modelfile").write_text(f"FROM ./{file.name}\n", encoding="utf-8")
    return file


def linear_size(file: Path) -> Size:
    """What the linear layers take in a GGUF file."""
    from gguf import GGUFReader

    tensors: list[Any] = [
        tensor
        for tensor in GGUFReader(file).tensors
        if len(tensor.shape) > 1 and not tensor.name.startswith(_OUTSIDE)
    ]
    return Size(sum(int(t.n_elements) for t in tensors), sum(int(t.n_bytes) for t in tensors))
