"""A model before and after each round: its accuracy by way of answering, with paired tests against the first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workbench.compare import Comparison, compare
from workbench.decodes import Greedy, LabelLikelihood, Majority, Sample
from workbench.report import p_value, percent, span
from workbench.stats import holm
from workbench.types import Result, Status, System

ONE = "one sample"


@dataclass(frozen=True)
class Measured:
    """One model under one way of answering, measured.

    `kind` tells the way in words; those of one kind are compared.
    """

    model: str
    kind: str
    result: Result


def ways(system: System, paths: Sample, longest: int) -> dict[str, System]:
    """The System as it decodes by itself, as one sample and as a vote, by the way's name.

    The last two share their samples.

    Args:
        system: its decode is the first way.
        paths: how the others draw.
        longest: tokens of an answer, where `paths` does not say.
    """
    own = {Greedy: "greedy", LabelLikelihood: "likelihood"}.get(type(system.decode), "as set up")
    shared = vars(paths) | {"max_tokens": paths.max_tokens or longest}
    return {
        own: system,
        ONE: replace(system, decode=Sample(**shared)),
        f"vote of {paths.n}": replace(system, decode=Majority(**shared)),
    }


def against_first(rows: Sequence[Measured]) -> list[Comparison | None]:
    """Each row against the first of its kind, None for that one; Holm's correction over all of them.

    Raises:
        UserError: as `compare`.
    """
    first: dict[str, Measured] = {}
    found = [
        None if (before := first.setdefault(row.kind, row)) is row else compare(before.result, row.result)
        for row in rows
    ]
    adjusted = iter(holm([c.p for c in found if c is not None]))
    return [None if c is None else replace(c, adjusted_p=next(adjusted)) for c in found]


def table(rows: Sequence[Measured], looks: int) -> str:
    """The rows as Markdown, which reads as text too, and what a reader must know."""
    lines = [
        "| answer | model | accuracy | 95 % interval | change, points | 95 % interval | p | test | "
        "correct | wrong | unparsable | truncated | error |",
        "| --- " * 13 + "|",
    ]
    compared = against_first(rows)
    order = {kind: place for place, kind in enumerate(dict.fromkeys(row.kind for row in rows))}
    for row, c in sorted(zip(rows, compared, strict=True), key=lambda pair: order[pair[0].kind]):
        score, counts = row.result.score, dict(row.result.counts)
        change = ["", "", "", ""]
        if c is not None:
            d = c.difference
            change = [f"{100 * d.value:+.1f}", f"{100 * d.low:+.1f} to {100 * d.high:+.1f}", p_value(c), c.test]
        cells = [row.kind, row.model, percent(score.value), span(score), *change]
        cells += ["" if row.kind == ONE else str(counts[status.value]) for status in Status]
        lines.append("| " + " | ".join(cells) + " |")
    result = rows[0].result
    systems = "system has" if looks == 1 else "systems have"
    lines += [
        "",
        f"{len(result.outcomes)} questions of {result.task}, split {result.split}; {looks} {systems} been looked "
        "at on it. Changes are against the model before, on the same questions; p with Holm's correction over all "
        "of them. One sample is the mean over a question's samples. Accuracy counts unparsable and truncated "
        "answers as misses.",
    ]
    notes = [f"{row.model}, {row.kind}: {note}" for row in rows for note in row.result.notes if "failed" in note]
    return "\n".join([*lines, *notes])
