"""What would make a server fail, found before it is started: each refusal names the field and the mend."""

import ipaddress
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
_BESIDE = 2 * _GIB  # of a CPU server's processes, beside weights and cache: 1.6 seen

_UNREAD = ("bitsandbytes", "hqq", "aqlm", "eetq", "quanto", "vptq", "spqr", "higgs", "bitnet")
"""Quantisations that transformers reads and vLLM 0.32 does not."""


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
            whose = next((s for s in read_states() if s.port == port and s.health != "dead"), None)
            by = f" by the server of {whose.model!r} (`workbench serve stop --port {port}`)" if whose else ""
            raise UserError(
                f"port {port} cannot be had at {config.host}{by}: {reason}. Say another --port."
            ) from None
    # It may be starting, and not listen yet.
    starting = next((s for s in read_states() if s.port == port and s.health != "dead"), None)
    if starting is not None:
        raise UserError(
            f"port {port} is that of the server of {starting.model!r}, which is {starting.health}. Say another "
            f"--port, or `workbench serve stop --port {port}`."
        )


def _check_model(folder: Path, config: ServeConfig) -> None:
    told = read_object(folder / "config.json")
    method = (told.get("quantization_config") or {}).get("quant_method")
    # Quantised with bitsandbytes in its older form, which names no method.
    older = any((told.get("quantization_config") or {}).get(k) for k in ("load_in_4bit", "load_in_8bit"))
    if method in _UNREAD or (method is None and older):
        raise UserError(
            f"The model in {str(folder)!r} is quantised with {method or 'bitsandbytes'} (config.json: "
            "quantization_config), which vLLM 0.32 cannot read. Use --engine hf, or serve one in GPTQ, AWQ or "
            "compressed-tensors (`workbench quantize --help`)."
        )
    text = told.get("text_config") or told
    _check_heads(text, config)
    _check_length(text, config)


def _check_heads(told: dict[str, Any], config: ServeConfig) -> None:
    heads, layers = told.get("num_attention_heads"), told.get("num_hidden_layers")
    if isinstance(heads, int) and heads % config.tensor_parallel:
        raise UserError(
            f"tensor_parallel is {config.tensor_parallel}, which does not divide the model's {heads} attention "
            "heads."
        )
    if isinstance(layers, int) and config.pipeline_parallel > layers:
        raise UserError(f"pipeline_parallel is {config.pipeline_parallel}; the model has {layers} layers.")


def _check_length(told: dict[str, Any], config: ServeConfig) -> None:
    longest = told.get("max_position_embeddings")
    scaling = told.get("rope_scaling") or told.get("rope_parameters") or {}
    factor = scaling.get("factor", 1) if isinstance(scaling, dict) else 1
    asked = config.max_model_len
    if isinstance(longest, int) and asked is not None and asked > longest * max(1, factor or 1):
        raise UserError(f"max_model_len is {asked}; the model takes {longest} tokens (config.json).")


def cache_bytes_per_token(told: dict[str, Any], dtype: str) -> int | None:
    """Bytes of keys and values of one token; None where the config does not say all of it."""
    text = told.get("text_config") or told
    layers, heads, hidden = (text.get(k) for k in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int) and heads):
        return None
    kv_heads = text.get("num_key_value_heads") or heads
    width = text.get("head_dim") or hidden // heads
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
            f"machine has {len(gpus)} GPUs. Lower one of them; over several machines, say --executor ray."
        )
    free, total = min(gpus)
    share = (config.gpu_memory or 0.9) * total
    weights = bytes_as(folder, config.dtype) / each
    if share > free:
        raise UserError(
            f"The server would take {share / _GIB:.1f} GiB of a GPU (gpu_memory: {config.gpu_memory or 0.9} of "
            f"{total / _GIB:.1f}), and {free / _GIB:.1f} GiB are free. Say --gpu-memory "
            f"{int(100 * free / total) / 100} at most, or end what else runs there."
        )
    if weights > share:
        raise UserError(
            f"The weights take {weights / _GIB:.1f} GiB a GPU, and the server may have {share / _GIB:.1f} "
            "(gpu_memory). Raise --gpu-memory or --tensor-parallel, or serve a quantised model."
        )


def _gpu_memory() -> list[tuple[float, float]]:
    """(free, total) bytes of each NVIDIA GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        rows = [line.split(",") for line in done.stdout.strip().splitlines()]
        return [(float(free) * 2**20, float(total) * 2**20) for free, total in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
