"""The list of runs as HTML, and the tables that this pane is made of."""

from collections.abc import Sequence
from typing import Any

from workbench.report import percent, span
from workbench.run_views.listing import Line
from workbench.types import Interval
from workbench.ui.shell import html, line, query

PER_PAGE = 25

MARKS = {"running": "▶", "done": "✓", "interrupted": "◼", "failed": "✕"}
"""A sign before the state's name, which says the same to whoever sees no colours."""


def with_interval(score: Interval) -> str:
    """A score as it is always shown: "35.7 % (16.3 – 61.2)"."""
    return f"{percent(score.value)} ({span(score)})"


def wide(
    label: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", numbers: int = 99
) -> str:
    """A table that scrolls inside its box where it is wider than the page.

    Args:
        label: names it for whoever cannot see it.
        heads: the columns'.
        rows: cells that are HTML already; the first of each names the row.
        caption: above it, where there is more to say than the label.
        numbers: columns from this one on are numbers.
    """

    def css(place: int) -> str:
        return " class='number'" if place >= numbers else ""

    head = "".join(f"<th scope='col'{css(i)}>{html(text)}</th>" for i, text in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{css(i)}>{cell}</td>" if i else f"<th scope='row'>{cell}</th>" for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{html(caption or label)}</caption>"
    return (
        f"<div class='wide' role='region' tabindex='0' aria-label='{html(label)}'>"
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def state_html(state: str) -> str:
    """A state in words, with its sign."""
    sign = f"<span aria-hidden='true'>{MARKS.get(state, '?')}</span>"
    return f"<span class='state {html(state)}'>{sign} {html(state)}</span>"


def page_of(count: int, page: Any) -> int:
    """The page's number, 0 for the first, brought into what there is."""
    return min(max(page if isinstance(page, int) else 0, 0), max(count - 1, 0) // PER_PAGE)


def part_of(count: int, page: int) -> tuple[slice, str]:
    """What stands on one page of a list of questions, and the line above it that says so."""
    start = page_of(count, page) * PER_PAGE
    end = min(start + PER_PAGE, count)
    return slice(start, end), f"<p>{start + 1} – {end} of {count:,}</p>"


def list_html(lines: Sequence[Line], page: int, of_all: int) -> str:
    """One page of the list: each run is a link that opens it.

    Args:
        lines: the runs that are asked for.
        page: from 0.
        of_all: how many runs there are.
    """
    if not of_all:
        return line("There are no runs yet. `workbench quickstart` makes the first.")
    if not lines:
        return line(f"None of the {of_all:,} runs is like that.")
    start = page_of(len(lines), page) * PER_PAGE
    shown = lines[start : start + PER_PAGE]
    rows = []
    for one in shown:
        href = html(query("runs", {"run": one.id}))
        link = f"<a href='{href}' data-act='open' data-run='{html(one.id)}'>{html(one.id)}</a>"
        made = one.created[:16].replace("T", " ")
        rows.append([link, state_html(one.state), html(_score(one)), html(one.recipe), html(made)])
    more = "" if len(lines) == of_all else f" that match, of {of_all:,} in all"
    there = f"Runs {start + 1} – {start + len(shown)} of {len(lines):,}{more}"
    caption = f"{there}, latest first; scores with 95 % intervals"
    return wide("Runs", ["Run", "State", "Score", "Recipe", "Made (UTC)"], rows, caption=caption)


def left_out_html(out: dict[str, str]) -> str:
    """Which folders hold no readable run, and why; nothing where there are none."""
    if not out:
        return ""
    items = "".join(
        f"<li><code>{html(name)}</code>: {html(why[:500])}</li>" for name, why in list(out.items())[:50]
    )
    return f"<details><summary>{len(out):,} left out: no readable run</summary><ul>{items}</ul></details>"


def _score(one: Line) -> str:
    if one.score is not None:
        return with_interval(one.score)
    rungs = len(one.rungs)
    return one.problem or (f"{rungs} {'rung' if rungs == 1 else 'rungs'}" if rungs else "")
