"""What the canaries compare a server with: the same model in transformers, on the CPU, where it fits in memory."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.adapters import with_adapter
from workbench.errors import UserError
from workbench.identity import folder_hash
from workbench.models import load_base, model_folder, read_object
from workbench.server_state import ServerState
from workbench.serving.asking import Ids
from workbench.serving.canaries import BOUNDS, QUANTIZED, Rows
from workbench.serving.tensors import bytes_as
from workbench.types import Model

_ROOM = 2**30  # for activations and logits, beside the weights


class Reference:
    """The base in transformers, with one adapter at a time.

    Args:
        base: its folder.
        adapters: by served name, each one's kind and folder.
        dtype: of the weights.
    """

    def __init__(self, base: Path, adapters: Mapping[str, tuple[str, str]], dtype: str) -> None:
        self._model, self._adapters, self._dtype = Model(str(base)), adapters, dtype

    @cached_property
    def _base(self) -> Any:
        return load_base(self._model, self._dtype, "cpu").eval()

    def score(self, name: str, prompts: Sequence[Ids], answers: Sequence[Ids]) -> tuple[Rows, Rows]:
        """Each answer's tokens: their log-probabilities behind the prompt, and those of the likeliest tokens.

        Raises:
            UserError: the adapter does not fit the base.
        """
        kind, folder = self._adapters.get(name, ("", ""))
        if not folder:
            return _score(self._base, prompts, answers)
        adapted = with_adapter(self._base, Model(self._model.base, adapter=folder)).eval()
        scored = _score(adapted, prompts, answers)
        if kind == "LORA":
            adapted.unload()  # out of the base, in place
        return scored


def _score(weights: Any, prompts: Sequence[Ids], answers: Sequence[Ids]) -> tuple[Rows, Rows]:
    import torch

    scored: Rows = []
    best: Rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = weights(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
        logprobs_TV = torch.log_softmax(logits[-len(answer) - 1 : -1].float(), -1)
        scored.append(logprobs_TV.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist())
        best.append(logprobs_TV.max(-1).values.tolist())
    return scored, best


def find_reference(state: ServerState) -> tuple[Reference | None, Mapping[str, float], str]:
    """(the reference, the bounds that go with it, a note where there is none) of a server.

    A folder that `workbench quantize` wrote says in quantization.json what it was made from: the reference.
    """
    import psutil

    folder, bounds = Path(state.folder), BOUNDS
    if "quantization_config" in read_object(folder / "config.json"):
        bounds = QUANTIZED
        try:
            folder = _dense(folder)
        except UserError as error:
            return None, bounds, f"compared with itself only: {error}"
    dtype = "float32" if state.dtype == "float32" else "bfloat16"
    need, free = bytes_as(folder, dtype) + _ROOM, psutil.virtual_memory().available
    if need > free:
        sizes = f"{need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        return None, bounds, f"compared with itself only: the engine hf would need {sizes}"
    adapters = {name: (served.kind, served.folder) for name, served in state.adapters.items()}
    return Reference(folder, adapters, dtype), bounds, ""


def _dense(folder: Path) -> Path:
    """What a quantised model was made from.

    Raises:
        UserError: it does not say (a base that was a folder has no name), or that cannot be had as it was.
    """
    card = folder / "quantization.json"
    told = read_object(card) if card.is_file() else {}
    base, revision = told.get("base"), told.get("revision")
    if not isinstance(base, str):
        raise UserError("the model is quantised, and does not say by name from what")
    dense = model_folder(base, revision if isinstance(revision, str) else None)
    if told.get("base_hash") not in (None, folder_hash(dense)):
        raise UserError(f"the model was quantised from other weights than {base!r} has here")
    return dense
