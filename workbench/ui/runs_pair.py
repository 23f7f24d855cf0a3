"""Two results beside each other, as HTML: the difference and its test, the table of outcomes, what changed."""

from collections.abc import Collection, Sequence

from workbench.compare import compare
from workbench.report import duration, percent
from workbench.run_views.pairs import Changed, crossed
from workbench.types import Outcome, Result
from workbench.ui.runs_list import part_of, wide, with_interval
from workbench.ui.runs_result import answer_html, difference, text_html
from workbench.ui.shell import html

KINDS = {"all": "all changed", "mended": "wrong → right", "broken": "right → wrong", "other": "another answer"}
"""What the changed questions are chosen by, in words. Of several samples a question, more or fewer are right."""


def pair_html(first_name: str, first: Result, second_name: str, second: Result) -> str:
    """Both scores with intervals, the difference with its interval and p, what could be found, the 2×2 table.

    Raises:
        UserError: they were measured on different tasks or splits, or share no question.
    """
    found = compare(first, second)
    a, b = html(first_name), html(second_name)
    p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    verdict = "The difference is significant" if found.significant else "The difference is within chance"
    rows = [
        [a, html(with_interval(first.score)), *_costs(first)],
        [b, html(with_interval(second.score)), *_costs(second)],
    ]
    heads = ["Result", "Accuracy (95 % interval)", "Questions", "To make", "To use, a question"]
    facts = {
        "difference": f"{difference(found)} points, 95 % interval: {second_name} minus {first_name}",
        "p": f"{p} ({found.test}, two-sided, on {found.shared:,} shared questions). {verdict} at .05.",
        "can be found": f"differences of {100 * found.detectable:.1f} points, four times in five, with so many "
        "questions on which so many differ",
    }
    told = "".join(f"<dt>{name}</dt><dd>{html(value)}</dd>" for name, value in facts.items())
    note = ""
    if first.system == second.system:
        note = "<p>Both are the same system, by its hash.</p>"
    table = wide("Both results", heads, rows, numbers=1)
    return f"{note}{table}<dl>{told}</dl>{_crossed_html(first_name, first, second_name, second)}"


def _costs(result: Result) -> list[str]:
    made, use = result.cost_to_make, result.cost_to_use
    tokens = f"{use.prompt_tokens:,.0f} + {use.completion_tokens:,.0f} tokens, {duration(use.seconds)}"
    return [f"{result.total:,}", html(duration(made.seconds) if made.seconds else "nothing"), html(tokens)]


def _crossed_html(first_name: str, first: Result, second_name: str, second: Result) -> str:
    found = crossed(first, second)
    if found is None:
        pair = compare(first, second)
        same = pair.shared - pair.only_first - pair.only_second
        rows = [
            [html(f"{second_name} better"), str(pair.only_second)],
            ["equal", str(same)],
            [html(f"{first_name} better"), str(pair.only_first)],
        ]
        return wide("Shared questions", ["", "Questions"], rows, caption="Shared questions by score", numbers=1)
    total = sum(found.values())

    def cell(one: bool, other: bool) -> str:
        return f"{found[one, other]:,} ({percent(found[one, other] / total)})" if total else "0"

    heads = ["", f"{second_name}: right", f"{second_name}: not right"]
    rows = [
        [html(f"{first_name}: {'right' if one else 'not right'}"), cell(one, True), cell(one, False)]
        for one in (True, False)
    ]
    return wide("Shared questions", heads, rows, caption=f"The {total:,} shared questions", numbers=1)


def changed_html(
    found: Sequence[Changed], page: int, first_name: str, second_name: str, whole: Collection[int] = ()
) -> str:
    """One page of the questions that changed, both texts side by side.

    Args:
        found: those that are asked for.
        page: from 0.
        first_name, second_name: what the sides are called.
        whole: places of those whose texts are shown whole.
    """
    if not found:
        return "<p>No question changed in this way.</p>"
    part, told = part_of(len(found), page)
    items = [told]
    words = {"mended": "wrong → right", "broken": "right → wrong", "other": "changed"}
    for place, change in enumerate(found[part], start=part.start):
        sides = "".join(
            f"<div><p class='side'><b>{html(name)}</b>: {outcome.status.value}, {answer_html(outcome)}</p>"
            f"{text_html(outcome, place, place in whole)}</div>"
            for name, outcome in ((first_name, change.before), (second_name, change.after))
        )
        items.append(
            f"<article class='{change.kind}'><p><b>{words[change.kind]}</b> "
            f"<code>{html(change.before.id[:200])}</code>, target <code>{_target(change.before)}</code></p>"
            f"<div class='sides'>{sides}</div></article>"
        )
    return "".join(items)


def _target(outcome: Outcome) -> str:
    return html(outcome.target[:1500])
