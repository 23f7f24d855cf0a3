"""What a ladder says at its end: the table for the terminal, and one line of advice.

A rung is one System under a name, measured on the same questions as the others. `report_html.py` writes the
same rungs as a page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from workbench.compare import Comparison, compare_to_baseline, shared
from workbench.report_forgetting import forgetting_cell, forgetting_remarks, has_forgetting
from workbench.stats import minimum_detectable_effect
from workbench.types import CostToMake, CostToUse, Interval, Result, Status


@dataclass(frozen=True)
class Rung:
    """One row.

    Attributes:
        name: what the row is called, as "few-shot kNN".
        result: the System, measured.
        one_sample: for a vote, the accuracy of one sample of the same System.
    """

    name: str
    result: Result
    one_sample: Interval | None = None


def table(rungs: Sequence[Rung], looks: int) -> str:
    """The rungs as plain text: accuracy and what became of the answers, then cost, then what to know.

    Args:
        rungs: the first is the baseline that the others are tested against.
        looks: how many Systems have been looked at on this split so far.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    with_f1 = all("macro_f1" in dict(rung.result.metrics) for rung in rungs)
    with_forgetting = has_forgetting([rung.result for rung in rungs])
    with_artifact = any(map(artifact, rungs))
    accuracy = Table(box=SIMPLE_HEAD, pad_edge=False)
    accuracy.add_column("rung", min_width=12)
    more = [*(["macro F1"] if with_f1 else []), *(["forgetting"] if with_forgetting else [])]
    for name in ("accuracy", "95 % interval", "one sample", "p", *more):
        accuracy.add_column(name, justify="right", no_wrap=True)
    for status in Status:
        accuracy.add_column(status.value, justify="right", no_wrap=True)
    cost = Table(box=SIMPLE_HEAD, pad_edge=False)
    cost.add_column("rung", min_width=12)
    made = ("to make", "trained", *(["artifact"] if with_artifact else []), "tokens", "FLOPs", "Wh")
    for name in (*made, "to use: a question", "tokens", "FLOPs", "system"):
        cost.add_column(name, justify="right", no_wrap=True)
    for rung, comparison in zip(rungs, against_first(rungs), strict=True):
        result, make, use = rung.result, rung.result.cost_to_make, rung.result.cost_to_use
        change, interval = forgetting_cell(result)
        accuracy.add_row(
            rung.name,
            percent(result.score.value),
            span(result.score),
            f"{percent(rung.one_sample.value)} ({span(rung.one_sample)})" if rung.one_sample else "",
            p_value(comparison),
            *([f"{f1[0]} ({f1[1]})" if (f1 := f1_cell(result))[1] else f1[0]] if with_f1 else []),
            *([f"{change} ({interval})" if interval else change] if with_forgetting else []),
            *(str(n) for n in counts(result).values()),
        )
        cost.add_row(
            rung.name,
            duration(make.seconds) if make != CostToMake() else "nothing",
            f"{make.parameters:,}" if make.parameters else "",
            *([artifact(rung)] if with_artifact else []),
            quantity(make.tokens) if make.tokens else "",
            quantity(make.flops) if make.flops else "",
            f"{make.watt_hours:.3g}" if make.watt_hours else "",
            duration(use.seconds),
            f"{use.prompt_tokens:,.0f} + {use.completion_tokens:,.0f}",
            quantity(use.flops),
            result.system,
        )
    out = StringIO()
    # Wide enough that nothing is cut; names are shown as they are, never as rich's markup.
    console = Console(file=out, width=200, markup=False, emoji=False, highlight=False, color_system=None)
    console.print(accuracy)
    console.print(cost)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([*(line for line in lines if line), "", *remarks(rungs, looks)]) + "\n"


def remarks(rungs: Sequence[Rung], looks: int) -> list[str]:
    """What a reader of the table must know, one sentence or two each."""
    first = rungs[0].result
    found = [c for c in against_first(rungs) if c is not None]
    detectable = max((c.detectable for c in found), default=minimum_detectable_effect(first.total))
    systems = "system has" if looks == 1 else "systems have"
    out = [
        f"{len(first.outcomes)} questions of {first.task}, split {first.split}; "
        f"{looks} {systems} been looked at on it.",
        f"Differences of {100 * detectable:.1f} points are found four times in five, smaller ones less often.",
        "Accuracy counts wrong, unparsable and truncated answers as misses; failed requests (error) are left out.",
    ]
    if found:
        tests = " and ".join(sorted({c.test for c in found}))
        out.append(f"p: against {rungs[0].name} on the same questions, {tests}, Holm's correction.")
    majority = dict(first.metrics).get("majority_class")
    if majority is not None:
        out.append(f"Always answering the most frequent label would score {percent(majority)}.")
    out += forgetting_remarks([(rung.name, rung.result) for rung in rungs])
    sources: dict[str, list[str]] = {}
    for rung in rungs:
        if rung.result.cost_to_make.watt_hours:
            sources.setdefault(rung.result.cost_to_make.energy_source, []).append(rung.name)
    out += [f"Energy of {', '.join(names)}: {source}." for source, names in sources.items()]
    out += [f"{rung.name}: {note}" for rung in rungs for note in rung.result.notes]
    return out


def advice(rungs: Sequence[Rung]) -> str:
    """The cheapest System to use that is not significantly worse than the best one, in one line.

    Worse is a paired test at .05 with Holm's correction over the comparisons with the best. Cheap is FLOPs a
    question, tokens where some System's FLOPs are unknown; ties go to what cost less time to make.
    """
    measured = [rung for rung in rungs if rung.result.total]
    if not measured:
        return "No system has answered a question yet."
    costs, unit = costs_to_use(measured)
    cost = {id(rung): value for rung, value in zip(measured, costs, strict=True)}

    def dearness(rung: Rung) -> tuple[float, float]:
        return cost[id(rung)], rung.result.cost_to_make.seconds

    best = min(measured, key=lambda rung: (-rung.result.score.value, *dearness(rung)))
    others = [rung for rung in measured if rung is not best]
    found = {
        id(rung): comparison
        for rung, comparison in zip(others, against_first([best, *others])[1:], strict=True)
        if comparison is not None
    }
    close = [rung for rung in others if id(rung) in found and not _worse(found[id(rung)])]
    chosen = min([best, *close], key=dearness)

    make = chosen.result.cost_to_make
    making = f"It took {duration(make.seconds)} to make." if make.seconds else "It cost nothing to make."
    at = f"{percent(chosen.result.score.value)} for {amount(cost[id(chosen)], unit)} a question"
    if chosen is not best:
        comparison = found[id(chosen)]
        times = cost[id(best)] / cost[id(chosen)] if cost[id(chosen)] else math.inf
        than = f"{ratio(times)} cheaper to use than" if times > 1.005 else "as cheap to use as"
        lead = (
            f"whose lead of {-100 * comparison.difference.value:.1f} points is within chance"
            if comparison.difference.value < 0
            else "which is no better"
        )
        return (
            f"Use {chosen.name}: {at}, {than} the best, {best.name} ({percent(best.result.score.value)}), "
            f"{lead} on these {comparison.shared} questions (p = {p_value(comparison)}). {making}"
        )
    if not others:
        return f"Only {best.name} has been measured: {at}. {making}"
    cheaper = [rung for rung in others if dearness(rung) < dearness(best)]
    why = "every cheaper one is significantly worse" if cheaper else "none is cheaper to use"
    return f"Use {best.name}: the best system, {at}; {why}. {making}"


def _worse(than_best: Comparison) -> bool:
    return than_best.significant and than_best.difference.value < 0


def against_first(rungs: Sequence[Rung]) -> list[Comparison | None]:
    """Each rung compared with the first; None for the first itself and where no question is shared."""
    first = rungs[0].result
    able = [i for i, rung in enumerate(rungs) if i and shared(first, rung.result)]
    found = compare_to_baseline(first, [rungs[i].result for i in able])
    by_place = dict(zip(able, found, strict=True))
    return [by_place.get(i) for i in range(len(rungs))]


def costs_to_use(rungs: Sequence[Rung]) -> tuple[list[float], str]:
    """One number a rung and its unit: FLOPs a question where all are known, else tokens."""
    uses: list[CostToUse] = [rung.result.cost_to_use for rung in rungs]
    flops = [use.flops for use in uses if use.flops is not None]
    if len(flops) == len(uses):
        return flops, "FLOPs"
    return [use.prompt_tokens + use.completion_tokens for use in uses], "tokens"


def f1_cell(result: Result) -> tuple[str, str]:
    """Macro F1 and its interval, as a table shows them; a result of an earlier version has no interval."""
    metrics = dict(result.metrics)
    if "macro_f1" not in metrics:
        return "", ""
    low, high = metrics.get("macro_f1_low"), metrics.get("macro_f1_high")
    return f"{metrics['macro_f1']:.3f}", "" if low is None or high is None else f"{low:.3f} – {high:.3f}"


def artifact(rung: Rung) -> str:
    """Size of the weights that a tuning method left, as "4.89 MB"; empty where it left none."""
    size = dict(rung.result.metrics).get("artifact_bytes")
    return amount(size, "B") if size else ""


def counts(result: Result) -> dict[str, int]:
    """How many answers came to each of the five ends, all five named."""
    return {status.value: dict(result.counts).get(status.value, 0) for status in Status}


# --- numbers as text --------------------------------------------------------------------------------


def percent(share: float) -> str:
    """0.613 → "61.3 %"."""
    return f"{100 * share:.1f} %"


def span(interval: Interval) -> str:
    """The interval's ends in percent: "55.2 – 67.1"."""
    return f"{100 * interval.low:.1f} – {100 * interval.high:.1f}"


def with_span(interval: Mapping[str, Any]) -> str:
    """An interval, as JSON data, around a number that is no share: "0.412 (0.398 – 0.431)"."""
    return f"{interval['value']:.3f} ({interval['low']:.3f} – {interval['high']:.3f})"


def p_value(comparison: Comparison | None) -> str:
    """The corrected p-value; empty where nothing was compared."""
    if comparison is None:
        return ""
    return "<0.001" if comparison.adjusted_p < 0.001 else f"{comparison.adjusted_p:.3f}"


def quantity(value: float | None) -> str:
    """Three digits and an SI prefix: 41,200,000,000 → "41.2 G"; None (unknown) → "?"."""
    if value is None:
        return "?"
    for scale, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale * 0.9995:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g}"


def amount(value: float | None, unit: str) -> str:
    """A quantity with its unit: "41.2 GFLOPs", "4.89 MB", "876 tokens"."""
    text = quantity(value)
    return f"{text}{unit}" if text[-1].isalpha() and unit in ("FLOPs", "B") else f"{text} {unit}"


def duration(seconds: float) -> str:
    """0.8 → "0.8 s", 200 → "3 min 20 s", 7500 → "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def ratio(times: float) -> str:
    """16.2 → "16×", 1.34 → "1.3×"."""
    return f"{times:.0f}×" if times >= 9.95 else f"{times:.1f}×"
