"""What went wrong while a model was trained, in words for its card."""

from workbench.runs import RunFolder


def trouble(run: RunFolder) -> str:
    """A sentence on roll-backs and on memory that ran out, from the run's metrics.jsonl."""
    lines = run.metrics()
    back = [line for line in lines if line.get("event") == "rollback"]
    halved = [line for line in lines if line.get("event") == "halved"]
    if not back and not halved:
        return "The training neither diverged nor ran out of memory."
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
