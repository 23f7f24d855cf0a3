"""A model quantised into a folder: what cannot work is said first, perplexity is measured before and after."""

import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from workbench.errors import UserError, unknown_name
from workbench.files import write_atomic, write_json
from workbench.folders import check_free, new_folder
from workbench.forgetting import Losses, read_paragraphs, text_losses
from workbench.models import convert_gguf, first_line, model_folder
from workbench.progress import Bar
from workbench.prompts import load_prompt
from workbench.proxy import check_one
from workbench.quantization import Size, linear_layers, linear_size, quantized_as, without_weights
from workbench.quantizing import bitsandbytes_folder, calibration, compressed, gguf_file
from workbench.quantizing.card import Measured, card, record
from workbench.quantizing.schemes import SCHEMES
from workbench.quantizing.settings import GGUF_TYPES, GROUP_SIZES, Settings
from workbench.tasks.base import Task
from workbench.types import Model

_ONLY = {"samples": ("w4a16", "w8a8"), "prompt": ("w4a16", "w8a8"), "group_size": ("w4a16",), "gguf": ("gguf",)}


@dataclass(frozen=True)
class _Plan:
    """What is seen before any work: of the base its folder, dtype and linear layers, and what the scheme takes."""

    folder: Path
    dtype: str
    layers: dict[str, Any]
    group_size: int | None
    data: calibration.Calibration | None


def check(model: Model, scheme: str, settings: Settings, out: Path) -> None:
    """Refuse what no hours of work would mend; `quantize` begins with it.

    Raises:
        UserError: the scheme or a setting does not exist or does not go with it; the model has an adapter, or is
            quantised; `out` is taken; the environment lacks the library.
    """
    check_one(model, "quantised as one")
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, SCHEMES)
    for name, schemes in _ONLY.items():
        if getattr(settings, name) is not None and scheme not in schemes:
            raise UserError(f"{name} is for the scheme {' and '.join(schemes)}, and the scheme is {scheme}.")
    for name, known in (("gguf", GGUF_TYPES), ("group_size", GROUP_SIZES)):
        if (value := getattr(settings, name)) is not None and value not in known:
            raise unknown_name(name, str(value), map(str, known))
    if model.adapter is not None or (Path(model.base) / "adapter_config.json").is_file():
        raise UserError(
            f"{model.adapter or model.base!r} is an adapter, and a whole model is quantised: merge it into its "
            "base first (`workbench adapter merge --run NAME --out FOLDER`, or --adapter with its --model), then "
            "quantise that folder."
        )
    if model.quantization is not None:
        raise UserError(f"--quantization {model.quantization} packs a model as it loads: here say --scheme.")
    check_free(out)
    package = SCHEMES[scheme].package
    if package is not None and find_spec(package) is None:
        raise UserError(
            f"The scheme {scheme} needs {package}, which holds transformers back and so has an environment of its "
            "own: `make quantize`, then `.venv-quantize/bin/workbench quantize …`; without make, "
            "pip install 'llm-workbench[quantize]' in a new environment."
        )


def quantize(
    model: Model, scheme: str, out: Path, settings: Settings, task: Task | None, command: str, *, quiet: bool
) -> dict[str, Any]:
    """Make the folder: weights, tokenizer, `quantization.json`, and a card. Gives what quantization.json holds.

    Args:
        model: a dense base.
        scheme: one of `SCHEMES`.
        out: the folder to make; it appears when all of it is there.
        settings: how.
        task: whose practice split the scheme is calibrated on, where it is.
        command: that made it, for the card.
        quiet: no progress bars.

    Raises:
        UserError: as `check`; or `out` is within the base's folder; or the base cannot be loaded, has no layers
            that the scheme could quantise, or is refused by the library.
    """
    check(model, scheme, settings, out)
    plan = _plan(model, scheme, settings, task)
    if out.resolve().is_relative_to(plan.folder.resolve()):
        raise UserError(f"{str(out)!r} is within the folder of the model that is quantised: name another.")
    paragraphs, whole = read_paragraphs(settings.text), _bytes(plan.folder)
    before, dense = _losses(model, plan.dtype, paragraphs, "perplexity before", quiet)
    with new_folder(out) as scratch:
        with Bar(f"layers to {scheme}", quiet=quiet) as bar:
            about = _write(model, scheme, settings, plan, scratch, bar)
        after, packed = _after(scratch, scheme, plan, paragraphs, quiet)
        sizes = (dense, packed, whole, _bytes(scratch))
        measured = Measured(before, after, *sizes, text=settings.text.name if settings.text else None)
        told = record(model, scheme, plan.dtype, about, measured)
        write_json(scratch / "quantization.json", told)
        write_atomic(scratch / "README.md", card(model, told, measured, command))
    return told


def _plan(model: Model, scheme: str, settings: Settings, task: Task | None) -> _Plan:
    """Everything that can be seen from the base's shapes and the task's examples."""
    folder = model_folder(model.base, model.revision)
    if (stored := quantized_as(folder)) is not None:
        raise UserError(
            f"The model {model.base!r} is quantised already ({stored}), and what was rounded away is lost. Name "
            "the model that it was made from."
        )
    try:
        shapes = without_weights(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"The model in {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    layers = linear_layers(shapes)
    if not layers:
        raise UserError(f"The model {model.base!r} ({shapes.config.model_type}) has no linear layers to quantise.")
    dtype = str(shapes.config.dtype or "float32").removeprefix("torch.")
    if not SCHEMES[scheme].calibrated:
        return _Plan(folder, dtype, layers, None, None)
    if odd := [name for name, layer in layers.items() if not hasattr(layer, "in_features")]:
        raise UserError(
            f"{odd[0]} keeps its weight transposed (Conv1D, as in GPT-2), which llmcompressor passes over. "
            "--scheme int8 or gguf takes it."
        )
    group = compressed.group_of(layers, settings.group_size) if scheme == "w4a16" else None
    assert task is not None, "a scheme that is calibrated needs a task"
    prompt = load_prompt(settings.prompt or task.prompt)
    samples = 256 if settings.samples is None else settings.samples
    return _Plan(folder, dtype, layers, group, calibration.calibration(model, task, prompt, samples))


def _write(
    model: Model, scheme: str, settings: Settings, plan: _Plan, scratch: Path, bar: Bar
) -> Mapping[str, Any]:
    """Fill the folder, and give what the record tells of how it was done."""
    if scheme in ("nf4", "int8"):
        bitsandbytes_folder.write(model, scheme, scratch, plan.dtype, _device())
        return {"method": "rounded to the nearest", "group_size": 64 if scheme == "nf4" else None}
    if scheme == "gguf":
        kind = settings.gguf or GGUF_TYPES[0]
        gguf_file.write(model, kind, scratch, plan.dtype)
        return {"method": "rounded to the nearest", "gguf": kind}
    assert plan.data is not None
    about = compressed.write(model, scheme, scratch, plan.dtype, plan.group_size, plan.data, bar.show)
    return about | {"group_size": plan.group_size, "calibration": plan.data.record}


def _after(
    folder: Path, scheme: str, plan: _Plan, paragraphs: tuple[str, ...], quiet: bool
) -> tuple[Losses, Size]:
    """Losses of what was written, read back from its files, and what its linear layers take there."""
    label = "perplexity after"
    if scheme == "gguf":
        [file] = folder.glob("*.gguf")
        with tempfile.TemporaryDirectory(dir=folder) as dense:
            with redirect_stderr(StringIO()):  # a bar of its own
                convert_gguf(file, Path(dense))
            losses, _ = _losses(Model(dense), plan.dtype, paragraphs, label, quiet)
        return losses, gguf_file.linear_size(file)
    losses, size = _losses(Model(str(folder)), plan.dtype, paragraphs, label, quiet)
    return losses, size if scheme in ("nf4", "int8") else compressed.linear_size(folder, plan.layers)


def _losses(model: Model, dtype: str, paragraphs: tuple[str, ...], label: str, quiet: bool) -> tuple[Losses, Size]:
    from workbench.engines.hf import HfEngine

    with redirect_stderr(StringIO()):  # bars of unpacking
        engine = HfEngine(model, dtype=dtype)
    try:
        with Bar(label, quiet=quiet) as bar:
            return text_losses(engine, paragraphs, bar.show), linear_size(engine.weights)
    finally:
        engine.close()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _bytes(folder: Path) -> int:
    """What a folder's files take, all together."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
