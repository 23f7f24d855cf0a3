"""The parity page: one file that asks for nothing from outside and works without JavaScript, as the ladder's.

What a model, a data set or a person wrote goes through `visible` and Jinja's escaping: text stays text.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from workbench.files import write_atomic
from workbench.parity.bounds import Config
from workbench.parity.measures import Compared
from workbench.parity.rows import Row
from workbench.report_axes import frame
from workbench.report_html import filled
from workbench.report_parity import cells_of, nats, remarks
from workbench.types import Example

SHOWN = 6  # questions of each system that the page shows
COLOURS = 6  # lines of a chart before colours come again, dashed
THINNEST = 5  # questions that a point of the chart over places stands for, at least
POINTS = 40  # of a line over places, at most


def write_page(
    path: str | Path,
    rows: Sequence[Row],
    config: Config,
    *,
    questions: Mapping[str, Example],
    looks: int,
    command: str = "",
    versions: Mapping[str, str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: where to; replaced in one step.
        rows: the first is the reference.
        config: the bounds.
        questions: what was asked, by id.
        looks: how many Systems have been looked at on this split so far.
        command: what to type to get this page again.
        versions: package → version.
    """
    first = rows[0].measured.result
    page = filled(
        "report_parity.html.j2",
        title=f"Parity with {rows[0].side.name}",
        facts={
            "Task": first.task,
            "Split": first.split,
            "Questions": f"{len(first.outcomes):,}",
            "Reference": rows[0].side.name,
            "Systems looked at": f"{looks:,}" if first.split == "test" else "",
        },
        summary=summary(rows),
        rows=[{**cells_of(row), "row": row, "pieces": re.split(r"(?<=[,/])", row.side.name)} for row in rows],
        charts=_charts(rows),
        key=[row.side.name for row in rows[1:]],
        colours=COLOURS,
        groups=[{"name": r.side.name, "questions": _shown(r, questions)} for r in rows if r.distance is not None],
        remarks=remarks(rows, config, looks),
        command=command,
        versions=versions or {},
    )
    write_atomic(path, page)


def summary(rows: Sequence[Row]) -> str:
    """The verdicts in a line."""
    states = Counter[str](row.verdict.state for row in rows if row.verdict is not None)
    one = {"same": "is the same", "drifted": "has drifted", "undecided": "is undecided"}
    if len(rows) == 2:
        return f"{rows[1].side.name} {one[next(iter(states))]}, held against {rows[0].side.name}."
    several = {"same": "are the same", "drifted": "have drifted", "undecided": "are undecided"}
    parts = [f"{n} {(one if n == 1 else several)[state]}" for state in one if (n := states[state])]
    return f"Of {len(rows) - 1} systems held against {rows[0].side.name}, {', '.join(parts)}."


def _shown(row: Row, questions: Mapping[str, Example]) -> list[dict[str, Any]]:
    """The questions whose reference answer moved most under the system, then those whose text alone changed."""
    assert row.distance is not None

    def moved(q: Compared) -> tuple[float, bool]:
        return q.drift, q.text != q.reference

    most = sorted((q for q in row.distance.questions if any(moved(q))), key=moved, reverse=True)[:SHOWN]
    shown = []
    for q in most:
        before, after = q.reference or "", q.text or ""
        cut = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
        shown.append(
            {
                "question": questions[q.id].input,
                "target": questions[q.id].target,
                "drift": nats(q.drift),
                "shared": before[:cut],
                "before": before[cut:],
                "after": after[cut:],
                "failed": [q.reference is None, q.text is None],
                "equal": before == after and None not in (q.reference, q.text),
                "parts_at": q.parts_at,
            }
        )
    return shown


# --- charts -----------------------------------------------------------------------------------------

Points = list[tuple[float, float]]


def _charts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Drift over an answer's tokens, and how many of them moved how far; without those that have no point."""
    told = [[q.deltas for q in r.distance.questions if q.deltas] if r.distance else [] for r in rows[1:]]
    drawn: list[dict[str, Any]] = [
        {
            "id": "places",
            "title": "Drift over an answer",
            "note": "Mean |Δ log-probability| of the tokens at each place of the reference's answers, over at "
            f"least {THINNEST} questions.",
            "lines": [_by_place(deltas) for deltas in told],
            "axes": {"x": "token of the answer", "y": "nats"},
        },
        {
            "id": "moved",
            "title": "How far the tokens moved",
            "note": "Share of the reference's tokens whose log-probability is off by at least so much.",
            "lines": [_moved(deltas) for deltas in told],
            "axes": {"x": "|Δ|, nats, log scale", "y": "share", "log": True},
        },
    ]
    return [
        chart | {"drawn": [_drawn(chart["lines"], *size, **chart["axes"]) for size in ((960, 340), (328, 300))]}
        for chart in drawn
        if any(chart["lines"])
    ]


def _by_place(questions: Sequence[Sequence[float]]) -> Points:
    """(token of the answer, mean |Δ|), places side by side taken together where there are many."""
    longest = max((len(deltas) for deltas in questions), default=0)
    step = max(1, math.ceil(longest / POINTS))
    points = []
    for start in range(0, longest, step):
        reaching = [deltas[start : start + step] for deltas in questions if len(deltas) > start]
        sizes = [abs(delta) for deltas in reaching for delta in deltas]
        if len(reaching) >= THINNEST:
            points.append((start + (step + 1) / 2, sum(sizes) / len(sizes)))
    return points


def _moved(questions: Sequence[Sequence[float]]) -> Points:
    """(|Δ|, share of the tokens that moved at least so far) at four places of each power of ten."""
    sizes = [abs(delta) for deltas in questions for delta in deltas]
    if not sizes:
        return []
    grid = [10 ** (quarter / 4) for quarter in range(-16, 9)]
    shares = [(at, sum(size >= at for size in sizes) / len(sizes)) for at in grid]
    last = next((i for i, (_, share) in enumerate(shares) if share == 0), len(shares) - 1)
    return shares[: last + 1]


def _drawn(
    lines: Sequence[Points], width: int, height: int, *, x: str, y: str, log: bool = False
) -> dict[str, Any]:
    """Places of everything in a chart, in SVG units; the vertical axis begins at 0."""
    every = [point for points in lines for point in points]
    across = math.log10 if log else float
    low, high = min(across(px) for px, _ in every), max(across(px) for px, _ in every)
    high = max(high, low + 1)
    y_ticks = _ticks(1.0 if y == "share" else max(py for _, py in every))
    edges = frame(width, height)
    wide, tall = edges["right"] - edges["left"], edges["bottom"] - edges["top"]

    def place(px: float, py: float) -> tuple[float, float]:
        right = (across(px) - low) / (high - low)
        return edges["left"] + wide * right, edges["top"] + tall * (1 - py / y_ticks[-1])

    if log:
        step = max(1, math.ceil((high - low) / (wide / 60)))
        x_ticks = [10.0**power for power in range(math.floor(high), math.ceil(low) - 1, -step)]
    else:
        step = max(1, math.ceil((high - low) / (wide / 60)))
        x_ticks = [float(at) for at in range(math.ceil(low), math.floor(high) + 1, step)]
    return {
        **edges,
        "x": x,
        "y": y,
        "x_ticks": [{"x": place(at, 0)[0], "text": f"{at:g}"} for at in x_ticks],
        "y_ticks": [
            {"y": place(10**low, at)[1], "text": f"{100 * at:.0f} %" if y == "share" else f"{at:g}"}
            for at in y_ticks
        ],
        "lines": [
            "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in (place(*point) for point in points))
            if points
            else ""
            for points in lines
        ],
    }


def _ticks(top: float) -> list[float]:
    """Round numbers from 0 to `top` or just above it, at most six."""
    if top <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(lead * power for lead in (1, 2, 5, 10) if 5 * lead * power >= top)
    return [float(f"{step * i:.6g}") for i in range(math.ceil(top / step - 1e-9) + 1)]
