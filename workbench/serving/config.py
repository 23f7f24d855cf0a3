"""What `workbench serve` is told, and the server's command line and environment that follow from it."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from workbench.errors import UserError, check_range
from workbench.models import EMBEDDED
from workbench.server_state import LOOPBACK
from workbench.serving.interpreter import Build

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM 0.32 takes for --max-lora-rank; a rank between two of them goes by the larger."""

KEY = "WORKBENCH_API_KEY"
MARK = "WORKBENCH_SERVER"

# What `serve` says to vLLM itself, so that what it checked, wrote down and tells to clients is what runs.
_OWN = (
    "model", "served-model-name", "host", "port", "api-key", "generation-config", "dtype", "max-model-len",
    "gpu-memory-utilization", "enforce-eager", "tensor-parallel-size", "pipeline-parallel-size",
    "data-parallel-size", "distributed-executor-backend", "enable-lora", "lora-modules", "lora-target-modules",
    "max-lora-rank", "max-loras", "max-cpu-loras", "enable-prompt-embeds", "trust-remote-code", "uds", "config",
)  # fmt: skip
_REFUSED = {
    "hf-token": "everyone would see it in the list of processes. Set the variable HF_TOKEN",
    "ssl-keyfile": "the server is checked and asked over plain HTTP. Put a proxy before it that speaks TLS",
    "ssl-certfile": "the server is checked and asked over plain HTTP. Put a proxy before it that speaks TLS",
    "headless": "a server without an address answers nothing. Join several machines with Ray: --executor ray",
}
_SHORT = {"-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size", "-dp": "data-parallel-size"}


@dataclass(frozen=True)
class ServeConfig:
    """One vLLM server.

    Attributes:
        model: smollm2-135m-instruct (embedded), a local folder or a Hub id; it is served under this very name.
        revision: of a Hub id.
        adapters: each FOLDER or ALIAS=FOLDER. A LoRA is served as ALIAS-HASH, the hash being that of its content;
            a soft prompt (prompt tuning) goes with each request, and the server only has to take embeddings. By
            default the alias is the folder's name, or its run's where the folder is called `adapter`.
        prompt_embeds: take embeddings as prompts, from users who are trusted only: vLLM loads tensors that they
            send. Switched on by a soft prompt among the adapters.
        host: where it listens. Any other than this machine's own needs a key in the variable WORKBENCH_API_KEY.
        port: by default 8000; `reload` takes the only server that there is, `status` and `stop` all of them.
        python: the interpreter that has vLLM, as .venv-vllm/bin/python; by default this one.
        dtype: of the weights and the sums.
        max_model_len: tokens of a prompt and its answer; by default as many as the model takes.
        gpu_memory: share of a GPU's memory that the server takes; by default vLLM's own.
        kv_cache: GiB of keys and values, on a CPU.
        max_lora_rank: by default the smallest that holds the adapters. Without adapters, saying it lets `reload`
            bring some.
        max_loras: LoRAs in one batch, and on a CPU all that may be loaded before the next start; by default four
            more than there are, for `reload`.
        tensor_parallel: parts that each layer is cut into, one a GPU.
        pipeline_parallel: groups that the layers are parted into.
        data_parallel: copies of the model.
        executor: `mp` for one machine, `ray` for several that Ray has joined; by default vLLM's own choice.
        mode: `auto` compiles on a GPU, and runs eagerly on a CPU, where that starts faster; compiled on a CPU was
            measured to compute the model as well as eager.
        canaries: `full` compares with the engine hf on the CPU, where the model fits beside the server; `self`
            compares the server with itself only.
        vllm_args: anything else for vLLM, in one string: --vllm-args="--max-num-seqs 64".
        timeout: seconds that the start may take.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    model: str = EMBEDDED
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    prompt_embeds: bool = False
    host: str = "127.0.0.1"
    port: int | None = None
    python: Path | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_model_len: int | None = None
    gpu_memory: float | None = None
    kv_cache: int = 2
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = None
    max_loras: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    executor: Literal["mp", "ray"] | None = None
    mode: Literal["auto", "eager", "compiled"] = "auto"
    canaries: Literal["full", "self"] = "full"
    vllm_args: str = ""
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.port is not None:
            check_range("port", self.port, 1, 65535)
        if self.max_model_len is not None:
            check_range("max_model_len", self.max_model_len, 1, 2**31)
        if self.gpu_memory is not None:
            check_range("gpu_memory", self.gpu_memory, 0, 1, open_low=True)
        check_range("kv_cache", self.kv_cache, 1, 2**20)
        if self.max_loras is not None:
            check_range("max_loras", self.max_loras, 1, 1024)
        for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
            check_range(name, getattr(self, name), 1, 4096)
        check_range("timeout", self.timeout, 0, 86400, open_low=True)
        self.further()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK

    def further(self) -> list[str]:
        """The arguments of `vllm_args`.

        Raises:
            UserError: a quote that is not closed, an argument that `serve` sets itself, or one that it refuses.
        """
        try:
            arguments = shlex.split(self.vllm_args)
        except ValueError as error:
            raise UserError(f"vllm_args cannot be read: {error}.") from None
        for argument in arguments:
            name = argument.partition("=")[0]
            own = name.removeprefix("--").removeprefix("no-").replace("_", "-") if name.startswith("--") else ""
            # argparse takes the beginning of a name for the name.
            hit = next((known for known in (*_OWN, *_REFUSED) if own and known.startswith(own)), None)
            if hit in _REFUSED:
                raise UserError(f"vllm_args says {name!r}, which `workbench serve` refuses: {_REFUSED[hit]}.")
            if hit is not None or name in _SHORT:
                flag = _SHORT.get(name) or hit
                raise UserError(
                    f"vllm_args says {name!r}, but `workbench serve` sets {flag!r} itself: use its own flag, "
                    "where there is one (`workbench serve --help`)."
                )
        return arguments

    def unused(self, used: Sequence[str]) -> list[str]:
        """The fields that were given although they are none of `used`."""
        default = ServeConfig()
        return [
            f.name
            for f in fields(self)
            if f.name not in used and getattr(self, f.name) != getattr(default, f.name)
        ]


def api_key() -> str | None:
    """The key that the servers want, from the environment; never from a command line, which others can see."""
    return os.environ.get(KEY, "").strip() or None


def command_line(
    config: ServeConfig,
    build: Build,
    folder: Path,
    adapters: Sequence[tuple[str, Path]],
    rank: int,
    modules: Sequence[str],
    embeds: bool,
) -> list[str]:
    """The server's command.

    Args:
        config: what was asked for.
        build: the interpreter and its vLLM.
        folder: the base's files.
        adapters: (served name, folder) of each LoRA.
        rank: the largest that it takes; 0 for no LoRA.
        modules: that LoRAs may be on; empty for all that vLLM has.
        embeds: whether it takes embeddings.
    """
    command = [str(build.python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder.resolve()), "--served-model-name", config.model]
    command += ["--host", config.host, "--port", str(port_of(config)), "--dtype", config.dtype]
    command += ["--generation-config", "vllm"]  # `auto` would take the model's own sampling settings for defaults
    if config.max_model_len is not None:
        command += ["--max-model-len", str(config.max_model_len)]
    if config.gpu_memory is not None:
        command += ["--gpu-memory-utilization", str(config.gpu_memory)]
    if is_eager(config, build):
        command.append("--enforce-eager")
    if build.kind == "cpu":
        # A prompt in pieces, of a request that has a seed, ends vLLM 0.32 on a CPU ("CPU Generator does not use
        # offset"), and every prompt comes in pieces once enough of them wait.
        command.append("--no-enable-chunked-prefill")
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
        if (size := getattr(config, name)) > 1:
            command += [f"--{name.replace('_', '-')}-size", str(size)]
    if config.executor is not None:
        command += ["--distributed-executor-backend", config.executor]
    if embeds:
        command.append("--enable-prompt-embeds")
    if rank:
        slots = room(config, len(adapters))
        # vLLM 0.32 on a CPU puts what lies in the last slot on the base's requests, in batches where others have a
        # LoRA (`bgmv_shrink` with the index -1): that slot stays empty.
        slots += build.kind == "cpu"
        command += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(slots)]
    if modules:
        command += ["--lora-target-modules", *modules]
    if adapters:
        command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters)]
    return command + config.further()


def environment(config: ServeConfig, build: Build, mark: str, lora: bool) -> dict[str, str]:
    """The server's environment: this one's, with the key in the place where vLLM looks for it."""
    env = {name: value for name, value in os.environ.items() if name not in (KEY, "VLLM_API_KEY")}
    env |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # A folder called `vllm` where the command is typed is not to be taken for the package.
    env["PYTHONSAFEPATH"] = "1"
    # All of its processes carry the mark; the second keeps them from writing their titles over it.
    env |= {MARK: mark, "SPT_NOENV": "1"}
    if key := api_key():
        env["VLLM_API_KEY"] = key
    if lora:
        env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if build.kind == "cpu":
        env["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache)
    return env


def room(config: ServeConfig, adapters: int) -> int:
    """LoRAs that a batch may have, of a server that starts with so many; on a CPU all that it may ever load."""
    return config.max_loras or adapters + 4


def is_eager(config: ServeConfig, build: Build) -> bool:
    """Whether the server runs the model as it is written, and compiles nothing."""
    return config.mode == "eager" or (config.mode == "auto" and build.kind == "cpu")


def port_of(config: ServeConfig) -> int:
    """The port to listen on."""
    return 8000 if config.port is None else config.port
