"""Figures of a decode that answered in stages: its own counts, its rounds, and what the stages cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from workbench.decoding.choosing import Graded
from workbench.decoding.steps import Stepped
from workbench.stats import mcnemar_exact, paired_bootstrap, wilson_interval
from workbench.types import CostToUse, Outcome, Status


def stepped_metrics(
    stepped: Stepped, rounds: Mapping[str, Sequence[Graded]], outcomes: Mapping[str, Outcome]
) -> tuple[dict[str, float], list[str]]:
    """The decode's figures, and sentences; for rounds of revision, each round's accuracy and the change by all.

    A round that was cut off is not right. The change is that of the answer that was chosen against the first one,
    on the same questions, with a paired bootstrap interval and exact McNemar.

    Args:
        stepped: what the decode made.
        rounds: the grades of every round's answer, by request id; none for other decodes.
        outcomes: of the questions, by request id.
    """
    metrics, sentences = dict(stepped.metrics), list(stepped.notes)
    whole = {id: row for id, row in rounds.items() if outcomes[id].score is not None}
    if not whole:
        return metrics, sentences
    right_QR = np.array([[status is Status.CORRECT for status, _ in row] for row in whole.values()])
    for k, column in enumerate(right_QR.T):
        interval = wilson_interval(int(column.sum()), len(column))
        metrics |= {f"round@{k}": interval.value, f"round@{k}_low": interval.low, f"round@{k}_high": interval.high}
    last = [outcomes[id].score == 1 for id in whole]
    first = right_QR[:, 0].tolist()
    mended = sum(b and not a for a, b in zip(first, last, strict=True))
    broken = sum(a and not b for a, b in zip(first, last, strict=True))
    d = paired_bootstrap([float(x) for x in last], [float(x) for x in first]).difference
    p = mcnemar_exact(mended, broken)
    metrics |= {"mended": mended, "broken": broken, "revision_gain": d.value, "revision_gain_p": p}
    sentences.append(
        f"The first answer is right in {sum(first)} of {len(first)}; revising mends {mended}, breaks {broken}: "
        f"{100 * d.value:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f}, paired bootstrap; exact McNemar "
        f"p = {p:.2g})."
    )
    return metrics, sentences


def with_stages(cost: CostToUse, stepped: Stepped, answered: Sequence[str]) -> CostToUse:
    """The cost with the FLOPs of the requests that were really made, in place of those of one long answer."""
    if stepped.flops is None or not answered:
        return cost
    return replace(cost, flops=float(np.mean([stepped.flops[id] for id in answered])))
