"""What went wrong while a model was trained, in words for its card."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.runs import RunFolder

TROUBLES = ("rollback", "halved")  # events of metrics.jsonl


def trouble(run: RunFolder) -> str:
    """A sentence on roll-backs and on memory that ran out, from metrics.jsonl, by rounds where there are."""
    by_round: dict[int | None, list[dict[str, Any]]] = {}
    for line in run.metrics():
        if line.get("event") in TROUBLES:
            by_round.setdefault(line.get("round"), []).append(line)
    if not by_round:
        return "The training neither diverged nor ran out of memory."
    return "\n".join(f"Round {n}: {_told(found)}" if n else _told(found) for n, found in by_round.items())


def _told(lines: Sequence[Mapping[str, Any]]) -> str:
    back = [line for line in lines if line["event"] == "rollback"]
    halved = [line for line in lines if line["event"] == "halved"]
    told = []
    if back:
        each = "; ".join(f"update {line.get('step')}: {line.get('reason', 'no reason noted')}" for line in back)
        factor = back[-1].get("rate_factor")
        told.append(
            f"The training diverged {_times(len(back))} and went back to its last whole checkpoint ({each})"
            + (f"; it ended at {factor:g} of the learning rate above." if factor is not None else ".")
        )
    if halved:
        told.append(
            f"Memory ran out {_times(len(halved))}: micro_batch went down to {halved[-1].get('micro_batch')}, "
            "batch_size stayed."
        )
    return "\n".join(told)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
