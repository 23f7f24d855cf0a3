"""What would make a server fail, found before it is started: each refusal names the field and the mend."""

import ipaddress
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.models import model_folder, read_object
from workbench.server_state import read_states
from workbench.serving.adapters import LORA, SOFT, Adapter, read_adapters, smallest_rank
from workbench.serving.config import KEY, ServeConfig, api_key, port_of
from workbench.serving.fit import modules_of, outside_modules
from workbench.serving.interpreter import Build, find_build
from workbench.serving.tensors import bytes_as

_GIB = 2**30
_SHARE = 0.92  # of a GPU's memory, vLLM 0.32's own default (vllm/config/cache.py)
_BESIDE = 2 * _GIB  # of a CPU server's processes, beside weights and cache: 1.6 seen

_UNREAD = ("bitsandbytes", "hqq", "aqlm", "eetq", "quanto", "vptq", "spqr", "higgs", "bitnet")
"""Quantisations that transformers reads and vLLM 0.32 does not."""

_WHOLE = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Kinds of RoPE whose max_position_embeddings is scaled already: vLLM 0.32 applies no factor to it
(vllm/config/model.py: _get_and_verify_max_len)."""


@dataclass(frozen=True)
class Plan:
    """A start that nothing speaks against.

    Attributes:
        config: what was asked for.
        build: the interpreter and its vLLM.
        folder: the base's files.
        adapters: LoRAs and soft prompts.
        rank: the largest that the server takes; 0 for no LoRA.
        modules: that LoRAs may be on; empty for all that vLLM has.
        embeds: whether it takes embeddings.
        key: that it wants.
    """

    config: ServeConfig
    build: Build
    folder: Path
    adapters: tuple[Adapter, ...]
    rank: int
    modules: tuple[str, ...]
    embeds: bool
    key: str | None

    @property
    def loras(self) -> list[Adapter]:
        """The adapters that the server itself loads."""
        return [adapter for adapter in self.adapters if adapter.kind == LORA]


def check(config: ServeConfig) -> Plan:
    """Everything that can be known before the start.

    Raises:
        UserError: what would fail, by the name of its field.
    """
    key = api_key()
    _check_host(config, key)
    _check_port(config)
    build = find_build(config.python)
    folder = model_folder(config.model, config.revision)
    _check_model(folder, config)
    adapters = tuple(read_adapters(config.adapters, config.model, folder))
    rank = smallest_rank(adapters, config.max_lora_rank)
    embeds = config.prompt_embeds or any(adapter.kind == SOFT for adapter in adapters)
    if embeds and not config.prompt_embeds and not config.is_local:
        raise UserError(
            f"A soft prompt needs a server that loads the tensors its users send, and host {config.host!r} is "
            "open to others than this machine. Where all who can reach it are trusted, say --prompt-embeds."
        )
    modules = tuple(check_modules(folder, adapters)) if rank and build.kind == "cpu" else ()
    if build.kind == "cpu":
        _check_cpu_memory(config, folder)
    else:
        _check_gpus(config, folder)
    return Plan(config, build, folder, adapters, rank, modules, embeds, key)


def check_modules(base: Path, adapters: tuple[Adapter, ...]) -> list[str]:
    """The layers that LoRAs may be on, of a server on a CPU: those within the base's blocks.

    With LoRA on the output layer, vLLM 0.32 on a CPU dies of the first request for a prompt's log-probabilities.

    Raises:
        UserError: an adapter is on another.
    """
    modules = modules_of(base)
    for adapter in adapters:
        if adapter.kind == LORA and (other := outside_modules(adapter.folder, modules)):
            raise UserError(
                f"The adapter {str(adapter.folder)!r} is on {other} (adapter_config.json: target_modules), where "
                "vLLM 0.32 cannot serve it on a CPU. Merge it (`workbench adapter merge`), or use --engine hf."
            )
    return modules


def _check_host(config: ServeConfig, key: str | None) -> None:
    try:
        if config.host != "localhost":
            ipaddress.ip_address(config.host)
    except ValueError:
        raise UserError(
            f"host is {config.host!r}, which is no address: say 127.0.0.1 for this machine, or 0.0.0.0 for all."
        ) from None
    if not config.is_local and key is None:
        raise UserError(
            f"host is {config.host!r}, so others than this machine could use the server, and no key is set. Put "
            f"one into the environment variable {KEY}, or leave the host at 127.0.0.1."
        )
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(f"{KEY} holds a space or a character that no HTTP header can carry.")


def _check_port(config: ServeConfig) -> None:
    """See that the port is free; a server of ours that died there is no hindrance."""
    port = port_of(config)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            whose = next((s for s in read_states(port) if s.health != "dead"), None)
            by = f" by the server of {whose.model!r} (`workbench serve stop --port {port}`)" if whose else ""
            raise UserError(
                f"port {port} cannot be had at {config.host}{by}: {reason}. Say another --port."
            ) from None
    # It may be starting, and not listen yet.
    starting = next((s for s in read_states(port) if s.health != "dead"), None)
    if starting is not None:
        raise UserError(
            f"port {port} is that of the server of {starting.model!r}, which is {starting.health}. Say another "
            f"--port, or `workbench serve stop --port {port}`."
        )


def _check_model(folder: Path, config: ServeConfig) -> None:
    told = read_object(folder / "config.json")
    quantization = _object(told, "quantization_config", folder)
    method = quantization.get("quant_method")
    # Quantised with bitsandbytes in its older form, which names no method.
    older = any(quantization.get(k) for k in ("load_in_4bit", "load_in_8bit"))
    if method in _UNREAD or (method is None and older):
        raise UserError(
            f"The model in {str(folder)!r} is quantised with {method or 'bitsandbytes'} (config.json: "
            "quantization_config), which vLLM 0.32 cannot read. Use --engine hf, or serve one in GPTQ, AWQ or "
            "compressed-tensors (`workbench quantize --help`)."
        )
    text = _object(told, "text_config", folder) or told
    _check_heads(text, config)
    longest = _longest(text)
    if longest is not None and config.max_model_len is not None and config.max_model_len > longest:
        raise UserError(
            f"max_model_len is {config.max_model_len}; the model takes {longest:.0f} tokens (config.json)."
        )


def _object(told: dict[str, Any], field: str, folder: Path) -> dict[str, Any]:
    """A field of config.json that holds an object; empty where it is missing or null."""
    value = told.get(field)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{folder / 'config.json'}: {field} holds {type(value).__name__}, not an object.")
    return value or {}


def _check_heads(told: dict[str, Any], config: ServeConfig) -> None:
    heads, layers = told.get("num_attention_heads"), told.get("num_hidden_layers")
    if isinstance(heads, int) and heads % config.tensor_parallel:
        raise UserError(
            f"tensor_parallel is {config.tensor_parallel}, which does not divide the model's {heads} attention "
            "heads."
        )
    if isinstance(layers, int) and config.pipeline_parallel > layers:
        raise UserError(f"pipeline_parallel is {config.pipeline_parallel}; the model has {layers} layers.")


def _longest(told: dict[str, Any]) -> float | None:
    """The most tokens that vLLM lets the model have, by its RoPE's factor too; None where unknown."""
    longest = told.get("max_position_embeddings")
    if not isinstance(longest, int):
        return None
    scaling = told.get("rope_scaling") or told.get("rope_parameters")
    if not isinstance(scaling, dict) or "gemma3" in str(told.get("model_type")):
        return longest
    factor: float = 1
    # One for all layers, or one for each type of layer.
    for rope in [part for part in scaling.values() if isinstance(part, dict)] or [scaling]:
        found = rope.get("factor")
        if rope.get("rope_type", rope.get("type")) not in _WHOLE and isinstance(found, int | float):
            factor = found
    return longest * max(1, factor)


def cache_bytes_per_token(told: dict[str, Any], dtype: str) -> int | None:
    """Bytes of keys and values of one token; None where the config does not say all of it."""
    text = told.get("text_config") or told
    layers, heads, hidden = (text.get(k) for k in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int) and heads):
        return None
    kv_heads = text.get("num_key_value_heads") or heads
    width = text.get("head_dim") or hidden // heads
    if not (isinstance(kv_heads, int) and isinstance(width, int)):
        return None
    return int(2 * layers * kv_heads * width * (4 if dtype == "float32" else 2))


def _check_cpu_memory(config: ServeConfig, folder: Path) -> None:
    import psutil

    told = read_object(folder / "config.json")
    each = cache_bytes_per_token(told, config.dtype)
    longest = config.max_model_len or (told.get("text_config") or told).get("max_position_embeddings")
    if each is not None and isinstance(longest, int) and each * longest > config.kv_cache * _GIB:
        fits = config.kv_cache * _GIB // each
        raise UserError(
            f"kv_cache is {config.kv_cache} GiB, which holds {fits} tokens of this model, and max_model_len is "
            f"{longest}. Say --max-model-len {fits} at most, or --kv-cache {-(-each * longest // _GIB)}."
        )
    weights = bytes_as(folder, config.dtype)
    need = (weights + config.kv_cache * _GIB) * config.data_parallel + _BESIDE
    free = psutil.virtual_memory().available
    if need > free:
        raise UserError(
            f"The server would need about {need / _GIB:.1f} GiB of memory ({weights / _GIB:.1f} for the weights, "
            f"{config.kv_cache} for keys and values: kv_cache), and {free / _GIB:.1f} GiB are free. Lower "
            "--kv-cache, serve a smaller or quantised model, or close programs."
        )


def _check_gpus(config: ServeConfig, folder: Path) -> None:
    """Against what the driver tells of this machine's GPUs; nothing where it tells nothing."""
    gpus = _gpu_memory()
    each = config.tensor_parallel * config.pipeline_parallel
    if not gpus:
        return
    if config.executor != "ray" and each * config.data_parallel > len(gpus):
        raise UserError(
            f"tensor_parallel × pipeline_parallel × data_parallel is {each * config.data_parallel}, and this "
            f"machine has {len(gpus)} GPUs{_shown()}. Lower one of them; over several machines, say --executor "
            "ray."
        )
    taken = gpus[: each * config.data_parallel]  # vLLM takes the first ones
    free, total = min(taken, key=lambda gpu: gpu[0] / gpu[1])
    asked = config.gpu_memory or _SHARE
    if asked * total > free:
        most = int(100 * free / total) / 100
        lower = f"Say --gpu-memory {most} at most, or end" if most else "End"
        raise UserError(
            f"The server would take {asked * total / _GIB:.1f} GiB of a GPU (gpu_memory: {asked} of "
            f"{total / _GIB:.1f}), and {free / _GIB:.1f} GiB are free. {lower} what else runs there, or choose "
            "others by CUDA_VISIBLE_DEVICES."
        )
    weights, share = bytes_as(folder, config.dtype) / each, asked * min(total for _, total in taken)
    if weights > share:
        raise UserError(
            f"The weights take {weights / _GIB:.1f} GiB a GPU, and the server may have {share / _GIB:.1f} "
            "(gpu_memory). Raise --gpu-memory or --tensor-parallel, or serve a quantised model."
        )


def _shown() -> str:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if shown is None else f" to show (CUDA_VISIBLE_DEVICES is {shown!r})"


def _gpu_memory() -> list[tuple[float, float]]:
    """(free, total) bytes of each NVIDIA GPU that CUDA_VISIBLE_DEVICES names, in its order; unset, of all."""
    if shutil.which("nvidia-smi") is None:
        return []
    fields = "--query-gpu=index,uuid,memory.free,memory.total"
    command = ["nvidia-smi", fields, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        rows = [line.split(", ") for line in done.stdout.strip().splitlines()]
        gpus = [(index, uuid, (float(free) * 2**20, float(total) * 2**20)) for index, uuid, free, total in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return [memory for _, _, memory in gpus]
    found = []
    for name in map(str.strip, shown.split(",")):
        whole = name.startswith("GPU-")  # the beginning of a UUID is enough
        memory = next((m for index, uuid, m in gpus if name == index or (whole and uuid.startswith(name))), None)
        if memory is None:  # CUDA stops there too; a part of a GPU (MIG) is not listed
            break
        found.append(memory)
    return found
