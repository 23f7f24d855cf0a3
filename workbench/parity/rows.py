"""All of it in rows: what each system said, how far it is from the first, and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.compare import Comparison, compare_to_baseline, shared
from workbench.parity.bounds import Config, Verdict, judge
from workbench.parity.measures import Distance, Measured, distance
from workbench.parity.words import Side


@dataclass(frozen=True)
class Row:
    """One system of the table; the reference has neither distance nor verdict.

    Attributes:
        side: what it is.
        measured: what it said.
        distance: how far it is from the reference.
        comparison: its accuracy against the reference's, with Holm's correction over the table; None where they
            share no answered question.
        verdict: what that amounts to.
    """

    side: Side
    measured: Measured
    distance: Distance | None = None
    comparison: Comparison | None = None
    verdict: Verdict | None = None


def rows_of(sides: Sequence[Side], measured: Sequence[Measured], config: Config) -> list[Row]:
    """Each system beside the first, in their order."""
    first = measured[0]
    able = [i for i in range(1, len(measured)) if shared(first.result, measured[i].result)]
    compared = compare_to_baseline(first.result, [measured[i].result for i in able])
    comparisons = dict(zip(able, compared, strict=True))
    rows = [Row(sides[0], first)]
    for i in range(1, len(measured)):
        found, against = distance(first, measured[i]), comparisons.get(i)
        verdict = judge(found, against, config.of(sides[i].bounds))
        rows.append(Row(sides[i], measured[i], found, against, verdict))
    return rows
