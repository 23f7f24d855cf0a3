"""What a recipe that was started says, as a terminal would be left with it."""

import os
import re

from workbench.jobs import Job

_TAIL = 64_000  # bytes of a log that are looked at
_SECRETS = ("WORKBENCH_API_KEY", "HF_TOKEN")
_CODES = re.compile(r"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")  # of a terminal


def log_tail(job: Job, lines: int = 200) -> str:
    """The last lines of what a job says, as a terminal would be left with: no colours, one line a progress bar."""
    try:
        with (job.folder / "log").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            data = file.read()
    except FileNotFoundError:
        return ""
    if size > _TAIL:
        data = re.split(rb"[\r\n]+", data, maxsplit=1)[-1]
    text = _CODES.sub("", data.decode("utf-8", errors="replace"))
    for name in _SECRETS:
        if len(secret := os.environ.get(name, "")) > 3:
            text = text.replace(secret, f"⟨{name}⟩")
    kept = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\r\n").split("\n")]
    return "\n".join(kept[-lines:])
