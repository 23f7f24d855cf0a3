"""What one run measured, as HTML: the rungs in one table, accuracy against cost, curves, questions by outcome."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from workbench.compare import Comparison
from workbench.errors import UserError
from workbench.report import Rung, advice, against_first, amount, counts, duration, quantity, remarks
from workbench.report_curves import SIZES, Chart, drawing
from workbench.report_html import cost_charts, filled, rows_of
from workbench.report_pool import charts, sentences, tables
from workbench.session import one_sample
from workbench.types import CostToMake, Outcome, Result, Status
from workbench.ui.runs_list import part_of, state_html, wide, with_interval
from workbench.ui.shell import MAX_TEXT, html, line

OUTCOMES = ["all", *(status.value for status in Status)]

CUT = 1500
"""Characters of a text that are shown before someone asks for the rest."""


def head_html(id: str, recipe: str, state: str, created: str, folder: str, problems: Sequence[str]) -> str:
    """Which run this is, how it is, where its files lie, and what could not be read."""
    when = html(created[:16].replace("T", " "))
    facts = f"{state_html(state)} · recipe <code>{html(recipe)}</code> · made {when} UTC"
    lines = [
        f"<h2 tabindex='-1'>{html(id)}</h2>",
        f"<p>{facts}</p>",
        f"<p>Folder: <code>{html(folder)}</code></p>",
    ]
    return "".join([*lines, *(line(problem, problem=True) for problem in problems)])


def rungs_of(results: Mapping[str, Result]) -> list[Rung]:
    """A ladder's rungs with their names; none of a run that is no ladder."""
    return [Rung(name, result, one_sample(result)) for name, result in results.items() if name != "result"]


def rungs_html(rungs: Sequence[Rung], looks: int) -> str:
    """The rungs with intervals, paired tests against the first, and both costs; nothing where there are none.

    Args:
        rungs: the first is the baseline.
        looks: Systems that have been looked at on the split.
    """
    if not rungs:
        return ""
    rows, baseline = rows_of(rungs), rungs[0].name
    with_f1 = all(row["f1"][0] for row in rows)
    cells = []
    for row, comparison in zip(rows, against_first(rungs), strict=True):
        p = f"<b>{html(row['p'])}</b>" if row["significant"] else html(row["p"])
        sample = html(f"{row['one_sample']} ({row['one_sample_interval']})") if row["one_sample"] else ""
        cells.append(
            [
                f"{html(row['name'])}<br><code>{html(row['system'])}</code>",
                f"<b>{html(row['accuracy'])}</b> ({html(row['interval'])})",
                html(difference(comparison)),
                p,
                sample,
                *([html(f"{row['f1'][0]} ({row['f1'][1]})")] if with_f1 else []),
                "<br>".join(map(html, [row["make"], *row["make_parts"]])),
                "<br>".join(map(html, [row["use"], *row["use_parts"]])),
                *(str(number) for number in row["counts"].values()),
            ]
        )
    heads = ["Rung", "Accuracy (95 % interval)", f"Above {baseline}, points", "p", "One sample"]
    heads += [*(["Macro F1"] if with_f1 else []), "To make", "To use, a question", *OUTCOMES[1:]]
    notes = "".join(f"<li>{html(note)}</li>" for note in remarks(rungs, looks))
    table = wide(
        "Rungs", heads, cells, caption=f"Rungs, tested against {baseline} on the same questions", numbers=1
    )
    return f"<h3>Rungs</h3><p>{html(advice(rungs))}</p>{table}<ul class='notes'>{notes}</ul>"


def difference(comparison: Comparison | None) -> str:
    """How far one is above another, in points with the interval; nothing where nothing was compared."""
    if comparison is None:
        return ""
    d = comparison.difference
    return f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})"


def cost_html(rungs: Sequence[Rung]) -> str:
    """Accuracy against cost with the frontier; nothing where fewer than two rungs can be drawn."""
    drawn = cost_charts(rungs) if len(rungs) > 1 else []
    if not drawn:
        return ""
    return f"<h3>Accuracy against cost to use</h3><figure>{filled('report_cost.j2', charts=drawn)}</figure>"


def pool_html(found: Any, scorer: str) -> str:
    """pass@k and the other curves of a pool of samples, as curves.json has them, with their values as a table.

    Raises:
        UserError: the file holds no curves.
    """
    if not _has_curves(found):
        raise UserError("curves.json is damaged: its curves are not shares for each number of samples.")
    chart, table = charts(found, scorer)[0], tables(found, scorer)[0]
    drawn = "".join(chart_html(chart, kind, size, "runs-pool") for kind, size in SIZES.items())
    rows = [[html(cell) for cell in row] for row in table.rows]
    told = wide("Curves", table.heads, rows, caption=table.caption, numbers=1)
    notes = "".join(f"<li>{html(note)}</li>" for note in sentences(found, scorer))
    figure = f"{legend(chart)}<figure>{drawn}</figure>{line(chart.caption)}"
    return f"<h3>{html(chart.heading)}</h3>{figure}{told}<ul class='notes'>{notes}</ul>"


def _has_curves(found: Any) -> bool:
    n = found.get("n") if isinstance(found, dict) else None
    if not isinstance(n, int) or not 1 <= n <= 100_000:
        return False
    rows = [curve[part] for curve in found["curves"].values() for part in ("value", "low", "high")]
    return bool(rows) and all(len(row) == n and all(0 <= share <= 1 for share in row) for row in rows)


def chart_html(chart: Chart, kind: str, size: tuple[int, int], name: str, told: str = "") -> str:
    """A chart as SVG with its name.

    Args:
        chart: what is drawn.
        kind: of `SIZES`: `broad` is not shown on narrow screens, `narrow` on broad ones; another is always shown.
        size: width and height in the SVG's units.
        name: begins its element's id.
        told: what it shows, for whoever cannot see it; by default its heading and axes.
    """
    drawn = {"kind": kind, **drawing(chart, *size)}
    return filled("report_lines.j2", c=drawn, name=name, told=told or f"{chart.heading}: {chart.y} by {chart.x}")


def legend(chart: Chart) -> str:
    """Which line is which."""
    items = "".join(
        f"<li><svg viewBox='0 0 16 8' aria-hidden='true'><path class='line s{one.colour}"
        f"{' dashed' if one.dashed else ''}' d='M0 4H16'/></svg>{html(one.name)}</li>"
        for one in chart.lines
    )
    return f"<ul class='legend'>{items}</ul>"


def result_html(result: Result, name: str) -> str:
    """Accuracy with its interval, the five outcomes counted, both costs, and the notes, under its name."""
    make, use, score = result.cost_to_make, result.cost_to_use, result.score
    made = "nothing"
    if make != CostToMake():
        parts = [duration(make.seconds)]
        parts += [f"{quantity(make.tokens)} tokens"] if make.tokens else []
        parts += [amount(make.flops, "FLOPs")] if make.flops else []
        parts += [f"{make.peak_memory_bytes / 2**30:.1f} GiB at most"] if make.peak_memory_bytes else []
        parts += [f"{make.watt_hours:.3g} Wh ({make.energy_source})"] if make.watt_hours else []
        made = ", ".join(parts)
    used = [f"{use.prompt_tokens:,.0f} + {use.completion_tokens:,.0f} tokens"]
    used += [amount(use.flops, "FLOPs")] if use.flops is not None else ["FLOPs not known"]
    facts = {
        "accuracy": f"{with_interval(score)}, {100 * score.confidence:.0f} % interval ({score.method})",
        "of": f"{result.total} answered of {len(result.outcomes)} questions: {result.task}, split {result.split}",
        "to make": made,
        "to use, a question": ", ".join([*used, duration(use.seconds)]),
        "system": result.system,
    }
    tiles = "".join(f"<li class='{name}'><b>{number:,}</b> {name}</li>" for name, number in counts(result).items())
    rows = "".join(f"<dt>{name}</dt><dd>{html(value)}</dd>" for name, value in facts.items())
    notes = "".join(line(note) for note in result.notes)
    title = "Result" if name == "result" else f"Result of {name}"
    return f"<h3>{html(title)}</h3><ul class='counts'>{tiles}</ul><dl>{rows}</dl>{notes}"


def select_outcomes(result: Result, which: str) -> list[Outcome]:
    """The questions with this outcome, or all."""
    return [outcome for outcome in result.outcomes if which in ("all", outcome.status.value)]


def questions_html(outcomes: Sequence[Outcome], page: int, whole: Collection[int] = ()) -> str:
    """One page of questions: id, what became of it, target, answer and the text.

    Args:
        outcomes: those that are asked for.
        page: from 0.
        whole: places of those whose texts are shown whole.
    """
    if not outcomes:
        return "<p>No question had this outcome.</p>"
    part, told = part_of(len(outcomes), page)
    items = [told]
    for place, outcome in enumerate(outcomes[part], start=part.start):
        items.append(
            f"<article class='{outcome.status.value}'><p><b>{outcome.status.value}</b> "
            f"<code>{_short(outcome.id)}</code></p>"
            f"<p>target <code>{_short(outcome.target)}</code>, {answer_html(outcome)}</p>"
            f"{text_html(outcome, place, place in whole)}</article>"
        )
    return "".join(items)


def answer_html(outcome: Outcome) -> str:
    """The answer that was found in a text."""
    answer = "<i>none found</i>" if outcome.answer is None else f"<code>{_short(outcome.answer)}</code>"
    of = f" (text of one of {outcome.samples} samples)" if outcome.samples > 1 else ""
    return f"answer {answer}{of}"


def text_html(outcome: Outcome, place: int, whole: bool) -> str:
    """A text as it was generated, its end cut off where it is long, with a button that shows the rest."""
    text = outcome.text
    if not text:
        return "<p><i>No text.</i></p>"
    if len(text) <= CUT:
        return f"<pre class='exact'>{html(text)}</pre>"
    if whole:
        more = f" … ({len(text) - MAX_TEXT:,} more characters)" if len(text) > MAX_TEXT else ""
        return f"<pre class='exact'>{html(text[:MAX_TEXT])}{more}</pre>"
    button = (
        f"<button type='button' data-act='whole' data-place='{place}'>Show all {len(text):,} characters</button>"
    )
    return f"<pre class='exact'>{html(text[:CUT])} …</pre>{button}"


def card_html(text: str) -> str:
    """The model card as text."""
    return (
        f"<h3>Model card</h3><pre class='exact'>{html(text)}</pre>"
        if text
        else line("This run made no model card.")
    )


def _short(text: str) -> str:
    return html(text if len(text) <= CUT else f"{text[:CUT]} … ({len(text) - CUT:,} more characters)")
