"""Vectors of texts by a sentence-transformers model (an extra), for finding near exemplars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import UserError
from workbench.models import model_folder, quiet_transformers

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def sentence_vectors(encoder: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """One vector a text, shape [len(texts), width].

    Args:
        encoder: a folder or a Hub id; only safetensors are loaded, and no code of its own is run.
        texts: longer ones are cut off where the encoder's own limit is.

    Raises:
        UserError: sentence-transformers is not installed, or the encoder is missing, refused or broken.
    """
    model = _load(encoder)
    vectors: NDArray[np.float32] = model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
    return vectors.astype(np.float32)


def _load(encoder: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            "Exemplars by sentence-transformer need a package that is not installed: "
            "pip install 'llm-workbench[sentence-transformers]'."
        ) from error
    folder = model_folder(encoder)
    if not (folder / "modules.json").is_file():
        raise UserError(
            f"{encoder!r} is no sentence-transformers model: it has no modules.json. For the mean of a language "
            "model's own states use --exemplars embedding."
        )
    for part in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
        pickled = sorted(path.name for path in part.iterdir() if path.suffix in _PICKLES)
        if pickled and not any(part.glob("*.safetensors")):
            raise UserError(
                f"The encoder {encoder!r} holds weights only as {pickled[0]}, which can run code when loaded. "
                "Choose one with safetensors."
            )
    try:
        with quiet_transformers():
            return SentenceTransformer(
                str(folder),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as error:  # its modules raise whatever they meet
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"The encoder {encoder!r} cannot be loaded: {type(error).__name__}: {reason}") from error
